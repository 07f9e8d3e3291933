r"""Finds each example's own global view: offline resolution selection.

  python -m lfpc_jax.select_gap --config=configs/tiny.py:stage1 \
    --workdir=runs/select

The policy to be trained answers every question directly from the original and
from smaller and smaller views; the first budget whose answer diverges is
stored for the example, beside the data, with both answers. Then train with
--config.gap.mode=selected. Prints the histogram of the budgets, the share of
examples that are wrong already on the original or never diverge, and the cost
of 1,000 examples; the tables lie beside the file too. What is wrong already is
kept unless training has --config.gap.wrong=drop. Interrupted and started again,
it goes on.
"""

import pathlib
import sys

from lfpc_jax import config as config_lib


def run(config, workdir: str) -> None:
  """Selects budgets, writes the file, prints tables."""
  # Imported late, so that --help and wrong flags answer at once.
  from lfpc_jax import parallel
  from lfpc_jax.gap_selection import command

  with parallel.configured(config.get("mesh")):
    command.run(config, pathlib.Path(workdir))


if __name__ == "__main__":
  # The command stores the config, once it knows what is in the folder.
  sys.exit(config_lib.main(run, stored_as=None))
