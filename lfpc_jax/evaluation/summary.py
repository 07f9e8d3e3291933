"""Tables from rows: means with confidence intervals over questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses

from lfpc_jax import statistics
from lfpc_jax.evaluation.items import Item
from lfpc_jax.evaluation.probe_results import probe_difference
from lfpc_jax.report.results import PolicyResult
from lfpc_jax.report.tables import Column, ResultTable
from lfpc_jax.statistics import Estimate


def _mean(
  rows: Sequence[Item], value: Callable[[Item], float | None]
) -> Estimate | None:
  known = [row for row in rows if value(row) is not None]
  means = statistics.group_means(
    [value(row) for row in known], [row.unit for row in known]
  )
  return statistics.mean(means) if len(means) > 1 else None


def _share(
  rows: Sequence[Item], flag: Callable[[Item], bool]
) -> Estimate | None:
  if not rows:
    return None
  return statistics.grouped_proportion(
    [flag(row) for row in rows], [row.unit for row in rows]
  )


def _negated(estimate: Estimate | None) -> Estimate | None:
  if estimate is None:
    return None
  mean, low, high, count = estimate
  return Estimate(-mean, -high, -low, count)


def _exact(value: float | None, count: int) -> Estimate | None:
  return None if value is None else Estimate(value, value, value, count)


def summarise(
  policy: str,
  rows: Sequence[Item],
  seconds: Mapping[int, float] | None = None,
  compile_seconds: Mapping[int, float] | None = None,
) -> list[PolicyResult]:
  """One result for each budget in the rows.

  Args:
    policy: name for a reader.
    rows: of all probes and budgets of one policy.
    seconds: per question without probes, by budget, if measured.
    compile_seconds: of all programs, by budget, if measured.
  """
  results = []
  for budget in dict.fromkeys(row.budget for row in rows):
    own = [r for r in rows if r.budget == budget and r.probe == "none"]
    callers = [r for r in own if r.crops + r.failed_calls]
    time, extra = ((x or {}).get(budget) for x in (seconds, compile_seconds))
    whole = None if None in (time, extra) else time + extra / len(own)
    results.append(
      PolicyResult(
        policy=policy,
        budget=budget,
        accuracy=_share(own, lambda r: r.correct),
        tool_rate=_share(own, lambda r: r.crops > 0),
        valid_box_rate=_share(callers, lambda r: r.failed_calls == 0),
        iou=_mean(own, lambda r: r.iou),
        coverage=_mean(own, lambda r: r.coverage),
        area=_mean(own, lambda r: r.area),
        noise_drop=_negated(probe_difference(rows, "noise", budget)),
        truth_gain=probe_difference(rows, "truth", budget),
        seconds=_exact(time, len(own)),
        seconds_compiling=_exact(whole, len(own)),
      )
    )
  return results


_SHARES = (
  "accuracy",
  "tool_rate",
  "valid_box_rate",
  "iou",
  "coverage",
  "area",
)


def over_seeds(name: str, results: Sequence[PolicyResult]) -> PolicyResult:
  """One row of several seeds at one budget: means, intervals over the seeds.

  A share's interval ends at 0 and 1, where Student's t knows no end. A single
  seed's intervals stay those over its questions.
  """
  if len(results) == 1:
    return dataclasses.replace(results[0], policy=name)
  fields = {}
  for field in dataclasses.fields(PolicyResult):
    values = [getattr(result, field.name) for result in results]
    if field.name not in ("policy", "budget") and None not in values:
      means = [value.mean for value in values]
      found = statistics.mean_over_seeds(means)
      if field.name in _SHARES:
        found = found._replace(low=max(0, found.low), high=min(1, found.high))
      fields[field.name] = found
  return PolicyResult(name, results[0].budget, **fields)


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
      _share(
        [r for r in own if (r.budget, r.category) == key], lambda r: r.correct
      )
      for key in keys
    )
    table.append((policy, cells))
  return ResultTable(
    "Accuracy by category",
    columns,
    tuple(table),
    "In percent, with 95 % confidence intervals.",
  )
