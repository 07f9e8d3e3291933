r"""Trains a policy by reinforcement learning.

  python -m lfpc_jax.train --config=configs/tiny.py:stage1 \
    --workdir=runs/stage1 --config.gap.tokens=16

Interrupted at any moment and started again, it goes on from its last
checkpoint in --workdir.
"""

from lfpc_jax import config as config_lib


def run(config, workdir: str) -> None:
  """Trains to the config's last step."""
  # Imported late, so that --help and wrong flags answer at once.
  from lfpc_jax.rl.trainer import Trainer

  Trainer(config, workdir).run()


if __name__ == "__main__":
  config_lib.main(run)
