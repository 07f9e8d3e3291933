"""Which budget each example gets (LFPC, section Stage 1).

From the original downwards, level by level, the policy to be trained answers
from the original and from the down-sampled image; the first level whose
answer diverges is the example's. An example that never diverges gets the
lowest level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

from lfpc_jax.data.examples import Example
from lfpc_jax.data.gap_file import Chosen
from lfpc_jax.rl import answers

Answer = Callable[[int, Sequence[int]], list[tuple[str, int]]]
"""Answers some examples, by index, at a level: for each, in order, its answer
and the visual tokens of its view."""


def diverges(answer: str, original: str, options: Sequence[str] = ()) -> bool:
  """Whether two answers differ, by the judge's own normalisation.

  Of a multiple-choice question, answers that choose the same option are the
  same; two that choose none are compared as texts.
  """
  if options:
    chosen = [
      answers.chosen_option(text, options) for text in (answer, original)
    ]
    if chosen != [None, None]:
      return chosen[0] != chosen[1]
  if answer == original:
    return False
  return not (
    answers.matches(answer, original) or answers.matches(original, answer)
  )


@dataclasses.dataclass
class _Walk:
  """An example on its way down the ladder; `tried` is (level, answer)."""

  example: Example
  index: int
  original: str
  original_tokens: int
  tried: list[tuple[int, str]] = dataclasses.field(default_factory=list)

  @property
  def has_diverged(self) -> bool:
    """Whether the last level's answer is another one."""
    return bool(self.tried) and diverges(
      self.tried[-1][1], self.original, self.example.options
    )

  def finish(self, lowest: int) -> Chosen:
    """The row of an example that has diverged or come to the lowest level."""
    # An image too small for any level is shown as it is.
    level, answer = self.tried[-1] if self.tried else (lowest, self.original)
    example = self.example
    return Chosen(
      id=example.id,
      tokens=level if self.has_diverged else lowest,
      diverged=self.has_diverged,
      original_tokens=self.original_tokens,
      original_answer=self.original,
      original_correct=_is_correct(self.original, example),
      answer=answer,
      correct=_is_correct(answer, example),
      levels=tuple(level for level, _ in self.tried),
      answers=tuple(text for _, text in self.tried),
    )


def choose_levels(
  examples: Sequence[Example],
  full: int,
  levels: Sequence[int],
  answer: Answer,
) -> list[Chosen]:
  """Walks down the ladder; examples that have diverged are left alone.

  Args:
    examples: their images are not looked at, and may be missing.
    full: budget of the original.
    levels: budgets below it, falling.
    answer: the policy.

  Returns:
    One row for each example, in order.
  """
  walks = [
    _Walk(examples[i], i, text, tokens)
    for i, (text, tokens) in enumerate(answer(full, range(len(examples))))
  ]
  still = walks
  for level in levels:
    # A view that would not be smaller than the original is the same view.
    lower = [walk for walk in still if walk.original_tokens > level]
    found = answer(level, [walk.index for walk in lower]) if lower else []
    for walk, (text, _) in zip(lower, found, strict=True):
      walk.tried.append((level, text))
    still = [walk for walk in still if not walk.has_diverged]
  return [walk.finish(levels[-1]) for walk in walks]


def _is_correct(answer: str, example: Example) -> bool:
  return answers.matches(answer, example.answer, example.options)
