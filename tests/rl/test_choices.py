"""Every choice that the paper leaves open is a flag, and does what it says.

Each case changes one field of the shipped config, by its flag, and compares
rewards, advantages or the loss's mask with numbers worked out by hand.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax.errors import UserError
from lfpc_jax.rl import scoring, token_losses
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rl.types import UpdateConfig
from lfpc_jax.rollout.types import CROPPED, NO_CALL, Batch, Stop, Trajectory
from tests.gap_selection import sizes

# An original of 30 x 40 pixels, diagonal 50. B_1 is 10 x 10, B_2 20 x 20.
B_1, B_2 = [10, 10, 20, 20], [5, 5, 25, 25]
# Rollout 0: right, two crops; 1: right, no crop; 2: wrong, one crop, badly
# formed; 3: wrong, no crop, cut off.
FIRST = [10, 10, 15, 20]  # half of B_1
LAST = [5, 5, 25, 20]  # three quarters of B_2, all of B_1
ONLY = [0, 0, 10, 10]  # apart from B_1, a corner of B_2
EMPTY = [0, 0, 0, 0]
CORRECT, FORMED = [[1, 1, 0, 0]], [[1, 1, 0, 1]]

# IoU, L1 distance over (40, 30) and over the diagonal, by crop and target.
FIRST_B1 = (50 / 100, 5 / 40 / 4, 5 / 50 / 4)
LAST_B1 = (100 / 300, (5 / 40 + 5 / 30 + 5 / 40 + 0) / 4, 15 / 50 / 4)
LAST_B2 = (300 / 400, 5 / 30 / 4, 5 / 50 / 4)
ONLY_B2 = (
  25 / (100 + 400 - 25),
  (5 / 40 + 5 / 30 + 15 / 40 + 15 / 30) / 4,
  40 / 50 / 4,
)
ONLY_B1 = (0, (10 / 40 + 10 / 30) * 2 / 4, 40 / 50 / 4)


def _geo(iou, distance, w=0.5):
  return w * iou + (1 - w) * (1 - distance)


LAST_GEO = _geo(*LAST_B2[:2])
FIRST_GEO = _geo(0, FIRST_B1[1])  # covers half of B_1: no IoU
ONLY_GEO = _geo(0, min(ONLY_B2[1], ONLY_B1[1]))


def _some(kind, **values):
  fields = {field.name: None for field in dataclasses.fields(kind)}
  return kind(**fields | {k: jnp.asarray(v) for k, v in values.items()})


BATCH = _some(
  Batch, size=[[30, 40]], targets=[[B_1, B_2]], target_valid=[[True, True]]
)
TRAJECTORY = _some(
  Trajectory,
  boxes=[[[FIRST, LAST], [EMPTY] * 2, [ONLY, EMPTY], [EMPTY] * 2]],
  crops=[[2, 0, 1, 0]],
  turns=[[3, 1, 2, 1]],
  outcome=[
    [
      [CROPPED, CROPPED, NO_CALL],
      [NO_CALL] * 3,
      [CROPPED, NO_CALL, NO_CALL],
      [NO_CALL] * 3,
    ]
  ],
  stop=[[Stop.ANSWERED, Stop.ANSWERED, Stop.ANSWERED, Stop.TURN_LENGTH]],
  written=np.ones((1, 4, 6), bool),
  steps=6,
)


def _config(*changes):
  return config_lib.freeze(config_lib.load_config(sizes.CONFIG, changes))


def _score(*changes, correct=CORRECT, formed=FORMED):
  """(rewards relative to their mean, mask) under a config with changes.

  Rewards themselves are not returned by `score`: mean-only advantages plus
  the mean reward are.
  """
  config = _config("rl.advantage=mean_only", *changes)
  run = functools.partial(
    scoring.score, RewardConfig(**config.reward), UpdateConfig(**config.rl)
  )
  arrays = (jnp.array(x, bool) for x in (correct, formed))
  advantages, mask, metrics = jax.device_get(run(BATCH, TRAJECTORY, *arrays))
  return advantages[0] + metrics["reward"], mask[0].tolist(), advantages[0]


REWARDS = {
  # Stage 1: right with a crop 2.0, right without 0.8, wrong and badly formed
  # -0.2, wrong 0.
  (): (2.0, 0.8, -0.2, 0),
  ("reward.accuracy=1",): (2.2, 1.0, -0.2, 0),
  ("reward.format_penalty=0.5",): (2.0, 0.8, -0.5, 0),
  ("reward.tool=0.3",): (1.1, 0.8, -0.2, 0),
  ("reward.tool_rule=none",): (0.8, 0.8, -0.2, 0),
  ("reward.tool_rule=unconditional",): (2.0, 0.8, 1.0, 0),
  # Stage 2.
  ("reward.geo_weight=1",): (2 + LAST_GEO, 0.8, -0.2 + ONLY_GEO, 0),
  ("reward.geo_weight=2",): (2 + 2 * LAST_GEO, 0.8, -0.2 + 2 * ONLY_GEO, 0),
  ("reward.geo_weight=1", "reward.geo_gate=accuracy"): (
    *(2 + LAST_GEO, 0.8, -0.2, 0),
  ),
  ("reward.geo_weight=1", "reward.crop_rule=first"): (
    *(2 + FIRST_GEO, 0.8, -0.2 + ONLY_GEO, 0),
  ),
  ("reward.geo_weight=1", "reward.crop_rule=best"): (
    *(2 + LAST_GEO, 0.8, -0.2 + ONLY_GEO, 0),
  ),
  ("reward.geo_weight=1", "reward.crop_rule=mean"): (
    *(2 + (FIRST_GEO + LAST_GEO) / 2, 0.8, -0.2 + ONLY_GEO, 0),
  ),
  ("reward.geo_weight=1", "reward.iou_weight=0.9"): (
    2 + _geo(*LAST_B2[:2], w=0.9),
    0.8,
    -0.2 + _geo(0, min(ONLY_B2[1], ONLY_B1[1]), w=0.9),
    0,
  ),
  # Half of B_1 suffices for the first crop's IoU now.
  (
    "reward.geo_weight=1",
    "reward.crop_rule=first",
    "reward.tau=0.4",
  ): (2 + _geo(*FIRST_B1[:2]), 0.8, -0.2 + ONLY_GEO, 0),
  # Naive IoU: a corner of B_2 counts.
  ("reward.geo_weight=1", "reward.coverage_condition=false"): (
    2 + LAST_GEO,
    0.8,
    -0.2 + _geo(ONLY_B2[0], min(ONLY_B2[1], ONLY_B1[1])),
    0,
  ),
  ("reward.geo_weight=1", "reward.innermost_only=true"): (
    2 + _geo(*LAST_B1[:2]),
    0.8,
    -0.2 + _geo(0, ONLY_B1[1]),
    0,
  ),
  ("reward.geo_weight=1", "reward.l1_normaliser=diagonal"): (
    2 + _geo(LAST_B2[0], LAST_B2[2]),
    0.8,
    -0.2 + _geo(0, min(ONLY_B2[2], ONLY_B1[2])),
    0,
  ),
}


@pytest.mark.parametrize("changes", REWARDS, ids=" ".join)
def test_a_reward_flag_gives_the_reward_worked_by_hand(changes):
  found, _, _ = _score(*changes)
  np.testing.assert_allclose(found, REWARDS[changes], atol=1e-5)


def test_the_cases_differ_from_the_default_where_they_should():
  """A case that repeats another one's numbers would show nothing."""
  stage_2 = REWARDS["reward.geo_weight=1",]
  same = [
    changes
    for changes, rewards in REWARDS.items()
    if len(changes) > 1 and np.allclose(rewards, stage_2, atol=1e-4)
  ]
  # The last crop is the best one here; tests of the reward tell them apart.
  assert same == [("reward.geo_weight=1", "reward.crop_rule=best")]


def test_the_advantage_is_the_papers_or_centred_only():
  rewards = np.array(REWARDS[()])
  centred = rewards - rewards.mean()
  _, _, found = _score("rl.advantage=mean_only")
  np.testing.assert_allclose(found, centred, atol=1e-6)
  _, _, found = _score("rl.advantage=std")
  np.testing.assert_allclose(found, centred / centred.std(), atol=1e-4)
  _, _, found = _score("rl.advantage=std", "rl.advantage_epsilon=1")
  np.testing.assert_allclose(found, centred / (centred.std() + 1), atol=1e-4)


def test_the_over_long_mask_takes_out_what_a_limit_cut_off():
  assert _score()[1] == [True] * 4
  assert _score("rl.mask_over_long=true")[1] == [True, True, True, False]


def test_the_zero_variance_filter_takes_out_a_group_of_equal_rewards():
  wrong, formed = [[0] * 4], [[1] * 4]
  same = dict(correct=wrong, formed=formed)
  assert _score(**same)[1] == [True] * 4
  assert _score("rl.drop_zero_variance=true", **same)[1] == [False] * 4
  assert _score("rl.drop_zero_variance=true")[1] == [True] * 4


def _loss(*changes, reference=None, now=0.5, before=0.4, advantage=1.0):
  """Loss of a token; by default its ratio is 1.25 and its advantage 1."""
  rules = UpdateConfig(**_config(*changes).rl)
  new, old = (
    jnp.log(jnp.full((1, 1, 1), now)),
    jnp.log(jnp.full((1, 1, 1), before)),
  )
  other = jnp.log(jnp.full((1, 1, 1), reference or 0.5))
  loss, clipped = token_losses.token_losses(
    rules, new, old, other, jnp.full((1, 1), advantage)
  )
  return float(loss[0, 0, 0]), bool(clipped[0, 0, 0])


def test_clip_higher_lets_a_good_token_grow_further():
  assert _loss() == (pytest.approx(-1.2), True)
  assert _loss("rl.clip_high=0.28") == (pytest.approx(-1.25), False)
  bad = dict(now=0.35, before=0.5, advantage=-1.0)  # a ratio of 0.7
  assert _loss(**bad) == (pytest.approx(0.8), True)
  assert _loss("rl.clip_low=0.1", **bad) == (pytest.approx(0.9), True)


def test_the_kl_term_is_that_of_the_reference():
  plain, _ = _loss()
  # k3 of log(0.25 / 0.5): 0.5 - log(0.5) - 1.
  loss, _ = _loss("rl.kl=0.1", reference=0.25)
  expected = 0.1 * (0.5 + np.log(2) - 1)
  assert loss - plain == pytest.approx(expected, rel=1e-4)
  assert _loss("rl.kl=0.1")[0] == pytest.approx(plain)  # the same policy


def test_the_limits_of_an_episode_and_of_a_box_are_flags():
  config = _config(
    "rollout.max_crops=3",
    "rollout.max_response_tokens=99",
    "rollout.crop_min_side=40",
    "rollout.crop_max_aspect=7",
    "rollout.temperature=0.5",
    "rollout.top_p=0.9",
  )
  limits = agent_lib.episode_config(config.rollout)
  assert (limits.max_crops, limits.max_response_tokens) == (3, 99)
  assert (limits.crop_min_side, limits.crop_max_aspect) == (40, 7.0)
  assert (limits.temperature, limits.top_p) == (0.5, 0.9)


@pytest.mark.parametrize(
  "change, says",
  [
    ("reward.crop_rule=middle", "'last', 'first', 'best', 'mean'"),
    ("reward.geo_gate=always", "'none', 'accuracy'"),
    ("reward.l1_normaliser=area", "'size', 'diagonal'"),
    ("reward.tau=1.5", "a number from 0 to 1"),
    ("reward.iou_weight=-1", "a number from 0 to 1"),
    ("rl.advantage_epsilon=0", "rl.advantage_epsilon=0.0: must be > 0"),
    ("rl.kl=-1", "rl.kl=-1.0: must be >= 0"),
  ],
)
def test_a_choice_that_is_none_is_refused(change, says):
  config = _config(change)
  with pytest.raises(UserError, match=says):
    RewardConfig(**config.reward)
    UpdateConfig(**config.rl)
