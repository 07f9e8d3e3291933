"""Right, wrong or invalid: rules first, then a judge if there is one.

The rule is the one that training rewards (`rl.answers.matches`). It decides

  right     if it finds the answer equal to the truth
  wrong     if there is no answer, or the answer names another option

and only what it leaves open, an answer in other words, goes to the judge. With
no judge that is wrong, as in training. A judge that fails makes the question
invalid: it is counted, and neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import string
from typing import Protocol

from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.rl import answers


@dataclasses.dataclass(frozen=True)
class Dispute:
  """What a judge is asked.

  Attributes:
    question: as the policy was asked, without options.
    options: the choices, or ().
    truth: the right answer; of a choice its letter and its text.
    prediction: what the policy answered.
  """

  question: str
  options: tuple[str, ...]
  truth: str
  prediction: str


@dataclasses.dataclass(frozen=True)
class Ruling:
  """What a judge found.

  Attributes:
    correct: None if the judge failed.
    error: why it failed, or ''.
  """

  correct: bool | None
  error: str = ""


class Judge(Protocol):
  """Compares predictions with truths, many at a time."""

  def rule(self, disputes: Sequence[Dispute]) -> list[Ruling]:
    """One ruling for each dispute, in their order; it never raises for one."""


@dataclasses.dataclass(frozen=True)
class Grade:
  """The outcome of one question.

  Attributes:
    id, category, group, variant: the example's.
    correct: None for invalid.
    by: 'rule', 'judge', 'likelihood' or 'VLMEvalKit'.
    prediction: what was compared; None without an answer.
    error: why it is invalid, or ''.
  """

  id: str
  category: str
  group: str
  variant: str
  correct: bool | None
  by: str = "rule"
  prediction: str | None = None
  error: str = ""


def by_rule(prediction: str | None, example: Example) -> bool | None:
  """Right, wrong, or None where the rule leaves it open.

  Args:
    prediction: the extracted answer, see `answers.extract_answer`.
    example: the question.

  Raises:
    UserError: the example's answer is none of its options.
  """
  if answers.matches(prediction, example.answer, example.options):
    return True
  if prediction is None or not prediction.strip():
    return False
  if len(prediction) >= answers.MAX_ANSWER_CHARACTERS:
    return False
  if answers.chosen_option(prediction, example.options) is not None:
    return False
  return None


def grade(
  predictions: Sequence[str | None],
  examples: Sequence[Example],
  judge: Judge | None = None,
) -> list[Grade]:
  """Grades the answers to questions.

  Args:
    predictions: the extracted answers.
    examples: the questions, as they were asked.
    judge: decides what the rule leaves open; None for wrong.
  """
  pairs = list(zip(predictions, examples, strict=True))
  found = [by_rule(prediction, example) for prediction, example in pairs]
  open_ = [k for k, correct in enumerate(found) if correct is None]
  rulings: dict[int, Ruling] = {}
  if judge is not None and open_:
    disputes = [_dispute(*pairs[k]) for k in open_]
    rulings = dict(zip(open_, judge.rule(disputes), strict=True))
  return [
    _grade(prediction, example, found[k], rulings.get(k))
    for k, (prediction, example) in enumerate(pairs)
  ]


def _dispute(prediction: str, example: Example) -> Dispute:
  truth = example.answer
  if example.options:
    index = answers.answer_index(truth, example.options)
    truth = f"{string.ascii_uppercase[index]}. {example.options[index]}"
  return Dispute(example.question, example.options, truth, prediction)


def _grade(
  prediction: str | None,
  example: Example,
  correct: bool | None,
  ruling: Ruling | None,
) -> Grade:
  correct = bool(correct) if ruling is None else ruling.correct
  return Grade(
    id=example.id,
    category=example.category,
    group=example.group,
    variant=example.variant,
    correct=correct,
    by="rule" if ruling is None else "judge",
    prediction=prediction,
    error="" if ruling is None else ruling.error,
  )


@dataclasses.dataclass(frozen=True)
class Share:
  """A share of right answers.

  Attributes:
    correct: right ones.
    valid: right and wrong ones.
    invalid: those that the judge failed on; in no score.
  """

  correct: int
  valid: int
  invalid: int

  @property
  def accuracy(self) -> float | None:
    """Right among valid; None if none is valid."""
    return self.correct / self.valid if self.valid else None


def share(grades: Iterable[Grade]) -> Share:
  """The share of right answers among grades."""
  found = [grade.correct for grade in grades]
  valid = [correct for correct in found if correct is not None]
  return Share(sum(valid), len(valid), len(found) - len(valid))


def by_category(grades: Sequence[Grade]) -> dict[str, Share]:
  """The share of each category, in order of appearance."""
  return {
    category: share(g for g in grades if g.category == category)
    for category in dict.fromkeys(g.category for g in grades)
  }


def check_once(grades: Iterable[Grade]) -> None:
  """Makes sure that no question is counted twice.

  Raises:
    UserError: an id comes twice.
  """
  seen: set[str] = set()
  for grade_ in grades:
    if grade_.id in seen:
      raise UserError(
        f"question {grade_.id!r} was graded twice: score each run on its own"
      )
    seen.add(grade_.id)
