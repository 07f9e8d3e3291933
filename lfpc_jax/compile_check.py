r"""Compiles a config's programs for a TPU slice that is not there.

  python -m lfpc_jax.compile_check --config=configs/tiny.py:smoke \
    --config.rl.micro_batches=1 --topology=v5e:2x2

With the real compiler, which comes with `pip install 'jax[tpu]'` on Linux.
Prints for each program whether it fits a device's memory, what needs how
much, the operations by formula, the least time that compute, memory and
network allow, and the collectives. Exit status 2: something does not fit.

--propose finds the smallest slice of the generation, and the mesh, waves and
micro-batches, that a step of training needs, by formula and in seconds;
--confirm compiles what it proposes, and looks on where the compiler refuses:

  python -m lfpc_jax.compile_check --config=configs/stage1.py:7b \
    --topology=v5e --propose

--size=7b takes a published policy's sizes instead of those of
config.policy.path, so that nothing has to be downloaded. Without it, a config
whose path is empty has the sizes that its name ends in, as of stage1.py:7b.
Where waves and micro-batches do not divide over the slice, it is compiled in
the layout that --propose finds there; both are said.
"""

import os
import sys

from absl import flags

from lfpc_jax import config as config_lib

_TOPOLOGY = flags.DEFINE_string(
  "topology",
  None,
  "Generation and chips along each axis, v5e:4x4 if not given; of --propose a "
  "generation, v5e, or one slice of it.",
)
_SLICES = flags.DEFINE_integer("slices", 1, "How many such slices.")
_SIZE = flags.DEFINE_string("size", "", "A published size: 3b, 7b, 32b, 72b.")
_ONLY = flags.DEFINE_string("only", "", "How the program's name begins.")
_PROPOSE = flags.DEFINE_bool(
  "propose", False, "Find the smallest slice of the generation that fits."
)
_CONFIRM = flags.DEFINE_bool(
  "confirm", False, "Compile what --propose finds; takes minutes."
)
_DUMP = flags.DEFINE_string("dump", None, "Folder for the programs' text.")


def run(config, workdir: str | None) -> None:
  """Compiles, prints."""
  del workdir
  from lfpc_jax.ahead import command, proposing
  from lfpc_jax.errors import UserError

  if _CONFIRM.value and not _PROPOSE.value:
    raise UserError("--confirm compiles what --propose finds: give both")
  if _PROPOSE.value:
    fits = proposing.run(
      config,
      _TOPOLOGY.value or "v5e",
      _SIZE.value,
      _CONFIRM.value,
      _SLICES.value,
    )
  else:
    fits = command.run(
      config,
      _TOPOLOGY.value or "v5e:4x4",
      _SLICES.value,
      _SIZE.value,
      _DUMP.value,
      _ONLY.value,
    )
  if not fits:
    sys.exit(2)


if __name__ == "__main__":
  # The TPU compiler is no backend: what must compute here does so on the CPU.
  os.environ["JAX_PLATFORMS"] = "cpu"
  import jax

  jax.config.update("jax_platforms", "cpu")
  sys.exit(config_lib.main(run, workdir_needed=False, stored_as=None))
