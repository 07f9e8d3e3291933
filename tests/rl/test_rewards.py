"""Total reward and its configuration: every rule, every rejected value."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import pytest

from lfpc_jax.errors import UserError
from lfpc_jax.rl import rewards

_total = jax.jit(rewards.total_reward, static_argnames="config")

# correct, formed, calls, geo -> accuracy, format, tool, geo
_REWARDS = [
  ((True, True, 1, 0.0), (0.8, 0, 1.2, 0)),  # 2.0
  ((True, True, 5, 0.0), (0.8, 0, 1.2, 0)),  # more calls earn no more
  ((True, True, 0, 0.0), (0.8, 0, 0, 0)),
  ((False, True, 3, 0.0), (0, 0, 0, 0)),
  ((False, False, 0, 0.0), (0, -0.2, 0, 0)),
  ((True, False, 1, 0.0), (0.8, -0.2, 1.2, 0)),
  ((True, True, 1, 0.6), (0.8, 0, 1.2, 0)),  # stage 1 ignores the box
]


def _reward(correct, formed, calls, geo, **config):
  terms = _total(
    jnp.array([[correct]]),
    jnp.array([[formed]]),
    jnp.array([[calls]]),
    jnp.array([[geo]], jnp.float32),
    config=rewards.RewardConfig(**config),
  )
  return jax.tree.map(lambda x: float(x[0, 0]), terms)


@pytest.mark.parametrize("rollout, parts", _REWARDS)
def test_stage_1_rewards(rollout, parts):
  terms = _reward(*rollout)
  found = terms.accuracy, terms.format, terms.tool, terms.geo
  assert found == pytest.approx(parts)
  assert terms.total == pytest.approx(sum(parts))


@pytest.mark.parametrize(
  "correct, gate, total",
  [
    (True, "none", 2.0 + 0.6),
    (False, "none", 0.6),
    (True, "accuracy", 2.0 + 0.6),
    (False, "accuracy", 0.0),
  ],
)
def test_stage_2_adds_the_grounding_reward(correct, gate, total):
  terms = _reward(correct, True, 1, 0.6, geo_weight=1.0, geo_gate=gate)
  assert terms.total == pytest.approx(total)


def test_geo_weight_scales_the_grounding_reward():
  assert _reward(False, True, 1, 0.6, geo_weight=0.5).geo == pytest.approx(0.3)


@pytest.mark.parametrize(
  "rule, correct, calls, tool",
  [
    ("conditional", True, 1, 1.2),
    ("conditional", False, 1, 0),
    ("conditional", True, 0, 0),
    ("unconditional", True, 1, 1.2),
    ("unconditional", False, 1, 1.2),
    ("unconditional", True, 0, 0),
    ("none", True, 1, 0),
    ("none", False, 1, 0),
  ],
)
def test_tool_rules(rule, correct, calls, tool):
  terms = _reward(correct, True, calls, 0.0, tool_rule=rule)
  assert terms.tool == pytest.approx(tool)


@settings(max_examples=50, deadline=None)
@given(st.booleans(), st.booleans(), st.integers(0, 5), st.floats(0, 1))
def test_parts_sum_to_the_total(correct, formed, calls, geo):
  terms = _reward(correct, formed, calls, geo, geo_weight=1.0)
  parts = terms.accuracy + terms.format + terms.tool + terms.geo
  assert terms.total == pytest.approx(parts, abs=1e-6)


@pytest.mark.parametrize(
  "name, value, allowed",
  [
    ("tool_rule", "always", "'conditional', 'unconditional', 'none'"),
    ("crop_rule", "worst", "'last', 'first', 'best', 'mean'"),
    ("geo_gate", True, "'none', 'accuracy'"),
    ("geo_gate", ["none"], "'none', 'accuracy'"),
    ("l1_normaliser", "width", "'size', 'diagonal'"),
    ("tau", 1.1, "from 0 to 1"),
    ("tau", float("nan"), "from 0 to 1"),
    ("iou_weight", -0.1, "from 0 to 1"),
    ("iou_weight", "0.5", "from 0 to 1"),
    ("accuracy", -1, "0 or more"),
    ("tool", float("inf"), "finite"),
    ("format_penalty", -0.2, "0 or more"),
    ("geo_weight", None, "0 or more"),
    ("accuracy", True, "0 or more"),
    ("coverage_condition", 1, "True or"),
    ("innermost_only", "no", "True or False"),
  ],
)
def test_wrong_config_values_name_field_and_remedy(name, value, allowed):
  with pytest.raises(UserError) as error:
    rewards.RewardConfig(**{name: value})
  assert f"reward.{name}={value!r}: must be" in str(error.value)
  assert allowed in str(error.value)


def test_config_is_hashable_and_holds_the_documented_defaults():
  config = rewards.RewardConfig()
  assert hash(config) == hash(rewards.RewardConfig())
  assert dataclasses.asdict(config) == dict(
    accuracy=0.8,
    format_penalty=0.2,
    tool=1.2,
    tool_rule="conditional",
    geo_weight=0.0,
    geo_gate="none",
    tau=0.9,
    iou_weight=0.5,
    crop_rule="last",
    coverage_condition=True,
    innermost_only=False,
    l1_normaliser="size",
  )
