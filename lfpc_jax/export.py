r"""Writes a trained policy as published files, for transformers and vLLM.

  python -m lfpc_jax.export --config=runs/stage1/config.json \
    --checkpoint=runs/stage1 --output=exported/stage1

--output gets config.json, the weights as safetensors, and the tokeniser and
processor files of --config.policy.path; adapters are merged into the weights.
It must not exist, or be empty. --checkpoint is a run's directory, one of its
steps, or a directory of published files. --config is the run's own, since it
names the policy and its adapters.

--dtype=bfloat16 halves the files of a policy that was trained in float32; by
default they have the widest precision among the parameters, which loses
nothing.
"""

import sys

from absl import flags

from lfpc_jax import config as config_lib


def define_flags() -> None:
  """Flags of this command alone; --help lists the others too."""
  flags.DEFINE_string("checkpoint", "", "The policy to write.")
  flags.DEFINE_string("output", "", "A directory that is not in use.")
  flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Precision of the files."
  )


def run(config, workdir: str | None) -> None:
  """Reads the parameters, writes the directory, says what is in it."""
  del workdir
  # Imported late, so that --help and wrong flags answer at once.
  import jax
  import jax.numpy as jnp

  from lfpc_jax import agent as agent_lib
  from lfpc_jax.errors import UserError
  from lfpc_jax.models import lora, published

  values = flags.FLAGS
  if not values.output:
    raise UserError("no directory for the model: add --output=exported/NAME")
  published.check_free(values.output)  # before the parameters are read
  agent = agent_lib.make_agent(config, config.gap.full_tokens)
  params = agent_lib.load_params(agent, values.checkpoint)
  dtype = values.dtype or jnp.result_type(*jax.tree.leaves(params)).name
  published.save(
    values.output, agent.policy, params, dtype, source_directory=agent.directory
  )
  own = {name: part for name, part in params.items() if name != lora.PART}
  number = sum(x.size for x in jax.tree.leaves(own))
  merged = ", adapters merged" if lora.PART in params else ""
  print(f"{values.output}: {number:,} parameters in {dtype}{merged}")


if __name__ == "__main__":
  define_flags()
  sys.exit(config_lib.main(run, workdir_needed=False, stored_as=None))
