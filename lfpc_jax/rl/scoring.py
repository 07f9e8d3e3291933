"""From rollouts to rewards and advantages, with the numbers worth logging."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.data.examples import Example
from lfpc_jax.image import boxes
from lfpc_jax.rl import advantages, answers, rewards
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rl.types import UpdateConfig
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import NO_CALL, Batch, Stop, Trajectory


def judge(
  turns: Sequence[Sequence[Sequence[str]]], examples: Sequence[Example]
) -> list[list[answers.Verdict]]:
  """The verdict on each of the P x G episodes, from its turns' texts."""
  return [
    [answers.verdict(t, e.answer, e.options) for t in group]
    for group, e in zip(turns, examples, strict=True)
  ]


def verdict_arrays(
  verdicts: Sequence[Sequence[answers.Verdict]],
) -> tuple[np.ndarray, np.ndarray]:
  """Correct and well formed, bool[P, G] each."""
  return tuple(
    np.array([[getattr(v, name) for v in group] for group in verdicts])
    for name in ("correct", "formed")
  )


def executed(trajectory: Trajectory) -> jax.Array:
  """Which crop slots hold an executed crop, bool[P, G, C]."""
  slot = jnp.arange(trajectory.boxes.shape[2])
  return slot < trajectory.crops[..., None]


def invalid_calls(outcome: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
  """Calls of each episode that no crop could have come of, i32[P, G].

  A good call after the last crop allowed is not one of them: its form is
  right.

  Args:
    outcome: of each turn, as in `Trajectory`, i32[P, G, M].
  """
  invalid = (outcome >= 0) & (outcome != Failure.NO_CROPS_LEFT)
  return invalid.sum(axis=-1)


def score(
  reward: RewardConfig,
  update: UpdateConfig,
  batch: Batch,
  trajectory: Trajectory,
  correct: jax.Array,
  formed: jax.Array,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
  """Rewards the rollouts and compares them within their groups.

  Args:
    reward: weights and rules; static.
    update: the advantage's form and the masks; static.
    batch: the prompts.
    trajectory: the rollouts.
    correct: the answer is right, bool[P, G].
    formed: the format rule holds, bool[P, G].

  Returns:
    advantages f32[P, G], the mask of rollouts in the loss bool[P, G], and
    metrics f32[].
  """
  valid = executed(trajectory)
  geo = rewards.grounding_reward(
    trajectory.boxes,
    valid,
    batch.targets,
    batch.target_valid,
    batch.size,
    reward,
  )
  terms = rewards.total_reward(
    correct, formed, trajectory.crops, geo.geo, reward
  )
  over_long = trajectory.stop != Stop.ANSWERED
  mask = advantages.rollout_mask(
    terms.total,
    over_long=over_long if update.mask_over_long else None,
    drop_zero_variance=update.drop_zero_variance,
  )
  values = advantages.group_advantages(
    terms.total, form=update.advantage, epsilon=update.advantage_epsilon
  )
  return values, mask, _metrics(batch, trajectory, correct, formed, geo, terms)


def _metrics(batch, trajectory, correct, formed, geo, terms):
  """Means over rollouts; of boxes over the rollouts that have one."""
  called = trajectory.crops > 0
  failed = invalid_calls(trajectory.outcome)
  calls = jnp.sum(trajectory.outcome != NO_CALL, axis=-1)
  size = batch.size[:, None, None]
  area = boxes.area_fraction(trajectory.boxes, size)
  last = jnp.maximum(trajectory.crops - 1, 0)[..., None]
  area = jnp.take_along_axis(area, last, axis=-1)[..., 0]

  def over_called(x):
    return jnp.sum(x * called) / jnp.maximum(jnp.sum(called), 1)

  written = jnp.sum(trajectory.written, axis=-1)
  return {
    "reward": jnp.mean(terms.total),
    "accuracy": jnp.mean(correct),
    "well_formed": jnp.mean(formed),
    "tool_rate": jnp.mean(called),
    "crops": jnp.mean(trajectory.crops),
    "failed_calls": jnp.sum(failed) / jnp.maximum(jnp.sum(calls), 1),
    "box_iou": over_called(geo.plain_iou),
    "box_coverage": over_called(geo.coverage),
    "box_area": over_called(area),
    "grounding": over_called(geo.geo),
    "zero_variance": advantages.zero_variance_share(terms.total),
    "written_tokens": jnp.mean(written),
    "cut_off": jnp.mean(trajectory.stop != Stop.ANSWERED),
    # Every turn but the last is a call: here the last one is, too.
    "endless_calls": jnp.mean(calls == trajectory.turns),
    "decode_use": jnp.sum(written)
    / (written.size * jnp.maximum(trajectory.steps, 1)),
  }
