"""HR-Bench: the mean over four rotations of the options.

Each question is asked four times with its options rotated. The score is that
of VLMEvalKit: the accuracy of each rotation over its questions, averaged over
the rotations; overall, and for single (FSP) and cross (FCP) questions. It is
NOT the share of questions answered right in all four, which is stricter and
stands beside it here, as `consistent`.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from lfpc_jax import statistics
from lfpc_jax.benchmarks import grading
from lfpc_jax.benchmarks.grading import Grade, Share
from lfpc_jax.errors import UserError

ROTATIONS = 4
OVERALL = "overall"


@dataclasses.dataclass(frozen=True)
class Part:
  """The score of all questions or of a category.

  Attributes:
    accuracy: mean over rotations of the share of right answers; None if a
      rotation has no valid answer.
    by_rotation: the share of each rotation.
    estimate: the accuracy with its confidence interval. A question's rotations
      are not independent, so questions are what is counted; None below two
      questions. Where answers are invalid its mean may differ from
      `accuracy`, which weighs rotations equally.
    consistent: questions right in all four rotations; invalid are those of
      which too few rotations were graded to say.
    incomplete: questions that were not asked in all four rotations.
  """

  accuracy: float | None
  by_rotation: dict[str, Share]
  estimate: statistics.Estimate | None
  consistent: Share
  incomplete: int

  @property
  def invalid(self) -> int:
    """Answers that the judge failed on."""
    return sum(share.invalid for share in self.by_rotation.values())


def score(grades: Sequence[Grade]) -> dict[str, Part]:
  """The scores of all questions, as 'overall', and of each category.

  Raises:
    UserError: a grade names no question or rotation, or one came twice.
  """
  grading.check_once(grades)
  seen: set[tuple[str, str]] = set()
  for grade in grades:
    key = (grade.group, grade.variant)
    if not all(key) or key in seen:
      raise UserError(
        f"grade {grade.id!r} is of question {grade.group!r}, rotation"
        f" {grade.variant!r}: each rotation of a question is graded once"
      )
    seen.add(key)
  categories = dict.fromkeys(grade.category for grade in grades)
  parts = {OVERALL: _part(grades)} if grades else {}
  for category in categories:
    parts[category] = _part([g for g in grades if g.category == category])
  return parts


def _part(grades: Sequence[Grade]) -> Part:
  rotations = sorted({grade.variant for grade in grades})
  by_rotation = {
    rotation: grading.share(g for g in grades if g.variant == rotation)
    for rotation in rotations
  }
  found = [share.accuracy for share in by_rotation.values()]
  groups: dict[str, list[bool | None]] = {}
  for grade in grades:
    groups.setdefault(grade.group, []).append(grade.correct)
  return Part(
    accuracy=None if None in found else float(np.mean(found)),
    by_rotation=by_rotation,
    estimate=_estimate(grades),
    consistent=_consistent(groups),
    incomplete=sum(len(g) != ROTATIONS for g in groups.values()),
  )


def _estimate(grades: Sequence[Grade]) -> statistics.Estimate | None:
  valid = [grade for grade in grades if grade.correct is not None]
  means = statistics.group_means(
    [float(grade.correct) for grade in valid], [grade.group for grade in valid]
  )
  return statistics.mean(means) if len(means) > 1 else None


def _consistent(groups: dict[str, list[bool | None]]) -> Share:
  correct = valid = invalid = 0
  for found in groups.values():
    if False in found:
      valid += 1
    elif len(found) == ROTATIONS and None not in found:
      correct, valid = correct + 1, valid + 1
    else:
      invalid += 1
  return Share(correct, valid, invalid)
