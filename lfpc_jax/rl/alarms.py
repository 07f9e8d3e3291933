"""Alarms: training that goes wrong says so, with the cause and a way out.

Reinforcement learning of a tool collapses in known ways: the policy stops
calling, or calls without end; its boxes grow to the whole image; all rollouts
of a group earn the same; it writes one text whatever it sees; its calls stop
being valid. Each is one alarm, looked for in the step's metrics.

A metric is averaged over a window of steps, and "rising" or "falling" is
against the run's first window. An alarm that is on is 1 in the step's row
(`alarm_no_calls`, ...), and now and then one plain line.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import math
from typing import Any

from lfpc_jax.errors import UserError

Means = Mapping[str, float]
"""Each metric's mean over a window of steps."""


@dataclasses.dataclass(frozen=True)
class AlarmConfig:
  """Thresholds; all are choices of this project. Shares are of 1.

  Attributes:
    window: steps that are averaged; before it is full no alarm is on.
    every: steps between two warnings of one alarm.
    min_tool_rate: fewer rollouts than this share crop: no calls.
    max_endless: a larger share ends with a call instead of an answer.
    max_box_area: a crop's mean share of the image, however it began ...
    box_area_growth: ... or this many times that of the first window.
    max_zero_variance: a larger share of the groups teaches nothing.
    min_entropy: entropy below this share of the first window's is a collapse
      if the policy is not right either.
    max_failed_calls: a larger share of the calls fails ...
    failed_calls_rise: ... and that is this much more than at first.
    learned_accuracy: from here on a policy may be sure of itself.
  """

  window: int = 5
  every: int = 20
  min_tool_rate: float = 0.03
  max_endless: float = 0.3
  max_box_area: float = 0.5
  box_area_growth: float = 3.0
  max_zero_variance: float = 0.9
  min_entropy: float = 0.05
  max_failed_calls: float = 0.3
  failed_calls_rise: float = 0.1
  learned_accuracy: float = 0.8

  def __post_init__(self) -> None:
    """Refuses thresholds that mean nothing."""
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      least = 1 if field.name in ("window", "every") else 0
      if not value >= least:
        raise UserError(f"alarms.{field.name}={value}: must be >= {least}")


@dataclasses.dataclass(frozen=True)
class _Alarm:
  """One way to go wrong.

  Attributes:
    name: of its column, after `alarm_`.
    metrics: what it looks at; without them in the rows it is silent.
    is_on: from thresholds, the window's means and the first window's.
    text: what to print, with the means by name, `first_` before the first's.
  """

  name: str
  metrics: tuple[str, ...]
  is_on: Callable[[AlarmConfig, Means, Means], bool]
  text: Callable[[AlarmConfig, Means, Means], str]


def _not_finite(c: AlarmConfig, now: Means, first: Means) -> bool:
  return not all(map(math.isfinite, now.values()))


def _broken(now: Means) -> str:
  return next(name for name, x in now.items() if not math.isfinite(x))


def _area_runs_away(c: AlarmConfig, now: Means, first: Means) -> bool:
  if now["tool_rate"] < c.min_tool_rate:
    return False  # a mean over next to nothing
  area, before = now["box_area"], first["box_area"]
  grown = before > 0 and area > c.box_area_growth * before
  return grown or area > c.max_box_area


def _calls_fail(c: AlarmConfig, now: Means, first: Means) -> bool:
  rise = now["failed_calls"] - first["failed_calls"]
  return now["failed_calls"] > c.max_failed_calls and (
    rise > c.failed_calls_rise
  )


def _entropy_collapsed(c: AlarmConfig, now: Means, first: Means) -> bool:
  # A policy that has learned its task is sure of itself, and rightly so.
  return (
    now["entropy"] < c.min_entropy * first["entropy"]
    and now["accuracy"] < c.learned_accuracy
  )


def _zero_variance_text(c: AlarmConfig, now: Means, first: Means) -> str:
  found = f"{now['zero_variance']:.0%} of the groups have equal rewards: "
  if now["accuracy"] >= c.learned_accuracy:
    return found + (
      "these data are learned; stop here, or take harder ones with "
      "--config.data.difficulty=hard"
    )
  return found + (
    "the questions are too hard, or all rollouts do the same; try more "
    "rollouts with --config.rollout.group, a larger view with "
    "--config.gap.tokens, or --config.rl.drop_zero_variance=true"
  )


def _entropy_text(c: AlarmConfig, now: Means, first: Means) -> str:
  return (
    f"entropy fell from {first['entropy']:.2g} to {now['entropy']:.2g} at an "
    f"accuracy of {now['accuracy']:.0%}: the policy no longer explores; try "
    "a lower --config.optimizer.learning_rate, --config.rl.clip_high=0.28 or "
    "--config.rl.kl=0.01"
  )


# The likeliest cause of the others comes first: a step prints one line.
_ALARMS = (
  _Alarm(
    "not_finite",
    (),
    _not_finite,
    lambda c, now, first: (
      f"{_broken(now)} is not a finite number: the update has diverged; go "
      "back to an earlier checkpoint and lower "
      "--config.optimizer.learning_rate or --config.optimizer.clip_norm"
    ),
  ),
  _Alarm(
    "endless_calls",
    ("endless_calls",),
    lambda c, now, first: now["endless_calls"] > c.max_endless,
    lambda c, now, first: (
      f"{now['endless_calls']:.0%} of the episodes end with a call instead of "
      "an answer: calling is worth more than answering; take "
      "--config.reward.tool_rule=conditional, which pays for a crop only "
      "with a right answer, or allow more --config.rollout.max_turns"
    ),
  ),
  _Alarm(
    "failed_calls",
    ("failed_calls",),
    _calls_fail,
    lambda c, now, first: (
      f"{now['failed_calls']:.0%} of the tool calls fail, "
      f"{first['failed_calls']:.0%} did at first: the calls' form is being "
      "unlearned; try a lower --config.optimizer.learning_rate, or "
      "--config.rl.kl=0.01 to stay near the starting policy"
    ),
  ),
  _Alarm(
    "no_calls",
    ("tool_rate",),
    lambda c, now, first: now["tool_rate"] < c.min_tool_rate,
    lambda c, now, first: (
      f"only {now['tool_rate']:.1%} of the rollouts crop: the view suffices "
      "to answer, or a crop does not pay; widen the gap with a smaller "
      "--config.gap.tokens, or raise --config.reward.tool"
    ),
  ),
  _Alarm(
    "box_area",
    ("box_area", "tool_rate"),
    _area_runs_away,
    lambda c, now, first: (
      f"crops take {now['box_area']:.0%} of the image, "
      f"{first['box_area']:.0%} at first: nothing asks for small boxes; go on "
      "with the grounding reward, --config.reward.geo_weight=1, or make "
      "large boxes blur with a smaller --config.rollout.crop_max_tokens"
    ),
  ),
  _Alarm(
    "entropy",
    ("entropy", "accuracy"),
    _entropy_collapsed,
    _entropy_text,
  ),
  _Alarm(
    "zero_variance",
    ("zero_variance", "accuracy"),
    lambda c, now, first: now["zero_variance"] > c.max_zero_variance,
    _zero_variance_text,
  ),
)
NAMES = tuple(f"alarm_{alarm.name}" for alarm in _ALARMS)


class Alarms:
  """Looks at one row of metrics after the other."""

  def __init__(
    self, config: AlarmConfig, rows: Iterable[Mapping[str, Any]] = ()
  ):
    """Begins after `rows`, those of the steps before a resume."""
    self._config = config
    self._first: list[Mapping[str, float]] = []
    self._recent: collections.deque = collections.deque(maxlen=config.window)
    self._warned: dict[str, int] = {}
    for row in rows:
      self.check(row["step"], {k: v for k, v in row.items() if k != "step"})

  def check(
    self, step: int, scalars: Mapping[str, float]
  ) -> tuple[dict[str, int], str | None]:
    """Takes a step's metrics, on the host.

    Returns:
      0 or 1 for each of NAMES, and a warning to print now, or None.
    """
    self._recent.append(
      {k: v for k, v in scalars.items() if not k.startswith("alarm_")}
    )
    if len(self._first) < self._config.window:
      self._first.append(self._recent[-1])
    now, first = _means(self._recent), _means(self._first)
    on = [alarm for alarm in _ALARMS if self._is_on(alarm, now, first)]
    flags = {f"alarm_{alarm.name}": int(alarm in on) for alarm in _ALARMS}
    for alarm in on:
      last = self._warned.get(alarm.name)
      if last is None or step - last >= self._config.every:
        self._warned[alarm.name] = step
        text = alarm.text(self._config, now, first)
        return flags, f"warning at step {step + 1}: {text}"
    return flags, None

  def _is_on(self, alarm: _Alarm, now: Means, first: Means) -> bool:
    if not alarm.metrics:  # no mean repairs a broken number
      return alarm.is_on(self._config, self._recent[-1], first)
    complete = len(self._recent) == self._config.window
    known = all(name in now and name in first for name in alarm.metrics)
    if not (complete and known):
      return False
    if not all(math.isfinite(now[name]) for name in alarm.metrics):
      return False
    return alarm.is_on(self._config, now, first)


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
  rows = list(rows)
  names = set.intersection(*(set(row) for row in rows))
  return {name: sum(row[name] for row in rows) / len(rows) for name in names}
