"""Alarms on sequences of metrics: each way to go wrong, and going right."""

import dataclasses
import math

import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.errors import UserError
from lfpc_jax.rl import alarms
from lfpc_jax.rl.alarms import AlarmConfig, Alarms
from tests.gap_selection import sizes

STEPS = 60
HEALTHY = dict(
  reward=1.0,
  accuracy=0.5,
  tool_rate=0.8,
  failed_calls=0.05,
  endless_calls=0.02,
  box_area=0.05,
  zero_variance=0.3,
  entropy=0.5,
)


def _rows(steps=STEPS, **changed):
  """Healthy rows but for the metrics that are functions of t in [0, 1]."""
  for step in range(steps):
    t = step / (steps - 1)
    yield step, HEALTHY | {name: f(t) for name, f in changed.items()}


def _run(rows, config=None, before=()):
  """Names of the alarms that were on at each step, and the warnings."""
  watch = Alarms(config or AlarmConfig(), before)
  on, warnings = [], []
  for step, row in rows:
    flags, warning = watch.check(step, row)
    assert tuple(flags) == alarms.NAMES
    on.append({name for name, value in flags.items() if value})
    if warning:
      warnings.append(warning)
  return on, warnings


def _slide(start, end):
  return lambda t: start + (end - start) * t


def _wave(centre, spread):
  return lambda t: centre + spread * math.sin(40 * t)


HEALTHY_RUNS = {
  "steady": {},
  # From a policy that hardly works to one that has learned its task: all
  # groups come to agree, and the policy to be sure.
  "learns": dict(
    accuracy=_slide(0.4, 0.97),
    tool_rate=_slide(0.3, 1.0),
    failed_calls=_slide(0.5, 0.0),
    zero_variance=_slide(0.2, 0.85),
    entropy=_slide(0.6, 0.02),
    box_area=_slide(0.037, 0.058),
    endless_calls=_slide(0.25, 0.0),
  ),
  "noisy": dict(
    accuracy=_wave(0.4, 0.1),
    tool_rate=_wave(0.3, 0.1),
    failed_calls=_wave(0.2, 0.04),
    zero_variance=_wave(0.6, 0.2),
    entropy=_wave(1.2, 0.3),
    box_area=_wave(0.1, 0.03),
  ),
  "stage 2: boxes shrink": dict(box_area=_slide(0.12, 0.02)),
  "many invalid calls from the start, and slowly fewer": dict(
    failed_calls=_slide(0.5, 0.35)
  ),
  "the gap alone: few calls": dict(tool_rate=_slide(0.15, 0.1)),
}


@pytest.mark.parametrize("name", HEALTHY_RUNS)
def test_a_healthy_run_raises_nothing(name):
  on, warnings = _run(_rows(**HEALTHY_RUNS[name]))
  assert not any(on) and not warnings


# What goes wrong: the metrics, the alarm, and what its warning must name.
COLLAPSES = {
  "stops calling": (
    dict(tool_rate=_slide(0.5, 0.0)),
    "alarm_no_calls",
    ("only", "--config.gap.tokens", "--config.reward.tool"),
  ),
  "calls without end": (
    dict(endless_calls=_slide(0.0, 0.9)),
    "alarm_endless_calls",
    ("end with a call", "--config.reward.tool_rule=conditional"),
  ),
  "boxes run away from a small start": (
    dict(box_area=_slide(0.04, 0.3)),
    "alarm_box_area",
    ("of the image", "--config.reward.geo_weight=1"),
  ),
  "boxes become the image": (
    dict(box_area=_slide(0.3, 0.9)),
    "alarm_box_area",
    ("of the image", "--config.reward.geo_weight=1"),
  ),
  "nothing to compare, too hard": (
    dict(zero_variance=_slide(0.3, 1.0), accuracy=_slide(0.2, 0.05)),
    "alarm_zero_variance",
    ("too hard", "--config.rollout.group", "--config.gap.tokens"),
  ),
  "nothing to compare, learned": (
    dict(zero_variance=_slide(0.3, 1.0), accuracy=lambda t: 0.98),
    "alarm_zero_variance",
    ("are learned", "--config.data.difficulty=hard"),
  ),
  "one text whatever it sees": (
    dict(entropy=lambda t: 0.8 * (1 - t) ** 3),
    "alarm_entropy",
    ("no longer explores", "--config.rl.clip_high=0.28", "--config.rl.kl"),
  ),
  "calls fall apart": (
    dict(failed_calls=_slide(0.05, 0.7)),
    "alarm_failed_calls",
    ("of the tool calls fail", "--config.optimizer.learning_rate"),
  ),
  "diverges": (
    dict(entropy=lambda t: math.nan if t > 0.5 else 0.5),
    "alarm_not_finite",
    ("entropy is not a finite number", "--config.optimizer"),
  ),
}


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_raises_its_alarm_alone(name):
  changed, alarm, says = COLLAPSES[name]
  on, warnings = _run(_rows(**changed))
  assert not on[0] and on[-1] == {alarm}
  assert set.union(*on) == {alarm}
  first = next(step for step, names in enumerate(on) if names)
  assert warnings[0].startswith(f"warning at step {first + 1}: ")
  for part in says:
    assert part in warnings[0]
  assert "\n" not in warnings[0]


@pytest.mark.parametrize("name", COLLAPSES)
def test_the_flags_of_a_warning_are_fields_of_the_config(name):
  _, warnings = _run(_rows(**COLLAPSES[name][0]))
  words = warnings[0].replace(",", " ").replace(";", " ").split()
  flags = [w for w in words if w.startswith("--config.")]
  changes = [flag.removeprefix("--config.") for flag in flags]
  known = config_lib.load_config(sizes.CONFIG)
  for change in changes:
    if "=" not in change:
      value = known
      for part in change.split("."):
        value = value[part]
      change = f"{change}={value}"
    config_lib.load_config(sizes.CONFIG, [change])  # knows the field
  assert flags


def test_a_warning_comes_now_and_then_and_the_alarm_at_each_step():
  config = AlarmConfig(window=5, every=20)
  on, warnings = _run(_rows(tool_rate=lambda t: 0.0), config)
  assert [bool(names) for names in on] == [False] * 4 + [True] * 56
  said = [int(w.split()[3].rstrip(":")) for w in warnings]
  assert said == [5, 25, 45]


def test_two_alarms_take_turns():
  rows = _rows(tool_rate=lambda t: 0.0, zero_variance=lambda t: 1.0)
  on, warnings = _run(rows, AlarmConfig(window=5, every=30))
  assert on[-1] == {"alarm_no_calls", "alarm_zero_variance"}
  said = [(int(w.split()[3].rstrip(":")), w) for w in warnings]
  assert [step for step, _ in said] == [5, 6, 35, 36]
  assert "rollouts crop" in said[0][1] and "equal rewards" in said[1][1]


def test_calling_without_end_is_named_before_calls_that_fail():
  rows = _rows(endless_calls=_slide(0.0, 0.9), failed_calls=_slide(0.0, 0.9))
  on, warnings = _run(rows)
  assert on[-1] == {"alarm_endless_calls", "alarm_failed_calls"}
  assert "end with a call" in warnings[0]


def test_one_bad_step_is_no_alarm():
  dip = lambda t: 0.0 if 0.49 < t < 0.51 else 0.8
  assert not any(_run(_rows(tool_rate=dip))[0])


def test_a_resumed_run_remembers_how_it_began():
  rows = list(_rows(box_area=_slide(0.04, 0.3)))
  on, _ = _run(rows)
  before = [
    {"step": step, **row, "alarm_entropy": 0} for step, row in rows[:30]
  ]
  again, _ = _run(rows[30:], before=before)
  assert again == on[30:]
  assert any(again)


def test_thresholds_are_fields_of_the_config():
  fields = {f.name: f.default for f in dataclasses.fields(AlarmConfig)}
  assert dict(config_lib.load_config(sizes.CONFIG).alarms) == fields
  loose = AlarmConfig(max_zero_variance=1.0)
  assert not any(_run(_rows(zero_variance=lambda t: 1.0), loose)[0])
  strict = AlarmConfig(min_tool_rate=0.9)
  assert _run(_rows(), strict)[0][-1] == {"alarm_no_calls"}


def test_a_threshold_that_means_nothing_is_refused():
  with pytest.raises(UserError, match=r"alarms.window=0"):
    AlarmConfig(window=0)
  with pytest.raises(UserError, match=r"alarms.max_box_area=-1"):
    AlarmConfig(max_box_area=-1)


def test_rows_without_a_metric_are_no_error():
  on, _ = _run((step, {"reward": 1.0}) for step in range(20))
  assert not any(on)
