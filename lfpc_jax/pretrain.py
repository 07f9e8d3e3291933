r"""Makes the miniature policy's starting checkpoint from scratch, supervised.

  python -m lfpc_jax.pretrain --config=configs/tiny.py:pretrain \
    --workdir=runs/pretrain

Writes a directory of published files, --workdir/model, which
--config.policy.path takes. Interrupted and started again, it goes on from
its last multiple of 500 steps.
"""

import pathlib
import sys

from lfpc_jax import config as config_lib
from lfpc_jax import files


def run(config, workdir: str) -> None:
  """Runs both steps and writes the model."""
  from lfpc_jax.pretraining import run as run_lib

  with files.locked(workdir):
    config_lib.write_config(config, workdir)
    run_lib.pretrain(config, pathlib.Path(workdir))


if __name__ == "__main__":
  sys.exit(config_lib.main(run, stored_as=None))
