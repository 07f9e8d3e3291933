"""Prints what is in a published data set, and what is wrong with it.

  python -m lfpc_jax.data.check --name=hr_bench_4k --dir=downloads/hr_bench

reads every row and decodes every image. Exit status: 0 if all is well; 1 if a
row is broken or a file cannot be read; 3 if all rows are sound, but not as many
as are published. What is left out on purpose, such as a video, is listed too
and harms nothing.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Mapping, Sequence
import hashlib
import pathlib
import sys

import numpy as np
import rich.console
import rich.table
import rich.text

from lfpc_jax.arguments import Parser
from lfpc_jax.data import images, registry
from lfpc_jax.data import survey as survey_lib
from lfpc_jax.data.sources import rows as rows_lib
from lfpc_jax.data.survey import Survey
from lfpc_jax.errors import UserError

_MOST = 10  # categories and answers that are printed
_MISCOUNTED = 3  # exit status; 2 is what Python gives for a wrong command


def _table(title: str, *columns: str) -> rich.table.Table:
  table = rich.table.Table(title=rich.text.Text(title), title_justify="left")
  for number, column in enumerate(columns):
    table.add_column(column, justify="left" if number == 0 else "right")
  return table


def _add(table: rich.table.Table, *cells: object) -> None:
  """A row of plain text: what a data set says is never markup."""
  table.add_row(*(rich.text.Text(_printable(str(cell))) for cell in cells))


def _printable(text: str) -> str:
  """Without the control characters that would move a terminal's cursor."""
  shown = "".join(c if c.isprintable() else "�" for c in text)
  return shown if len(shown) <= 120 else shown[:117] + "..."


def _counts(
  title: str, name: str, counter: Mapping[object, int], total: int
) -> rich.table.Table:
  table = _table(title, name, "rows", "share")
  pairs = collections.Counter(counter).most_common(_MOST)
  for key, number in pairs:
    _add(table, key, f"{number:,}", f"{100 * number / max(total, 1):.1f} %")
  rest = len(counter) - len(pairs)
  if rest:
    number = sum(counter.values()) - sum(n for _, n in pairs)
    _add(table, f"({rest:,} others)", f"{number:,}", "")
  return table


def tables(found: Survey, show: int = 20) -> list[rich.table.Table]:
  """The tables of a split.

  Args:
    found: what is in it.
    show: faults that are listed; all are counted.
  """
  parts = [_overview(found)]
  parts.append(_counts("Categories", "category", found.categories, found.rows))
  if found.sizes:
    parts.append(_sizes(found))
    parts.append(
      _counts("Treatment of images", "treatment", found.treatments, found.rows)
    )
  kinds = {
    "open questions" if n == 0 else f"{n} options": number
    for n, number in found.options.items()
  }
  parts.append(_counts("Options", "kind", kinds, found.rows))
  if found.letters:
    parts.append(_counts("Right options", "letter", found.letters, found.rows))
  boxes = {f"{n} boxes": number for n, number in found.boxes.items()}
  parts.append(_counts("Boxes", "number", boxes, found.rows))
  parts.append(_counts("Answers", "answer", found.replies, found.rows))
  if found.problems or found.faults:
    parts.append(_wrong(found, show))
  return parts


def _overview(found: Survey) -> rich.table.Table:
  table = _table(f"{found.source.name}, split {found.split}", "what", "number")
  _add(table, "usable rows", f"{found.rows:,}")
  _add(table, "broken rows", f"{found.count(rows_lib.BROKEN):,}")
  _add(table, "rows left out", f"{found.count(rows_lib.LEFT_OUT):,}")
  if found.groups:
    _add(table, "groups of questions", f"{len(found.groups):,}")
  if found.smallest and found.largest:
    _add(table, "smallest image", "{} x {}".format(*found.smallest))
    _add(table, "largest image", "{} x {}".format(*found.largest))
    low, middle, high = np.percentile(found.tokens, (5, 50, 95))
    _add(
      table,
      "visual tokens at full size, 5 / 50 / 95 %",
      f"{low:,.0f} / {middle:,.0f} / {high:,.0f}",
    )
  if found.box_shares:
    low, middle, high = 100 * np.percentile(found.box_shares, (5, 50, 95))
    _add(
      table,
      "smallest box's share of the image, 5 / 50 / 95 %",
      f"{low:.3f} / {middle:.3f} / {high:.3f} %",
    )
  return table


def _sizes(found: Survey) -> rich.table.Table:
  table = _table("Images by size", "megapixels", "images", "")
  most = max(found.sizes.values())
  for name in survey_lib.size_names():
    number = found.sizes[name]
    _add(table, name, f"{number:,}", "█" * round(30 * number / most))
  table.columns[2].justify = "left"
  return table


def _wrong(found: Survey, show: int) -> rich.table.Table:
  table = _table("What is wrong", "where", "kind", "what")
  table.columns[1].justify = table.columns[2].justify = "left"
  for problem in found.problems:
    _add(table, "the split", "warning", problem)
  reasons = collections.Counter(
    fault.reason for fault in found.faults if fault.kind == rows_lib.LEFT_OUT
  )
  for reason, number in reasons.most_common(_MOST):
    _add(table, f"{number:,} rows", rows_lib.LEFT_OUT, reason)
  broken = [f for f in found.faults if f.kind == rows_lib.BROKEN]
  for fault in broken[:show]:
    _add(table, fault.where, fault.kind, fault.reason)
  if len(broken) > show:
    _add(table, f"{len(broken) - show:,} more", rows_lib.BROKEN, "see --show")
  return table


def check_md5(source: rows_lib.Source, root: pathlib.Path) -> list[str]:
  """A line for each file with a published digest that is there."""
  lines = []
  for name, wanted in source.md5.items():
    if (root / name).is_file():
      with (root / name).open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
      same = "as published" if digest == wanted else f"NOT {wanted}"
      lines.append(f"{name}: md5 {digest}, {same}")
  return lines


def add_source_flags(parser: Parser) -> None:
  """Flags of what is read: which data set, from where, with which care."""
  parser.add_argument(
    "--name",
    required=True,
    choices=list(registry.SOURCES),
    help="the data set; 'folder' is one of your own, see docs/data.md",
  )
  parser.add_argument("--dir", required=True, help="the fetched files")
  parser.add_argument(
    "--on_error",
    default="skip",
    choices=rows_lib.ON_ERROR,
    help="what a broken row does (%(default)s)",
  )
  parser.add_argument(
    "--max_pixels",
    type=int,
    default=images.MAX_PIXELS,
    help="a larger image is a broken row (%(default)s)",
  )


def main(arguments: Sequence[str] | None = None) -> int:
  """The command; returns its exit status."""
  from lfpc_jax import config as config_lib

  parser = Parser(__doc__)
  add_source_flags(parser)
  parser.add_argument("--split", help="one split; by default all")
  parser.add_argument(
    "--show", type=int, default=20, help="faults listed (%(default)s)"
  )
  parser.add_argument(
    "--no_images", action="store_true", help="decode no image"
  )
  parser.add_argument(
    "--md5", action="store_true", help="compare files with published digests"
  )
  args = parser.parse_args(arguments)
  with config_lib.plain_errors(args.traceback):
    return _run(args)


def _run(args: argparse.Namespace) -> int:
  console = rich.console.Console()
  source, root = registry.SOURCES[args.name], pathlib.Path(args.dir)
  splits = source.find_splits(root)
  if args.split is not None and args.split not in splits:
    raise UserError(f"--split={args.split}: {root} has {', '.join(splits)}")
  for line in check_md5(source, root) if args.md5 else ():
    console.print(rich.text.Text(line))
  broken, miscounted = 0, False
  for split in [args.split] if args.split else splits:
    ledger = rows_lib.Ledger(args.on_error)
    found = survey_lib.survey(
      source,
      root,
      split,
      ledger,
      decode=not args.no_images,
      max_pixels=args.max_pixels,
    )
    for table in tables(found, args.show):
      console.print(table)
    broken += found.count(rows_lib.BROKEN)
    miscounted |= found.published not in (None, found.total)
  return 1 if broken else _MISCOUNTED * miscounted


if __name__ == "__main__":
  sys.exit(main())
