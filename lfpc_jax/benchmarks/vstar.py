"""V*Bench: accuracy over all questions, and by category.

Three ways to ask, whose scores are not comparable:

  shuffled     generated answers, options in an order drawn from a seed:
               data.option_order='', the default
  stored       generated answers, and A is always right. Some older papers
               report this; a policy or judge that leans to A gains up to 5
               points by it
  likelihood   no answer is generated: the option with the highest mean
               log-likelihood per token is chosen, each given on its own and
               without letters. The order does not matter. This is the official
               score (penghao-wu/vstar): eval.likelihood=True
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from lfpc_jax.benchmarks import grading
from lfpc_jax.benchmarks.grading import Grade, Share
from lfpc_jax.data.examples import Example
from lfpc_jax.rl import answers


@dataclasses.dataclass(frozen=True)
class Score:
  """The benchmark's score.

  Attributes:
    overall: over all questions, not the mean of the categories.
    categories: direct_attributes and relative_position.
  """

  overall: Share
  categories: dict[str, Share]


def choose_by_likelihood(
  token_log_likelihoods: Sequence[Sequence[float]],
) -> int | None:
  """The option of the highest mean log-likelihood per token.

  argmax_k (1 / n_k) sum_t log p(token t of option k | question, tokens < t),
  the smallest cross-entropy of the official tool.

  Args:
    token_log_likelihoods: for each option, of each of its tokens.

  Returns:
    Its index; None if several options share the highest value, of which the
    official tool would take the first, which is the right one.

  Raises:
    ValueError: no option, an option without tokens, or a value that is no
      log-likelihood: above 0 or not a number. Minus infinity is one.
  """
  if not len(token_log_likelihoods):
    raise ValueError("no option: give the log-likelihoods of each")
  means = np.array([_mean(values) for values in token_log_likelihoods])
  best = np.flatnonzero(means == means.max())
  return int(best[0]) if len(best) == 1 else None


def _mean(values: Sequence[float]) -> float:
  vector = np.asarray(values, np.float64)
  # Rounding puts the log-likelihood of a sure token slightly above 0.
  if vector.ndim != 1 or not len(vector) or not (vector <= 1e-3).all():
    raise ValueError(
      f"{values!r:.80} are no log-likelihoods of an option's tokens: need a"
      " list of at least one, none above 0"
    )
  return float(vector.mean())


def grade_by_likelihood(
  token_log_likelihoods: Sequence[Sequence[Sequence[float]]],
  examples: Sequence[Example],
) -> list[Grade]:
  """Grades questions by `choose_by_likelihood`.

  Args:
    token_log_likelihoods: for each question and each of its options in their
      order, of each of its tokens.
    examples: the questions.

  Raises:
    ValueError: not one list for each option; see `choose_by_likelihood`.
  """
  grades = []
  for values, example in zip(token_log_likelihoods, examples, strict=True):
    if len(values) != len(example.options):
      raise ValueError(
        f"example {example.id}: log-likelihoods of {len(values)} options, but"
        f" it has {len(example.options)}"
      )
    choice = choose_by_likelihood(values)
    right = answers.answer_index(example.answer, example.options)
    grades.append(
      Grade(
        by="likelihood",
        id=example.id,
        category=example.category,
        group=example.group,
        variant=example.variant,
        correct=choice == right,
        prediction=None if choice is None else example.options[choice],
      )
    )
  return grades


def score(grades: Sequence[Grade]) -> Score:
  """The benchmark's score.

  Raises:
    UserError: a question was graded twice.
  """
  grading.check_once(grades)
  return Score(grading.share(grades), grading.by_category(grades))
