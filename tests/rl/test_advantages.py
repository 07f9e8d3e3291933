"""Advantages: hand cases, NumPy as oracle, degenerate groups, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.rl import advantages

_advantages = jax.jit(
  advantages.group_advantages, static_argnames=("form", "epsilon")
)
_RANDOM = np.random.default_rng(1).random((8, 16)).astype(np.float32)


def test_hand_worked_group():
  # mean 1, deviations (1, -1, 1, -1), population std 1 (the sample std
  # would be sqrt(4 / 3) = 1.155).
  found = _advantages(jnp.array([[2.0, 0.0, 2.0, 0.0]]))
  np.testing.assert_allclose(found, [[1, -1, 1, -1]], atol=2e-6)


def test_mean_only_does_not_divide():
  # mean .7: (2 + .8 + 0 + 0) / 4.
  rewards = jnp.array([[2.0, 0.8, 0.0, 0.0]])
  found = _advantages(rewards, form="mean_only")
  np.testing.assert_allclose(found, [[1.3, 0.1, -0.7, -0.7]], atol=1e-6)


def test_epsilon_is_added_to_the_standard_deviation():
  # std 1, epsilon 1: half of the plain advantage.
  found = _advantages(jnp.array([[2.0, 0.0]]), epsilon=1.0)
  np.testing.assert_allclose(found, [[0.5, -0.5]], atol=1e-6)


@pytest.mark.parametrize("form", advantages.FORMS)
def test_random_groups_match_numpy(form):
  rng = np.random.default_rng(0)
  rewards = rng.choice([0, 0.8, 2.0, -0.2], (32, 16)) + rng.random((32, 16))
  found = _advantages(jnp.asarray(rewards, jnp.float32), form=form)
  for row, advantage in zip(rewards, np.asarray(found)):
    expected = row - np.mean(row)
    if form == "std":
      expected = expected / (np.std(row) + 1e-6)
    np.testing.assert_allclose(advantage, expected, atol=1e-5)


def test_groups_have_mean_zero_and_unit_spread():
  found = np.asarray(_advantages(_RANDOM), np.float64)
  np.testing.assert_allclose(found.mean(-1), 0, atol=1e-6)
  np.testing.assert_allclose(found.std(-1), 1, atol=1e-4)


def test_a_constant_added_or_a_scale_changes_nothing():
  plain = _advantages(_RANDOM)
  np.testing.assert_allclose(_advantages(3 * _RANDOM + 2), plain, atol=1e-4)


def test_groups_do_not_mix():
  changed = _RANDOM.copy()
  changed[0] *= np.arange(16)
  np.testing.assert_array_equal(
    _advantages(changed)[1:], _advantages(_RANDOM)[1:]
  )


@pytest.mark.parametrize("form", advantages.FORMS)
@pytest.mark.parametrize("value", [0.0, -0.2, 0.8, 2.0, 1 / 3, 1e4])
def test_equal_rewards_give_exactly_zero(value, form):
  # 16 times 0.8 sums to a rounded mean: (r - mean) / 1e-6 would be noise.
  found = _advantages(jnp.full((1, 16), value, jnp.float32), form=form)
  np.testing.assert_array_equal(found, np.zeros((1, 16)))


def test_small_but_real_differences_survive():
  found = _advantages(jnp.array([[0.8, 0.8, 0.8, 0.81]]))
  # std of (0, 0, 0, .01) is .01 sqrt(3) / 4, so the last is sqrt(3).
  np.testing.assert_allclose(found[0, 3], np.sqrt(3), rtol=1e-2)


def test_invalid_rollouts_are_outside_the_statistics():
  rewards = jnp.array([[2.0, 0.0, 100.0], [1.0, jnp.nan, 3.0]])
  valid = jnp.array([[True, True, False], [True, False, True]])
  found = _advantages(rewards, valid)
  np.testing.assert_allclose(found, [[1, -1, 0], [-1, 0, 1]], atol=2e-6)


def test_single_or_empty_groups_give_zero():
  rewards = jnp.array([[2.0, 5.0], [1.0, 4.0]])
  valid = jnp.array([[True, False], [False, False]])
  found = _advantages(rewards, valid)
  np.testing.assert_array_equal(found, np.zeros((2, 2)))
  np.testing.assert_array_equal(_advantages(jnp.array([[2.0]])), [[0.0]])


def test_zero_variance_groups_and_their_share():
  rewards = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.8, 2.0]])
  np.testing.assert_array_equal(
    advantages.zero_variance(rewards), [True, False, True, False]
  )
  np.testing.assert_array_equal(
    advantages.group_filter(rewards), [False, True, False, True]
  )
  assert float(advantages.zero_variance_share(rewards)) == 0.5


def test_empty_groups_do_not_enter_the_share():
  rewards = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
  valid = jnp.array([[True, True], [True, True], [False, False]])
  assert float(advantages.zero_variance_share(rewards, valid)) == 0.5
  assert (
    float(advantages.zero_variance_share(rewards, jnp.zeros((3, 2), bool)))
    == 0.0
  )


def test_over_long_rollouts_count_in_the_statistics_but_not_in_the_loss():
  rewards = jnp.array([[2.0, 0.0, 2.0, 0.0]])
  over_long = jnp.array([[False, True, False, False]])
  mask = advantages.rollout_mask(rewards, over_long=over_long)
  np.testing.assert_array_equal(mask, [[True, False, True, True]])
  # Without the over-long one the mean of the others would be 4 / 3.
  found = _advantages(rewards) * mask
  np.testing.assert_allclose(found, [[1, 0, 1, -1]], atol=2e-6)


def test_rollout_mask_combines_its_reasons():
  rewards = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
  valid = jnp.array([[True, True, True], [True, True, False]])
  over_long = jnp.array([[False, False, True], [True, False, False]])
  np.testing.assert_array_equal(
    advantages.rollout_mask(rewards), np.ones((2, 3), bool)
  )
  np.testing.assert_array_equal(advantages.rollout_mask(rewards, valid), valid)
  np.testing.assert_array_equal(
    advantages.rollout_mask(
      rewards, valid, over_long=over_long, drop_zero_variance=True
    ),
    [[False, False, False], [False, True, False]],
  )


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(form="rank"), "'rank'.*'std', 'mean_only'"),
    (dict(epsilon=0.0), "epsilon is 0.0.*positive"),
  ],
)
def test_wrong_options_name_the_remedy(options, message):
  with pytest.raises(ValueError, match=message):
    advantages.group_advantages(jnp.ones((1, 2)), **options)
