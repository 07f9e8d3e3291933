"""Means with confidence intervals, for evaluation and reports.

Host code in float64. Every result says over how many independent units it
was taken: questions, pairs of questions or seeds. Repeated measurements of a
question (HR-Bench asks each one in four rotations) are not independent: take
`group_means` over the question first.
"""

from collections.abc import Hashable, Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np
from scipy import special


class Estimate(NamedTuple):
  """A mean, its confidence interval, and the number of units behind it.

  A single unit says nothing about its spread: the interval is then
  (-inf, inf), except for a proportion.
  """

  mean: float
  low: float
  high: float
  count: int


def proportion(
  successes: int, total: int, confidence: float = 0.95
) -> Estimate:
  """A share of successes with Wilson's score interval.

  With p = successes / total and z the normal quantile:
  (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

  Raises:
    ValueError: not 0 <= successes <= total, no trial, or a confidence that
      is not between 0 and 1.
  """
  if total < 1 or not 0 <= successes <= total:
    raise ValueError(
      f"{successes} successes of {total} is no proportion; "
      "need 0 <= successes <= total and total >= 1"
    )
  z = float(special.ndtri(_upper_level(confidence)))
  p = successes / total
  scale = 1 + z * z / total
  centre = (p + z * z / (2 * total)) / scale
  half = (
    z / scale * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
  )
  # The ends are exact at 0 and 1; rounding must not say otherwise.
  low = 0.0 if successes == 0 else centre - half
  high = 1.0 if successes == total else centre + half
  return Estimate(p, low, high, int(total))


def mean(
  values: Sequence[float] | np.ndarray,
  confidence: float = 0.95,
  *,
  method: str = "t",
) -> Estimate:
  """The mean of independent values, f64[n], with an interval about it.

  mean ± q * s / sqrt(n), s the sample standard deviation (n - 1), q the
  quantile of Student's t with n - 1 degrees of freedom (`method='t'`) or of
  the normal distribution (`'normal'`).

  Raises:
    ValueError: no value, a value that is not finite, an unknown method.
  """
  values = _finite_vector(values, "values")
  level = _upper_level(confidence)
  if method not in ("t", "normal"):
    raise ValueError(f"method is {method!r}; it must be 't' or 'normal'")
  count, centre = len(values), float(np.mean(values))
  if count == 1:
    return Estimate(centre, -math.inf, math.inf, 1)
  quantile = (
    special.stdtrit(count - 1, level) if method == "t" else special.ndtri(level)
  )
  half = float(quantile * np.std(values, ddof=1) / math.sqrt(count))
  return Estimate(centre, centre - half, centre + half, count)


def paired_difference(
  first: Sequence[float] | np.ndarray,
  second: Sequence[float] | np.ndarray,
  confidence: float = 0.95,
  *,
  method: str = "t",
  resamples: int = 10_000,
  seed: int = 0,
) -> Estimate:
  """Mean of first - second over the same items, in the same order.

  Pairing removes the spread between items, which is most of the spread of an
  accuracy. `pair_by_item` brings two results into one order.

  Args:
    first: f64[n].
    second: f64[n].
    confidence: of the interval.
    method: 't' or 'normal' as in `mean`, or 'bootstrap': the percentiles of
      the mean over items drawn with replacement.
    resamples: number of bootstrap draws.
    seed: of the bootstrap; the same seed gives the same interval.

  Raises:
    ValueError: as `mean`, or the lengths differ.
  """
  first = _finite_vector(first, "first")
  second = _finite_vector(second, "second")
  if len(first) != len(second):
    raise ValueError(
      f"{len(first)} and {len(second)} values are not pairs; "
      "use pair_by_item on results of the same items"
    )
  differences = first - second
  if method != "bootstrap":
    return mean(differences, confidence, method=method)
  if len(differences) == 1:
    return mean(differences, confidence)
  return _bootstrap(differences, _upper_level(confidence), resamples, seed)


def pair_by_item(
  first: Mapping[Hashable, float],
  second: Mapping[Hashable, float],
) -> tuple[np.ndarray, np.ndarray]:
  """Two results by item id as two arrays f64[n] in one order.

  Raises:
    ValueError: the results are not about the same items.
  """
  if first.keys() != second.keys():
    alone = sorted(map(str, first.keys() ^ second.keys()))
    raise ValueError(
      f"{len(alone)} items are in one result only, such as {alone[0]!r}; "
      "compare results of the same items"
    )
  return (
    np.array([first[key] for key in first], float),
    np.array([second[key] for key in first], float),
  )


def mean_over_seeds(
  scores: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Estimate:
  """Mean over independent runs with Student's t interval over the runs.

  Args:
    scores: f64[runs], one score a run, or f64[runs, items], then averaged
      over the items first. The interval is about the spread of runs.
    confidence: of the interval.
  """
  scores = np.asarray(scores, float)
  if scores.ndim == 2 and scores.shape[1]:
    scores = scores.mean(axis=1)
  return mean(scores, confidence)


def group_means(
  values: Sequence[float] | np.ndarray, groups: Sequence[Hashable]
) -> np.ndarray:
  """Mean of the values of each group, f64[groups], in order of appearance.

  Raises:
    ValueError: the lengths differ.
  """
  if len(values) != len(groups):
    raise ValueError(f"{len(values)} values but {len(groups)} group labels")
  members: dict[Hashable, list[float]] = {}
  for value, group in zip(values, groups):
    members.setdefault(group, []).append(float(value))
  return np.array([np.mean(group) for group in members.values()])


def grouped_proportion(
  flags: Sequence[bool], groups: Sequence[Hashable]
) -> Estimate:
  """A share of successes with an interval over groups.

  Wilson's, as `proportion`, where each group has one member; otherwise the
  mean of the groups' means, since members of a group are not independent.

  Raises:
    ValueError: the lengths differ, or there is no flag.
  """
  if len(flags) == len(groups) == len(set(groups)):
    return proportion(sum(map(bool, flags)), len(flags))
  return mean(group_means(flags, groups))


def _bootstrap(
  values: np.ndarray, level: float, resamples: int, seed: int
) -> Estimate:
  if resamples < 1:
    raise ValueError(f"resamples is {resamples}; it must be at least 1")
  rng = np.random.default_rng(seed)
  # One draw at a time: a table of all indices would be n * resamples large.
  means = [
    values[rng.integers(len(values), size=len(values))].mean()
    for _ in range(resamples)
  ]
  low, high = np.quantile(means, [1 - level, level])
  return Estimate(float(values.mean()), float(low), float(high), len(values))


def _upper_level(confidence: float) -> float:
  if not 0 < confidence < 1:
    raise ValueError(
      f"confidence is {confidence!r}; it must be between 0 and 1, such as 0.95"
    )
  return (1 + confidence) / 2


def _finite_vector(
  values: Sequence[float] | np.ndarray, name: str
) -> np.ndarray:
  values = np.asarray(values, float)
  if values.ndim != 1 or not values.size:
    raise ValueError(
      f"{name} has shape {values.shape}; it must be a vector "
      "of at least one value"
    )
  if not np.isfinite(values).all():
    raise ValueError(
      f"{name} holds a value that is not finite, at index "
      f"{int(np.argmin(np.isfinite(values)))}"
    )
  return values
