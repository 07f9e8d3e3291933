"""Scores of several evaluations in the paper's table.

Policies in rows; budgets, and in each HR-Bench 8K, HR-Bench 4K and V*, in
columns, with seconds per question behind them. It is made of scores.json
alone, which says what each score rests on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import operator
import pathlib
from typing import Any

from lfpc_jax.benchmarks import hr_bench
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import benchmark, comparison
from lfpc_jax.report.tables import Cell, Column, ResultTable
from lfpc_jax.statistics import Estimate

SCORES = ("rules", "vlmevalkit", "likelihood")
_SUFFIXES = ("", f", {benchmark.KIT}", f", {benchmark.LIKELY}")
_SHORT = {"hr_bench_8k": "HR-8K", "hr_bench_4k": "HR-4K", "vstar": "V*"}


@dataclasses.dataclass(frozen=True)
class Scored:
  """One policy's score on one benchmark, read from its folder.

  Attributes:
    folder: of the evaluation.
    policy: its name.
    data, split: the benchmark.
    content: what scores.json holds.
  """

  folder: pathlib.Path
  policy: str
  data: str
  split: str
  content: Mapping[str, Any]

  @property
  def manifest(self) -> Mapping[str, Any]:
    """The evaluation's settings."""
    return self.content["manifest"]

  @property
  def budgets(self) -> list[int]:
    """Visual tokens of the global views."""
    return list(self.manifest["config"]["eval"]["budgets"])

  @property
  def short(self) -> str:
    """The benchmark's name over a column."""
    name = _SHORT.get(self.data, self.data)
    return name if self.split == "test" else f"{name} {self.split}"

  def value(self, budget: int, kind: str) -> Cell:
    """A score or seconds per question at a budget; None where unknown.

    Args:
      budget: visual tokens of the view.
      kind: one of `SCORES`, 'without_compiling' or 'with_compiling'.
    """
    if kind not in SCORES:
      return self.content["seconds"].get(str(budget), {}).get(kind)
    suffix = _SUFFIXES[SCORES.index(kind)]
    name = f"{budget:,} tokens: {hr_bench.OVERALL}{suffix}"
    found = self.content["score"].get(name)
    return Estimate(**found) if isinstance(found, Mapping) else found


def load(folders: Sequence[pathlib.Path]) -> list[Scored]:
  """Reads the scores of evaluations.

  Raises:
    UserError: a folder has none, or two have the same policy's on one
      benchmark and budget.
  """
  found = [_load(folder) for folder in folders]
  seen: dict[tuple[Any, ...], pathlib.Path] = {}
  for one in found:
    for budget in one.budgets:
      key = one.policy, one.data, one.split, budget
      if key in seen:
        raise UserError(
          f"{seen[key]} and {one.folder} both hold {one.policy!r} on "
          f"{one.data} at {budget} tokens: name one of them, or evaluate the "
          "other under --config.name=ANOTHER"
        )
      seen[key] = one.folder
  return found


def _load(folder: pathlib.Path) -> Scored:
  places = [folder, folder / "evaluation"]
  place = next((p for p in places if (p / "scores.json").is_file()), None)
  if place is None:
    raise UserError(
      f"{folder} holds no score of a benchmark (no scores.json): run "
      f"lfpc_jax.evaluate with one of configs/eval_*.py and --workdir={folder}"
    )
  try:
    content = json.loads((place / "scores.json").read_text())
    config = content["manifest"]["config"]
    data, split = config["data"]["name"], config["eval"]["split"]
    for name in ("score", "seconds", "notes", "judge", "code"):
      operator.getitem(content, name)
    operator.getitem(content["manifest"], "parameters")
    return Scored(folder, content["policy"], data, split, content)
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{place / 'scores.json'} is damaged or of another version ({error!r}): "
      "run lfpc_jax.evaluate with this --workdir again"
    ) from error


def table(found: Sequence[Scored], score: str = "rules") -> ResultTable:
  """The paper's table.

  Args:
    found: what `load` gives.
    score: one of `SCORES`: by the reward's rules (and the judge, if there was
      one), as VLMEvalKit reads the answers, or by likelihood.
  """
  cells = {
    (budget, one.data, one.split, one.policy): one
    for one in found
    for budget in one.budgets
  }
  policies = list(dict.fromkeys(one.policy for one in found))
  columns, values = [], []
  for budget, kind, data, split, column in _columns(found, score):
    ones = [cells.get((budget, data, split, policy)) for policy in policies]
    column_values = [one and one.value(budget, kind) for one in ones]
    if any(value is not None for value in column_values):
      columns.append(column)
      values.append(column_values)
  rows = zip(*values) if values else ((),) * len(policies)
  return ResultTable(
    "Benchmarks",
    tuple(columns),
    tuple((policy, tuple(row)) for policy, row in zip(policies, rows)),
    f"{_CAPTIONS[score]} In percent, with 95 % confidence intervals over "
    "questions; s: seconds per question, without and with compiling.",
  )


def _columns(found: Sequence[Scored], score: str) -> Iterator[tuple[Any, ...]]:
  """Budget, kind of value, data set, split and column of each in turn."""
  order = [*_SHORT, *sorted({one.data for one in found} - {*_SHORT})]
  sets = {(order.index(o.data), o.data, o.split): o.short for o in found}
  kinds = (
    (score, "", Column("", scale=100, better="high")),
    ("without_compiling", ", s", Column("", digits=2, better="low")),
    ("with_compiling", ", s compiling", Column("", digits=2)),
  )
  for budget in sorted({budget for one in found for budget in one.budgets}):
    for kind, suffix, column in kinds:
      for _, data, split in sorted(sets):
        name = sets[order.index(data), data, split] + suffix
        group = f"{budget:,} tokens"
        column = dataclasses.replace(column, name=name, group=group)
        yield budget, kind, data, split, column


_CAPTIONS = {
  "rules": "Accuracy by the reward's rules, and the judge if there is one.",
  "vlmevalkit": "Accuracy as VLMEvalKit reads the answers, without its judge.",
  "likelihood": "Accuracy of the likeliest option, without the tool.",
}


def notes(found: Sequence[Scored]) -> list[str]:
  """What a reader has to know: the questions, and settings that differ."""
  lines = dict.fromkeys(
    f"{one.short}: {note}" for one in found for note in one.content["notes"]
  )
  first: dict[tuple[str, str], Scored] = {}
  for one in found:
    other = first.setdefault((one.data, one.split), one)
    changes = _differences(other, one)
    if changes:
      said = "; ".join(changes)
      lines[
        f"{one.short}: not the policy alone differs between {other.policy} and "
        f"{one.policy}: {said}."
      ] = None
  parameters: dict[str, str] = {}
  for one in found:
    known = parameters.setdefault(one.policy, one.manifest["parameters"])
    if known != one.manifest["parameters"]:
      lines[f"{one.policy} has other parameters on {one.short}."] = None
  return list(lines)


def _differences(first: Scored, other: Scored) -> list[str]:
  """What can change a score and the two do not share."""
  found = comparison.differing_settings(first.manifest, other.manifest)
  for name in ("judge", "code"):
    old, new = first.content[name], other.content[name]
    if old != new:
      found.append(f"graded with {name}: {old!r} -> {new!r}")
  return found
