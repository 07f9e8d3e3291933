r"""Trains a policy by reinforcement learning.

  python -m lfpc_jax.train --config=configs/tiny.py:stage1 \
    --workdir=runs/stage1 --config.gap.tokens=16

Interrupted at any moment and started again, it goes on from its last
checkpoint in --workdir. A run that a signal has stopped exits with status 130.
"""

import sys

from lfpc_jax import config as config_lib


def run(config, workdir: str) -> None:
  """Trains to the config's last step."""
  # Imported late, so that --help and wrong flags answer at once.
  from lfpc_jax import parallel
  from lfpc_jax.rl.trainer import Trainer

  with parallel.configured(config.get("mesh")):
    state = Trainer(config, workdir).run()
  if state is None:
    sys.exit(130)  # so that `train && evaluate` does not go on


if __name__ == "__main__":
  # The trainer stores the config, once it knows that the run is this one.
  sys.exit(config_lib.main(run, stored_as=None, many_processes=True))
