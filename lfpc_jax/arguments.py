"""The command lines of commands that take no config."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from lfpc_jax.failing import visible


class Parser(argparse.ArgumentParser):
  """Says in one line what is wrong with a flag; has `--traceback`."""

  def __init__(self, description: str | None):
    # As it is called: `lfpc-scenes` runs the module too.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    super().__init__(
      prog=f"python -m {spec.name}" if spec else None,
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    self.add_argument(
      "--traceback", action="store_true", help="show where an error came from"
    )

  def error(self, message: str) -> NoReturn:
    """Prints the line and ends the command."""
    told = visible(message)
    print(f"error: {told} (--help lists the flags)", file=sys.stderr)
    sys.exit(1)
