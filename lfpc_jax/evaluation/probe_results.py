"""What the probes say: the accuracy that depends on the crop.

LFPC's crop dependence is the accuracy change when every crop is replaced.
Each probe is compared with the unprobed run question by question, which takes
the spread between questions out of the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib

from lfpc_jax import files, statistics
from lfpc_jax.evaluation.items import Item
from lfpc_jax.report.tables import Column, ResultTable
from lfpc_jax.statistics import Estimate

NAMES = {
  "truth": "ground-truth crop",
  "noise": "noise crop",
  "blank": "blank crop",
  "other": "another region",
}
"""Probes, and how a table calls them."""


@dataclasses.dataclass(frozen=True)
class ProbeResult:
  """A probe's effect on one policy at one budget; fractions of 1.

  Attributes:
    policy: name for a reader.
    budget: visual tokens of the global view.
    probe: what replaced the crops.
    accuracy: under the probe.
    without: of the same questions without a probe.
    difference: the first minus the second, paired by question.
    left_out: questions that are not compared: under 'other', those with a
      crop so large that no region of its size lies apart from the truth; under
      'truth', those with a crop and no boxes.
  """

  policy: str
  budget: int
  probe: str
  accuracy: Estimate
  without: Estimate
  difference: Estimate
  left_out: int


def measure(policy: str, rows: Sequence[Item]) -> list[ProbeResult]:
  """One result for each budget and probe in the rows of one policy."""
  pairs = dict.fromkeys(
    (row.budget, row.probe) for row in rows if row.probe != "none"
  )
  found = (_measure(policy, rows, *pair) for pair in pairs)
  return [result for result in found if result is not None]


def probe_difference(
  rows: Sequence[Item], probe: str, budget: int
) -> Estimate | None:
  """Accuracy under the probe minus accuracy without, paired by question."""
  result = _measure("", rows, budget, probe)
  return result and result.difference


def _measure(policy, rows, budget, probe) -> ProbeResult | None:
  own = [row for row in rows if row.budget == budget]
  under = {row.id: row for row in own if row.probe == probe}
  left_out = {name for name, row in under.items() if _is_left_out(row)}
  pair = [
    {r.id: r.correct for r in own if r.probe == p and r.id not in left_out}
    for p in (probe, "none")
  ]
  if not all(pair):
    return None
  units = [under[name].unit for name in pair[0]]
  pair = statistics.pair_by_item(*pair)
  shares = [statistics.grouped_proportion(x, units) for x in pair]
  means = [statistics.group_means(x, units) for x in pair]
  difference = statistics.paired_difference(*means)
  return ProbeResult(policy, budget, probe, *shares, difference, len(left_out))


def _is_left_out(row: Item) -> bool:
  """Whether the probe could not replace the crop by what it stands for."""
  if row.probe == "truth":
    return row.crops > 0 and row.coverage is None
  return row.apart is False


def save(path: str | os.PathLike[str], results: Sequence[ProbeResult]) -> None:
  """Writes one JSON object a line, whole or not at all.

  An estimate is an object of mean, low, high and count.
  """

  def plain(value):
    return value._asdict() if isinstance(value, Estimate) else value

  lines = [
    json.dumps({name: plain(value) for name, value in vars(result).items()})
    for result in results
  ]
  text = "".join(line + "\n" for line in lines)
  files.atomic_write(pathlib.Path(path), text.encode())


def load(path: str | os.PathLike[str]) -> list[ProbeResult]:
  """Reads what `save` wrote."""

  def estimate(value):
    return Estimate(**value) if isinstance(value, dict) else value

  lines = pathlib.Path(path).read_text().splitlines()
  return [
    ProbeResult(**{k: estimate(v) for k, v in json.loads(line).items()})
    for line in lines
  ]


def probe_table(
  results: Sequence[ProbeResult], title: str = "Probes"
) -> ResultTable:
  """Accuracy changes: a row per policy, probes and budgets side by side."""
  cells = {(r.policy, r.budget, r.probe): r for r in results}
  keys = dict.fromkeys((r.budget, r.probe) for r in results)
  columns = tuple(
    Column(NAMES.get(probe, probe), f"{budget:,} tokens", scale=100)
    for budget, probe in keys
  )
  rows = []
  for policy in dict.fromkeys(result.policy for result in results):
    found = [cells.get((policy, *key)) for key in keys]
    rows.append((policy, tuple(r and r.difference for r in found)))
  return ResultTable(
    title,
    columns,
    tuple(rows),
    "Accuracy change when every crop is replaced, in percentage points, paired "
    "by question, with 95 % confidence intervals." + _left_out(results),
  )


def _left_out(results: Sequence[ProbeResult]) -> str:
  """What is to be said of questions that cannot be compared."""
  most = {
    probe: max((r.left_out for r in results if r.probe == probe), default=0)
    for probe in dict.fromkeys(r.probe for r in results)
  }
  text = ""
  if "other" in most:
    text += (
      " Another region: of the crop's size and apart from the ground truth, "
      "where one is known."
    )
  if most.get("other"):
    text += (
      " Questions whose crop leaves no room for one are left out, at most "
      f"{most['other']:,} a cell."
    )
  if most.get("truth"):
    text += (
      " Ground-truth crop: questions without boxes are left out, at most "
      f"{most['truth']:,} a cell."
    )
  return text
