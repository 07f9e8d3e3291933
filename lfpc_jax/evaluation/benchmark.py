"""A benchmark's own score, in its own form, from an evaluation's rows.

HR-Bench     the mean over the four rotations, and the questions right in all
             four, by category
all others   accuracy over the questions, and by category

Beside it, of the same questions: V*Bench and HR-Bench as VLMEvalKit reads the
answers; and with `eval.likelihood` the accuracy of the likeliest option, which
is V*Bench's official score.

The rules of the reward decide first. With `eval.judge.url`, what they leave
open goes to that judge; this score alone takes it into account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from lfpc_jax import files, source, statistics
from lfpc_jax.benchmarks import grading, hr_bench, published_rules, vstar
from lfpc_jax.benchmarks import judge as judge_lib
from lfpc_jax.benchmarks.grading import Grade
from lfpc_jax.data import described
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation.items import Item
from lfpc_jax.report.results import PolicyResult
from lfpc_jax.report.tables import Cell, Column, ResultTable
from lfpc_jax.statistics import Estimate

NAMES = {
  "hr_bench_8k": "HR-Bench 8K",
  "hr_bench_4k": "HR-Bench 4K",
  "vstar": "V*Bench",
  "visual_probe": "VisualProbe",
}
_ROTATED = ("hr_bench_4k", "hr_bench_8k")
_CHOICES = (*_ROTATED, "vstar")  # every question has options
KIT, LIKELY = "as VLMEvalKit reads", "by likelihood"  # columns beside


class Beside(NamedTuple):
  """Other grades of the same questions, in columns of their own.

  Attributes:
    suffix: of the columns' names.
    grades: by budget.
    caption: what they are.
  """

  suffix: str
  grades: Mapping[int, Sequence[Grade]]
  caption: str


def words(examples: Any) -> list[Example]:
  """All examples without their images, u8[0, 0, 3]."""
  return [examples.words(k) for k in range(len(examples))]


def evaluate(
  config: Any,
  folder: pathlib.Path,
  manifest: Mapping[str, Any],
  rows: Sequence[Item],
  examples: Any,
  results: Sequence[PolicyResult] = (),
) -> list[ResultTable]:
  """Grades the rows and gives the benchmark's table.

  Writes scores.json, the table's numbers with the manifest, the judge's
  settings and the seconds; grades.jsonl, a line for each budget and question;
  and, with a judge, its rulings.

  Args:
    config: a whole config.
    folder: of the evaluation.
    manifest: its settings.
    rows: its own; those with a probe are not graded.
    examples: the questions.
    results: by budget, for the seconds.

  Raises:
    UserError: the judge's settings are wrong, or it fails on all answers.

  Returns:
    One table; none where the data set is no benchmark and there is neither a
    judge nor a likelihood, as the other tables say all.
  """
  data, settings = config.data.name, config.eval.judge
  if not (data in NAMES or settings.url or config.eval.likelihood):
    return []
  judge = about = None
  if settings.url:
    judge = judge_lib.open_judge(settings, folder / "judge.jsonl")
    about = settings.to_dict() | {"prompt": judge_lib.PROMPT_VERSION}
  asked = {example.id: example for example in words(examples)}
  grades = grade(rows, asked, judge)
  _check_judged(grades, settings, folder)
  besides = _besides(data, rows, asked)
  notes = _notes(config, len(asked))
  found = table(
    data,
    manifest["policy"],
    grades,
    settings.model if judge else "",
    besides,
    notes,
  )
  content = {
    "policy": manifest["policy"],
    # Rows of an earlier evaluation are graded anew, by the code of now.
    "code": source.digest(),
    "judge": about,
    "manifest": dict(manifest),
    "seconds": {result.budget: _seconds(result) for result in results},
    "notes": notes,
  }
  _save(folder, [grades, *(one.grades for one in besides)], found, content)
  return [found]


def _notes(config: Any, questions: int) -> list[str]:
  """What a reader must know of the questions."""
  sets = described.describe({**config.data, "mix": ()}, config.eval.split)
  notes = [note for one in sets for note in (one.asked, one.missing) if note]
  if config.eval["items"]:
    notes.append(f"The first {questions:,} questions alone.")
  return list(dict.fromkeys(notes))


def _seconds(result: PolicyResult) -> dict[str, float | None]:
  """Per question; see `Evaluation.seconds`."""
  both = result.seconds, result.seconds_compiling
  plain, whole = (x and x.mean for x in both)
  return {"without_compiling": plain, "with_compiling": whole}


def grade(
  rows: Sequence[Item],
  asked: Mapping[str, Example],
  judge: grading.Judge | None = None,
) -> dict[int, list[Grade]]:
  """The grades of the rows without a probe, by budget.

  Raises:
    UserError: a row is of no question.
  """
  own = [row for row in rows if row.probe == "none"]
  unknown = next((row.id for row in own if row.id not in asked), None)
  if unknown is not None:
    raise UserError(
      f"the evaluation has an answer to {unknown!r}, which is no question of "
      "this config's data: evaluate again in another --workdir"
    )
  found = grading.grade(
    [row.prediction for row in own], [asked[row.id] for row in own], judge
  )
  grades: dict[int, list[Grade]] = {}
  for row, one in zip(own, found):
    grades.setdefault(row.budget, []).append(one)
  return grades


def grade_by_likelihood(
  rows: Sequence[Item], asked: Mapping[str, Example]
) -> dict[int, list[Grade]]:
  """The grades of the likeliest options, by budget; {} where none are known.

  Every row's question must be in `asked`.
  """
  grades: dict[int, list[Grade]] = {}
  for row in rows:
    if row.option_logps is not None:
      (one,) = vstar.grade_by_likelihood([row.option_logps], [asked[row.id]])
      grades.setdefault(row.budget, []).append(one)
  return grades


def _check_judged(
  grades: Mapping[int, Sequence[Grade]], settings: Any, folder: pathlib.Path
) -> None:
  """A judge that is down makes no score of what the rules alone decide."""
  own = [one for part in grades.values() for one in part if one.by == "judge"]
  if own and all(one.correct is None for one in own):
    raise UserError(
      f"the judge at {settings.url} ruled on none of {len(own)} answers "
      f"({own[0].error}): see that it runs, that it has the model that "
      f"eval.judge.model names, and that {settings.key_variable} holds its "
      f"key; then start the same command again; {folder} keeps the answers"
    )


def grade_as_published(
  rows: Sequence[Item], asked: Mapping[str, Example]
) -> dict[int, list[Grade]]:
  """The grades by VLMEvalKit's rule of choice questions, by budget.

  Every row's question must be in `asked`.
  """
  grades: dict[int, list[Grade]] = {}
  for row in rows:
    example = asked[row.id]
    if row.probe == "none" and example.options:
      one = published_rules.grade(row.prediction, example)
      grades.setdefault(row.budget, []).append(one)
  return grades


def _besides(
  data: str, rows: Sequence[Item], asked: Mapping[str, Example]
) -> list[Beside]:
  """What stands beside the score; nothing without a question."""
  kit = grade_as_published(rows, asked) if data in _CHOICES else {}
  found = [
    Beside(KIT, kit, _KIT_CAPTION),
    Beside(LIKELY, grade_by_likelihood(rows, asked), _LIKELY_CAPTION),
  ]
  return [one for one in found if one.grades]


def _save(folder, kinds, found: ResultTable, content: dict[str, Any]) -> None:
  lines = (
    json.dumps({"budget": budget} | dataclasses.asdict(one)) + "\n"
    for kind in kinds
    for budget, own in kind.items()
    for one in own
  )
  files.atomic_write(folder / "grades.jsonl", "".join(lines).encode())
  ((_, cells),) = found.rows
  content["caption"] = found.caption
  content["score"] = {
    column.title: cell._asdict() if isinstance(cell, Estimate) else cell
    for column, cell in zip(found.columns, cells)
  }
  text = json.dumps(content, indent=2) + "\n"
  files.atomic_write(folder / "scores.json", text.encode())


def table(
  data: str,
  name: str,
  grades: Mapping[int, Sequence[Grade]],
  judge: str = "",
  besides: Sequence[Beside] = (),
  notes: Sequence[str] = (),
) -> ResultTable:
  """The benchmark's table: a row for the policy, budgets side by side.

  Args:
    data: the data set's name.
    name: the policy's.
    grades: by budget.
    judge: the judge's model, or ''.
    besides: further columns.
    notes: sentences for the caption.
  """
  score = _rotated if data in _ROTATED else _plain
  columns, cells = [], []
  for budget, found in grades.items():
    parts = score(found)
    for one in besides:
      parts += _beside(one, one.grades.get(budget, ()), data in _ROTATED)
    for column, cell in parts:
      columns.append(dataclasses.replace(column, group=f"{budget:,} tokens"))
      cells.append(cell)
  said = [_ROTATED_CAPTION if data in _ROTATED else _CAPTION, *notes]
  if judge:
    said.append(f"What the rules leave open was judged by {judge}.")
  said += [one.caption for one in besides]
  title = f"Score on {NAMES.get(data, data)}"
  row = (name, tuple(cells))
  return ResultTable(title, tuple(columns), (row,), " ".join(said))


_CAPTION = "In percent, with 95 % confidence intervals over questions."
_ROTATED_CAPTION = (
  "In percent, with 95 % confidence intervals over questions. The benchmark's "
  "score is the mean over the four rotations of the options; all four: "
  "questions right in every rotation."
)
_KIT_CAPTION = (
  "As VLMEvalKit reads: the same answers by that tool's kinder rule, without "
  "its judge, to compare with its scores."
)
_LIKELY_CAPTION = (
  "By likelihood: of the option that the policy finds likeliest after the "
  "question, without the tool, V*Bench's official score."
)


def _plain(grades: Sequence[Grade]) -> list[tuple[Column, Cell]]:
  """Overall and by category; the questions that no judge could decide."""
  shares = {hr_bench.OVERALL: grading.share(grades)}
  shares |= grading.by_category(grades)
  cells = [(_percent(part), _estimate(share)) for part, share in shares.items()]
  return [*cells, *_invalid(shares[hr_bench.OVERALL].invalid)]


def _beside(
  one: Beside, grades: Sequence[Grade], rotated: bool
) -> list[tuple[Column, Cell]]:
  """The same shares by other grades, overall and by category."""
  if rotated:
    parts = hr_bench.score(grades)
    shares = {name: _score(part) for name, part in parts.items()}
  elif grades:
    found = {hr_bench.OVERALL: grading.share(grades)}
    found |= grading.by_category(grades)
    shares = {name: _estimate(share) for name, share in found.items()}
  else:
    shares = {}
  return [
    (_percent(f"{name}, {one.suffix}"), cell) for name, cell in shares.items()
  ]


def _rotated(grades: Sequence[Grade]) -> list[tuple[Column, Cell]]:
  """The mean over the rotations, and all four, overall and by category."""
  cells, parts = [], hr_bench.score(grades)
  for name, part in parts.items():
    cells.append((_percent(name), _score(part)))
    cells.append((_percent(f"{name}, all four"), _estimate(part.consistent)))
  overall = parts[hr_bench.OVERALL]
  if overall.incomplete:
    column = Column("questions without all four", digits=0)
    cells.append((column, float(overall.incomplete)))
  return [*cells, *_invalid(overall.invalid)]


def _score(part: hr_bench.Part) -> Cell:
  """The benchmark's mean, with the interval over questions about it."""
  if part.accuracy is None or part.estimate is None:
    return part.accuracy
  return part.estimate._replace(mean=part.accuracy)


def _percent(name: str) -> Column:
  return Column(name, scale=100, better="high")


def _estimate(share: grading.Share) -> Estimate | None:
  if not share.valid:
    return None
  return statistics.proportion(share.correct, share.valid)


def _invalid(number: int) -> list[tuple[Column, Cell]]:
  return [(Column("invalid", digits=0), float(number))] if number else []
