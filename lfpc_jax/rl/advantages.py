"""Advantages of GRPO: each rollout against its own group.

LFPC (arXiv 2603.27494) uses A_i = (r_i - mean) / std within the G rollouts
of a prompt. Two different masks act here, and they must not be mixed up:

- `valid` takes a rollout out of the group's statistics (an empty slot, or a
  rollout whose reward is unknown);
- `rollout_mask` takes a rollout out of the loss only: an over-long rollout
  keeps its place in the statistics, so that its neighbours are still
  compared with it, but nothing is learned from its cut-off text.
"""

import jax
import jax.numpy as jnp

# Equal rewards are the same sums of the same weights, so they differ by
# rounding at most; below this range a group has nothing to compare.
ZERO_VARIANCE_RANGE = 1e-6

FORMS = ("std", "mean_only")


def group_advantages(
  rewards: jax.Array,
  valid: jax.Array | None = None,
  *,
  form: str = "std",
  epsilon: float = 1e-6,
) -> jax.Array:
  """A = (r - mean) / (std + epsilon) within each group.

  The standard deviation is the population's (divided by the number of
  rollouts, not by one less). A group without variance gets exactly 0, where
  the formula would blow up rounding errors.

  Args:
    rewards: f32[P, G].
    valid: bool[P, G], rollouts that count; None for all. The others get 0.
    form: 'std', or 'mean_only' for A = r - mean.
    epsilon: added to the standard deviation.

  Returns:
    f32[P, G].

  Raises:
    ValueError: an unknown form, or an epsilon that is not positive.
  """
  if form not in FORMS:
    raise ValueError(
      f"advantage form is {form!r}; it must be one of "
      + ", ".join(map(repr, FORMS))
    )
  if not epsilon > 0:
    raise ValueError(f"advantage epsilon is {epsilon!r}; it must be positive")
  valid = _all_valid(rewards, valid)
  count = jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1)
  mean = jnp.sum(jnp.where(valid, rewards, 0.0), -1, keepdims=True) / count
  centred = jnp.where(valid, rewards - mean, 0.0)
  if form == "std":
    variance = jnp.sum(jnp.square(centred), -1, keepdims=True) / count
    centred = centred / (jnp.sqrt(variance) + epsilon)
  return jnp.where(zero_variance(rewards, valid)[:, None], 0.0, centred)


def zero_variance(
  rewards: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
  """bool[P]: groups whose valid rewards f32[P, G] are all the same.

  A group with fewer than two valid rollouts is one of them.
  """
  valid = _all_valid(rewards, valid)
  high = jnp.max(rewards, axis=-1, where=valid, initial=-jnp.inf)
  low = jnp.min(rewards, axis=-1, where=valid, initial=jnp.inf)
  return high - low <= ZERO_VARIANCE_RANGE


def zero_variance_share(
  rewards: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
  """f32[]: share of the groups with any valid rollout that teach nothing."""
  valid = _all_valid(rewards, valid)
  occupied = jnp.any(valid, axis=-1)
  degenerate = jnp.sum(zero_variance(rewards, valid) & occupied)
  return degenerate / jnp.maximum(jnp.sum(occupied), 1)


def group_filter(
  rewards: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
  """bool[P]: groups to keep when zero-variance groups are dropped.

  Their advantages are 0 anyway; dropping them also takes their tokens out of
  a token-mean loss, so the remaining groups weigh more.
  """
  return ~zero_variance(rewards, valid)


def rollout_mask(
  rewards: jax.Array,
  valid: jax.Array | None = None,
  *,
  over_long: jax.Array | None = None,
  drop_zero_variance: bool = False,
) -> jax.Array:
  """bool[P, G]: rollouts whose tokens enter the loss.

  Args:
    rewards: f32[P, G].
    valid: bool[P, G], rollouts that count; None for all.
    over_long: bool[P, G], rollouts cut off by a length or turn limit, to be
      masked out of the loss; None masks none.
    drop_zero_variance: leave whole groups out by `group_filter`.
  """
  mask = _all_valid(rewards, valid)
  if drop_zero_variance:
    mask = mask & group_filter(rewards, valid)[:, None]
  return mask if over_long is None else mask & ~over_long


def _all_valid(rewards: jax.Array, valid: jax.Array | None) -> jax.Array:
  return jnp.ones(rewards.shape, bool) if valid is None else valid
