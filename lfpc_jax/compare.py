r"""Compares policies that were evaluated on the same questions.

  python -m lfpc_jax.compare --workdirs=runs/a,runs/b --output=page.html

Each of --workdirs is what lfpc_jax.evaluate has filled, or a run's directory
that has it in `evaluation`. Prints the differences to the first one, paired
by question, with 95 % confidence intervals, and writes a page that shows the
rollouts side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

import rich.console

from lfpc_jax import config as config_lib
from lfpc_jax.arguments import Parser
from lfpc_jax.errors import UserError


def compare(
  folders: Sequence[pathlib.Path],
  output: pathlib.Path,
  console: rich.console.Console,
) -> None:
  """Prints the tables and writes the page.

  Args:
    folders: of two or more evaluations.
    output: the page.
    console: where the tables go.

  Raises:
    UserError: the folders cannot be compared.
  """
  # Imported late, so that --help and wrong flags answer at once.
  from lfpc_jax.evaluation import comparison

  if len(folders) < 2:
    raise UserError(
      f"--workdirs names {len(folders)} evaluation: give two or more, as in "
      "--workdirs=runs/a,runs/b"
    )
  found = comparison.load(folders)
  for table in comparison.tables(found):
    console.print(table)
  for note in comparison.notes(found):
    console.print(note, markup=False)
  comparison.write(found, output)
  console.print(f"report: {output}", markup=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = Parser(__doc__)
  parser.add_argument(
    "--workdirs", required=True, help="evaluations, with commas between them"
  )
  parser.add_argument(
    "--output", default="comparison.html", help="the page (%(default)s)"
  )
  arguments = parser.parse_args(argv)
  names = [name for name in arguments.workdirs.split(",") if name]
  with config_lib.plain_errors(arguments.traceback):
    compare(
      [pathlib.Path(name) for name in names],
      pathlib.Path(arguments.output),
      rich.console.Console(),
    )


if __name__ == "__main__":
  main()
