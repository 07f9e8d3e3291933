"""Judging, rewarding and comparing rollouts, against cases worked by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.data.examples import Example
from lfpc_jax.rl import scoring
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rl.types import UpdateConfig
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import (
  CROPPED,
  NO_CALL,
  NO_ROOM,
  Batch,
  Stop,
  Trajectory,
)

STAGE_1, STAGE_2 = RewardConfig(), RewardConfig(geo_weight=1.0)

# Two prompts of two rollouts:
#   0, 0  two crops, right
#   0, 1  one crop, wrong, cut off
#   1, 0  a failed call, right
#   1, 1  no call, wrong and badly formed
CORRECT = [[True, False], [True, False]]
FORMED = [[True, True], [True, False]]
JUNK = [0, 0, 100, 100]  # must not count: an earlier crop or an empty slot
BOXES = [
  [[JUNK, [10, 10, 30, 40]], [[20, 10, 40, 30], JUNK]],
  [[JUNK, JUNK], [JUNK, JUNK]],
]
# The smallest target is 400 pixels. The first crop holds it whole in 600
# pixels; the second holds half of it, in 400.
GEO = [0.5 * 400 / 600 + 0.5 * (1 - 0.1 / 4), 0.5 * (1 - 2 * 0.05 / 4)]


def _some(kind, **values):
  """An instance with these fields alone."""
  fields = {field.name: None for field in dataclasses.fields(kind)}
  return kind(**fields | jax.tree.map(jnp.asarray, values, is_leaf=_is_list))


def _is_list(x):
  return isinstance(x, list)


BATCH = _some(
  Batch,
  size=[[100, 200], [50, 50]],
  targets=[
    [[10, 10, 30, 30], [0, 0, 60, 40]],
    [[5, 5, 10, 10], [0, 0, 0, 0]],
  ],
  target_valid=[[True, True], [True, False]],
)
TRAJECTORY = _some(
  Trajectory,
  boxes=BOXES,
  crops=[[2, 1], [0, 0]],
  turns=[[3, 2], [2, 1]],
  outcome=[
    [[CROPPED, CROPPED, NO_CALL], [CROPPED, NO_CALL, NO_CALL]],
    [[Failure.NOT_JSON, NO_CALL, NO_CALL], [NO_CALL] * 3],
  ],
  stop=[[Stop.ANSWERED, Stop.TURN_LENGTH], [Stop.ANSWERED] * 2],
  written=[
    [[True] * 4 + [False], [True] * 3 + [False] * 2],
    [[True] * 2 + [False] * 3, [True] + [False] * 4],
  ],
  steps=5,
)


def _score(reward, trajectory=TRAJECTORY, correct=CORRECT, **rules):
  run = jax.jit(functools.partial(scoring.score, reward, UpdateConfig(**rules)))
  found = run(BATCH, trajectory, jnp.array(correct), jnp.array(FORMED))
  return jax.device_get(found)


def test_stage_1_is_the_case_worked_by_hand():
  advantages, mask, metrics = _score(STAGE_1, advantage="mean_only")
  # Rewards 2.0 and 0; 0.8 and -0.2: a failed call earns nothing.
  np.testing.assert_allclose(advantages, [[1, -1], [0.5, -0.5]], atol=1e-6)
  assert mask.all()
  expected = dict(
    reward=2.6 / 4,
    accuracy=2 / 4,
    well_formed=3 / 4,
    tool_rate=2 / 4,
    crops=3 / 4,
    failed_calls=1 / 4,  # of three crops and one failure
    box_iou=(2 / 3 + 1 / 3) / 2,
    box_coverage=(1 + 1 / 2) / 2,
    box_area=(600 + 400) / 2 / 20_000,
    grounding=sum(GEO) / 2,
    zero_variance=0,
    written_tokens=10 / 4,
    cut_off=1 / 4,
    endless_calls=0,
    decode_use=10 / (4 * 5),
  )
  for name, value in expected.items():
    assert metrics[name] == pytest.approx(value, abs=1e-6), name


def test_stage_2_adds_the_boxes_and_the_group_is_normalised():
  advantages, _, metrics = _score(STAGE_2)
  assert metrics["reward"] == pytest.approx((2.6 + sum(GEO)) / 4)
  # Of two different rewards one is a standard deviation above the mean.
  np.testing.assert_allclose(advantages, [[1, -1], [1, -1]], atol=1e-4)


def test_without_crops_the_means_over_crops_are_zero():
  outcome = TRAJECTORY.outcome
  none = dataclasses.replace(
    TRAJECTORY,
    crops=jnp.zeros((2, 2), jnp.int32),
    outcome=jnp.where(outcome == CROPPED, NO_CALL, outcome),
  )
  _, _, metrics = _score(STAGE_2, none)
  assert all(np.isfinite(value) for value in metrics.values())
  for name in ("box_iou", "box_coverage", "box_area", "grounding", "crops"):
    assert metrics[name] == 0, name
  assert metrics["failed_calls"] == 1


NO_CROPS, NOT_JSON = Failure.NO_CROPS_LEFT, Failure.NOT_JSON
# Four episodes each: outcomes, why they stopped, and what that comes to:
# the share of the calls that is invalid, and of the episodes that end with one.
CALLS = {
  # The call after the last crop is well formed: 4 crops, 4 such calls.
  "no crops left, turns": ([CROPPED, NO_CROPS], Stop.TURNS, 0, 1),
  "no crops left, then right": ([CROPPED, NO_CROPS, NO_CALL], 0, 0, 0),
  "no room for the crop": ([CROPPED, NO_ROOM], Stop.RESPONSE_LENGTH, 0, 1),
  "no room for the error": ([CROPPED, NOT_JSON], Stop.RESPONSE_LENGTH, 0.5, 1),
  "cut off in a turn": ([CROPPED, NO_CALL], Stop.RESPONSE_LENGTH, 0, 0),
  "invalid, then right": ([NOT_JSON, NO_CALL], Stop.ANSWERED, 1, 0),
  "no call": ([NO_CALL], Stop.ANSWERED, 0, 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_invalid_and_endless_calls_are_told_apart(name):
  turns, stop, failed, endless = CALLS[name]
  crops, outcome = turns.count(CROPPED), turns + [NO_CALL] * (3 - len(turns))
  made = dataclasses.replace(
    TRAJECTORY,
    crops=jnp.full((2, 2), crops),
    turns=jnp.full((2, 2), len(turns)),
    outcome=jnp.broadcast_to(jnp.array(outcome), (2, 2, 3)),
    stop=jnp.full((2, 2), stop),
  )
  _, _, metrics = _score(STAGE_1, made)
  assert metrics["failed_calls"] == failed
  assert metrics["endless_calls"] == endless


def test_masks_leave_out_what_their_rules_say():
  same = [[True, False], [False, False]]  # group 1 is told apart by form alone
  _, mask, _ = _score(STAGE_1, correct=same, mask_over_long=True)
  assert mask.tolist() == [[True, False], [True, True]]
  no_penalty = RewardConfig(format_penalty=0.0)
  advantages, mask, metrics = _score(
    no_penalty, correct=same, drop_zero_variance=True
  )
  assert mask.tolist() == [[True, True], [False, False]]
  assert metrics["zero_variance"] == 0.5
  assert advantages[1].tolist() == [0, 0]


def _example(answer, options=()):
  image = np.zeros((1, 1, 3), np.uint8)
  boxes = np.zeros((0, 4), np.int32)
  return Example("x", image, "?", answer, "any", options, boxes, "here")


def test_each_rollout_is_judged_by_its_own_prompts_answer():
  right, other = "<answer>7</answer>", "<answer>3</answer>"
  call = "<tool_call>{}</tool_call>"
  turns = [
    [[right], [call, other], ["7"]],
    [[call, right], [other], ["<answer>B</answer>"]],
  ]
  examples = [_example("7"), _example("3", ("2", "3"))]
  verdicts = scoring.judge(turns, examples)
  correct, formed = scoring.verdict_arrays(verdicts)
  assert correct.dtype == formed.dtype == bool
  assert correct.tolist() == [[True, False, False], [False, True, True]]
  assert formed.tolist() == [[True, True, False], [True, True, True]]
  assert verdicts[1][2].answer == "B"


def test_prompts_without_examples_are_an_error():
  with pytest.raises(ValueError):
    scoring.judge([[["7"]], [["7"]]], [_example("7")])
