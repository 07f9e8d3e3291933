"""What a selection came to: tables for a reader."""

from __future__ import annotations

from collections.abc import Sequence

from lfpc_jax import statistics
from lfpc_jax.data.gap_file import Chosen, Selection
from lfpc_jax.gap_selection.journal import Entry
from lfpc_jax.report.tables import Column, ResultTable
from lfpc_jax.statistics import Estimate


def level_table(selection: Selection) -> ResultTable:
  """The histogram of the chosen levels, right and wrong originals apart."""
  rows, lowest = selection.rows, selection.about["levels"][-1]
  counts = [
    (f"{level:,} tokens", [r for r in rows if r.tokens == level and r.diverged])
    for level in selection.about["levels"]
  ]
  never = [row for row in rows if not row.diverged]
  counts.append((f"{lowest:,} tokens, never diverged", never))
  most = max(len(found) for _, found in counts)
  right = [row for row in rows if row.original_correct]
  wrong = [row for row in rows if not row.original_correct]
  columns = (
    Column("examples", digits=0),
    Column("share", scale=100),
    Column("of right originals", scale=100),
    Column("of wrong originals", scale=100),
    Column("right there", scale=100),
    Column(""),
  )
  return ResultTable(
    "Chosen budget of the global view",
    columns,
    tuple(
      (
        name,
        (
          float(len(found)),
          _part(found, rows),
          _part([row for row in found if row.original_correct], right),
          _part([row for row in found if not row.original_correct], wrong),
          _part([row for row in found if row.correct], found),
          _bar(found, most),
        ),
      )
      for name, found in counts
    ),
    "In percent. Of right and of wrong originals: the same histogram of the "
    "examples answered rightly and wrongly from the original. Right there: of "
    "the direct answers at the chosen budget.",
  )


def share_table(rows: Sequence[Chosen]) -> ResultTable:
  """What the selection could not work with."""
  kinds = {
    "wrong on the original": [row for row in rows if not row.original_correct],
    "never diverges": [row for row in rows if not row.diverged],
    "never diverges, right": [
      row for row in rows if not row.diverged and row.original_correct
    ],
  }
  return ResultTable(
    "Examples that say little about resolution",
    (Column("share", scale=100),),
    tuple(
      (name, (statistics.proportion(len(found), len(rows)),))
      for name, found in kinds.items()
    ),
    "In percent of all examples, with 95 % confidence intervals.",
  )


def cost_table(entries: Sequence[Entry], examples: int) -> ResultTable:
  """What the answers took, over all parts of an interrupted run."""
  rows = []
  for level in dict.fromkeys(entry.level for entry in entries):
    own = [entry for entry in entries if entry.level == level]
    rows.append((f"{level:,} tokens", _cost(own, examples)))
  rows.append(("in all", _cost(entries, examples)))
  columns = (
    Column("answers", digits=0),
    Column("seconds", digits=1),
    Column("ms an answer", digits=1),
    Column("seconds for 1,000 examples", digits=1),
    Column("compiling, s", digits=1),
  )
  return ResultTable(
    "Cost",
    columns,
    tuple(rows),
    "Compilation left out, except in its own column. Below the original, "
    "only examples that have not diverged yet are answered.",
  )


def _cost(entries: Sequence[Entry], examples: int) -> tuple[float, ...]:
  answers = sum(len(entry.ids) for entry in entries)
  seconds = sum(entry.seconds for entry in entries)
  return (
    float(answers),
    seconds,
    1000 * seconds / max(answers, 1),
    1000 * seconds / examples,
    sum(entry.compile_seconds for entry in entries),
  )


def _part(found: Sequence[Chosen], of: Sequence[Chosen]) -> Estimate | None:
  return statistics.proportion(len(found), len(of)) if of else None


def _bar(found: Sequence[Chosen], most: int, width: int = 12) -> str:
  # Filled up, as columns of numbers are set to the right.
  return ("█" * round(width * len(found) / max(most, 1))).ljust(width, "\xa0")
