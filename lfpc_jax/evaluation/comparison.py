"""Two evaluations of the same questions: what differs, question by question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from lfpc_jax import config as config_lib
from lfpc_jax import metrics, statistics
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import command, summary
from lfpc_jax.evaluation.items import Item
from lfpc_jax.report import page, plots
from lfpc_jax.report import results as results_lib
from lfpc_jax.report.records import RolloutRecord
from lfpc_jax.report.tables import Column, ResultTable

# What can change a score: sections of a config, and what else is noted.
_SECTIONS = ("policy", "data", "rollout", "eval")
_AROUND = (
  "files",
  "questions",
  "sets",
  "code",
  "python",
  "versions",
  "device",
  "devices",
  "processes",
  "mesh",
  "attention",
  "matmul_precision",
)


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """One policy's evaluation, read from its folder."""

  name: str
  """For a reader; no two that are compared share it."""
  folder: pathlib.Path
  manifest: Mapping[str, Any]
  rows: Sequence[Item]
  results: Sequence[results_lib.PolicyResult]
  records: Sequence[RolloutRecord]

  def plain(self, budget: int) -> dict[str, Item]:
    """The rows without a probe, by question."""
    return {
      row.id: row
      for row in self.rows
      if row.budget == budget and row.probe == "none"
    }


def load(folders: Sequence[pathlib.Path]) -> list[Evaluated]:
  """Reads evaluations; policies of one name go by their folders instead.

  Args:
    folders: each an evaluation's, or a run's that has it in `evaluation`.

  Raises:
    UserError: a folder holds no evaluation, or they share no questions.
  """
  found = [_load(folder) for folder in folders]
  if len({one.folder.resolve() for one in found}) < len(found):
    raise UserError(f"{_listed(folders)}: one evaluation is there twice")
  if len({one.name for one in found}) < len(found):
    found = [_renamed(*pair) for pair in zip(found, _short_names(folders))]
  for other in found[1:]:
    _check_same_questions(found[0], other)
  return found


def _load(folder: pathlib.Path) -> Evaluated:
  places = [folder, folder / "evaluation"]
  place = next((p for p in places if (p / "evaluation.json").is_file()), None)
  if place is None:
    raise UserError(
      f"{folder} holds no finished evaluation (no evaluation.json): run "
      f"lfpc_jax.evaluate with --workdir={folder} first"
    )
  try:
    manifest = json.loads((place / "evaluation.json").read_text())
    rows, results, records = command.load_results(place)
    return Evaluated(
      manifest["policy"], place, manifest, rows, results, records
    )
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"the evaluation in {place} is damaged ({error!r}): remove the folder "
      "and evaluate again"
    ) from error


def _listed(folders: Sequence[pathlib.Path]) -> str:
  return ", ".join(map(str, folders))


def _short_names(folders: Sequence[pathlib.Path]) -> list[str]:
  """The folders' paths without what all of them begin with."""
  paths = [folder.resolve() for folder in folders]
  shared = os.path.commonpath(paths)
  # One that holds another keeps its own name.
  return [
    str(path.relative_to(shared)) if str(path) != shared else path.name
    for path in paths
  ]


def _renamed(one: Evaluated, name: str) -> Evaluated:
  results = [dataclasses.replace(r, policy=name) for r in one.results]
  records = [dataclasses.replace(r, policy=name) for r in one.records]
  return dataclasses.replace(one, name=name, results=results, records=records)


def _budgets(one: Evaluated) -> list[int]:
  return list(dict.fromkeys(row.budget for row in one.rows))


def _shared_budgets(found: Sequence[Evaluated]) -> list[int]:
  return [b for b in _budgets(found[0]) if all(b in _budgets(o) for o in found)]


def _check_same_questions(first: Evaluated, other: Evaluated) -> None:
  budgets = _shared_budgets((first, other))
  if not budgets:
    raise UserError(
      f"{first.folder} has the budgets {_budgets(first)}, {other.folder} has "
      f"{_budgets(other)}: evaluate both with one --config.eval.budgets"
    )
  for budget in budgets:
    alone = first.plain(budget).keys() ^ other.plain(budget).keys()
    if alone:
      raise UserError(
        f"at {budget} tokens {len(alone)} questions are in one of "
        f"{first.folder} and {other.folder} only, such as {min(alone)!r}: "
        "evaluate both on the same data, with one --config.eval.items"
      )


def _flag(value: bool) -> float:
  return float(value)


_MEASURES: Mapping[str, Callable[[Item], float | None]] = {
  "accuracy": lambda row: _flag(row.correct),
  "tool rate": lambda row: _flag(row.crops > 0),
  "IoU": lambda row: row.iou,
  "coverage": lambda row: row.coverage,
  "area": lambda row: row.area,
}


def difference_table(found: Sequence[Evaluated]) -> ResultTable:
  """Each policy minus the first, paired by question, budgets side by side."""
  budgets = _shared_budgets(found)
  columns = tuple(
    column
    for budget in budgets
    for column in (
      *(Column(name, f"{budget:,} tokens", scale=100) for name in _MEASURES),
      Column("wrong → right", f"{budget:,} tokens", digits=0),
      Column("right → wrong", f"{budget:,} tokens", digits=0),
    )
  )
  rows = tuple(
    (
      other.name,
      tuple(
        cell
        for budget in budgets
        for cell in _differences(found[0].plain(budget), other.plain(budget))
      ),
    )
    for other in found[1:]
  )
  return ResultTable(
    f"Difference from {found[0].name} on the same questions",
    columns,
    rows,
    "In percentage points, paired by question, with 95 % confidence intervals. "
    "IoU, coverage and area: over the questions where both cropped. Last: "
    "questions that the one answers right and the other wrong.",
  )


def _differences(first: Mapping[str, Item], other: Mapping[str, Item]):
  """The cells of one pair of policies at one budget."""
  for measure in _MEASURES.values():
    yield _paired(measure, first, other)
  pairs = [(first[key].correct, other[key].correct) for key in first]
  yield float(pairs.count((False, True)))
  yield float(pairs.count((True, False)))


def _paired(measure, first, other) -> statistics.Estimate | None:
  pairs = [(measure(other[key]), measure(first[key])) for key in first]
  units = [row.unit for row in first.values()]
  known = [(*p, unit) for p, unit in zip(pairs, units) if None not in p]
  if not known:
    return None
  *values, units = zip(*known)
  return statistics.paired_difference(
    *(statistics.group_means(x, units) for x in values)
  )


def category_difference_table(found: Sequence[Evaluated]) -> ResultTable:
  """Accuracy minus the first policy's, by question category."""
  first = found[0]
  keys = [
    (budget, category)
    for budget in _shared_budgets(found)
    for category in sorted({r.category for r in first.plain(budget).values()})
  ]

  def cell(other, budget, category):
    own = first.plain(budget)
    chosen = {k: row for k, row in own.items() if row.category == category}
    return _paired(_MEASURES["accuracy"], chosen, other.plain(budget))

  return ResultTable(
    f"Difference of accuracy from {first.name} by category",
    tuple(Column(c, f"{b:,} tokens", scale=100) for b, c in keys),
    tuple(
      (other.name, tuple(cell(other, *k) for k in keys)) for other in found[1:]
    ),
    "In percentage points, paired by question, with 95 % confidence intervals.",
  )


def differing_settings(
  first: Mapping[str, Any], other: Mapping[str, Any]
) -> list[str]:
  """Of two manifests, fields that can change a score and are not the same."""
  changes = config_lib.diff(*map(_settings, (first, other)))
  return [x for x in changes if not x.startswith("policy.checkpoint:")]


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
  config = manifest["config"]
  found = {name: config.get(name, {}) for name in _SECTIONS}
  # The rest of the gap is what the policy was trained with.
  found["gap"] = {"min_tokens": config.get("gap", {}).get("min_tokens")}
  return found | {name: manifest.get(name) for name in _AROUND}


def tables(found: Sequence[Evaluated]) -> list[ResultTable]:
  """All tables of a comparison, the differences first."""
  return [
    difference_table(found),
    results_lib.paper_table([r for one in found for r in one.results]),
    category_difference_table(found),
    summary.category_table({one.name: one.rows for one in found}),
  ]


def notes(found: Sequence[Evaluated]) -> list[str]:
  """What a reader has to know: sizes, and settings that are not the same."""
  sizes = ", ".join(
    f"{len(found[0].plain(budget)):,} at {budget:,} tokens"
    for budget in _shared_budgets(found)
  )
  shown = min(len({record.id for record in one.records}) for one in found)
  lines = [
    f"Questions that are compared: {sizes}. The rollouts are of the first "
    f"{shown:,} questions."
  ]
  for other in found[1:]:
    changes = differing_settings(found[0].manifest, other.manifest)
    if changes:
      lines.append(
        f"Not the policy alone differs between {found[0].name} and "
        f"{other.name}: {'; '.join(changes)}."
      )
  return lines


def curves(found: Sequence[Evaluated]) -> list[plots.Curve]:
  """Learning curves of those policies whose run is still there."""
  runs = {}
  for one in found:
    folder = pathlib.Path(one.manifest["checkpoint"])
    if one.manifest["checkpoint"] and (folder / metrics.FILE).is_file():
      runs[one.name] = metrics.read_metrics(folder)
  return plots.curves_from_metrics(runs)


def write(found: Sequence[Evaluated], path: pathlib.Path) -> None:
  """Writes the page, which opens with the first two side by side."""
  first, second = found[0].name, found[1].name
  page.write_page(
    path,
    " and ".join(one.name for one in found),
    tables(found),
    curves(found),
    [record for one in found for record in one.records],
    notes(found),
    compared=(first, second),
  )
