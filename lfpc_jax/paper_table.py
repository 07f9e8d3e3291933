r"""Sets the benchmarks' scores of several evaluations side by side.

  python -m lfpc_jax.paper_table --output=table.md \
    --workdirs=runs/hr_bench_8k,runs/hr_bench_4k,runs/vstar

Each of --workdirs is what lfpc_jax.evaluate has filled with one of
configs/eval_*.py. A row for each policy, by the name in its config; columns as
in the paper: HR-Bench 8K, HR-Bench 4K and V* at each budget, with 95 %
confidence intervals, and seconds per question without and with compiling. Says
below which settings the evaluations of one benchmark do not share.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

import rich.console

from lfpc_jax import config as config_lib
from lfpc_jax import files
from lfpc_jax.arguments import Parser
from lfpc_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = Parser(__doc__)
  parser.add_argument(
    "--workdirs", required=True, help="evaluations, with commas between them"
  )
  parser.add_argument(
    "--score",
    default="rules",
    choices=("rules", "vlmevalkit", "likelihood"),
    help="which of the scores (%(default)s)",
  )
  parser.add_argument(
    "--output",
    default="",
    help="a Markdown file for it; none if empty (%(default)s)",
  )
  arguments = parser.parse_args(argv)
  names = [name for name in arguments.workdirs.split(",") if name]
  with config_lib.plain_errors(arguments.traceback):
    _write(names, arguments.score, arguments.output)


def _write(names: Sequence[str], score: str, output: str) -> None:
  """Prints the table and its notes, and writes them."""
  # Imported late, so that --help and wrong flags answer at once.
  from lfpc_jax.evaluation import paper

  if not names:
    raise UserError("--workdirs names no evaluation: give one or more")
  found = paper.load([pathlib.Path(name) for name in names])
  table, notes = paper.table(found, score), paper.notes(found)
  console = rich.console.Console()
  console.print(table)
  for note in notes:
    console.print(note, markup=False, soft_wrap=True)
  if output:
    text = "\n".join([table.to_markdown(), *(f"- {note}" for note in notes)])
    files.atomic_write(pathlib.Path(output), f"{text}\n".encode())


if __name__ == "__main__":
  main()
