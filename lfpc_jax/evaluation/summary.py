"""Tables from rows: means with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence

from lfpc_jax import statistics
from lfpc_jax.evaluation.items import Item
from lfpc_jax.evaluation.probe_results import probe_difference
from lfpc_jax.report.results import PolicyResult
from lfpc_jax.report.tables import Column, ResultTable
from lfpc_jax.statistics import Estimate


def _mean(values: Sequence[float | None]) -> Estimate | None:
  known = [value for value in values if value is not None]
  return statistics.mean(known) if len(known) > 1 else None


def _share(flags: Sequence[bool]) -> Estimate | None:
  flags = list(flags)
  return statistics.proportion(sum(flags), len(flags)) if flags else None


def _negated(estimate: Estimate | None) -> Estimate | None:
  if estimate is None:
    return None
  mean, low, high, count = estimate
  return Estimate(-mean, -high, -low, count)


def summarise(
  policy: str,
  rows: Sequence[Item],
  seconds: dict[int, float] | None = None,
) -> list[PolicyResult]:
  """One result for each budget in the rows.

  Args:
    policy: name for a reader.
    rows: of all probes and budgets of one policy.
    seconds: per question without probes, by budget, if measured.
  """
  results = []
  for budget in dict.fromkeys(row.budget for row in rows):
    own = [r for r in rows if r.budget == budget and r.probe == "none"]
    calls = [r.crops + r.failed_calls for r in own]
    time = (seconds or {}).get(budget)
    results.append(
      PolicyResult(
        policy=policy,
        budget=budget,
        accuracy=_share([r.correct for r in own]),
        tool_rate=_share([r.crops > 0 for r in own]),
        valid_box_rate=_share(
          [r.failed_calls == 0 for r, n in zip(own, calls) if n]
        ),
        iou=_mean([r.iou for r in own]),
        coverage=_mean([r.coverage for r in own]),
        area=_mean([r.area for r in own]),
        noise_drop=_negated(probe_difference(rows, "noise", budget)),
        truth_gain=probe_difference(rows, "truth", budget),
        seconds=time and Estimate(time, time, time, len(own)),
      )
    )
  return results


def category_table(named: dict[str, Sequence[Item]]) -> ResultTable:
  """Accuracy by question category, policies in rows, budgets side by side."""
  keys = dict.fromkeys(
    (row.budget, row.category)
    for rows in named.values()
    for row in sorted(rows, key=lambda r: (r.budget, r.category))
  )
  columns = tuple(
    Column(category, f"{budget:,} tokens", scale=100, better="high")
    for budget, category in keys
  )
  table = []
  for policy, rows in named.items():
    own = [row for row in rows if row.probe == "none"]
    cells = tuple(
      _share([r.correct for r in own if (r.budget, r.category) == key])
      for key in keys
    )
    table.append((policy, cells))
  return ResultTable(
    "Accuracy by category",
    columns,
    tuple(table),
    "In percent, with 95 % confidence intervals.",
  )
