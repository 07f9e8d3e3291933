"""Log-probabilities and losses of single tokens, on given rollouts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lfpc_jax import parallel
from lfpc_jax.models import decoder
from lfpc_jax.models import policy as policy_lib
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.layers import permute
from lfpc_jax.models.parameters import Params
from lfpc_jax.rl.types import UpdateConfig
from lfpc_jax.rollout import encoding
from lfpc_jax.rollout.types import Batch, EpisodeConfig, Trajectory


def token_log_probabilities(
  config: PolicyConfig,
  episodes: EpisodeConfig,
  capacity: int,
  params: Params,
  batch: Batch,
  trajectory: Trajectory,
  prefix: decoder.PrefixCache | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The learner's log-probability of each suffix token, and the entropy.

  Args:
    config: the policy.
    episodes: the limits that the rollouts were made under.
    capacity: visual tokens of the largest global view.
    params: the policy's parameters.
    batch: the prompts.
    trajectory: the rollouts.
    prefix: what `encoding.encode_prompt` gives, if that is known.

  Returns:
    f32[P, G, T] each; slot t is the token in slot t given all before it, and
    has 0 if the policy did not write it.
  """
  if prefix is None:
    prefix = encoding.encode_prompt(config, params, batch, capacity)
  crops = [
    encoding.encode_crops(
      config,
      params,
      batch.originals,
      trajectory.boxes[:, :, c],
      trajectory.grids[:, :, c],
      trajectory.crops > c,
      episodes.crop_max_tokens,
    )
    for c in range(episodes.max_crops)
  ]
  x = policy_lib.embed(
    config,
    params,
    trajectory.tokens,
    trajectory.visual_index,
    jnp.concatenate(crops, axis=2),
  )
  x = parallel.constrain(x, ("prompt", "rollout", "suffix", "features"))
  slots = jnp.broadcast_to(jnp.arange(episodes.slots), x.shape[:3])
  hidden, _ = decoder.extend(
    config, params, x, trajectory.positions, slots, prefix
  )
  return _at_written(config, episodes, params, hidden, trajectory)


def _at_written(config, episodes, params, hidden, trajectory):
  """The same from the hidden states.

  The head reads as many of a rollout's slots as its turns can write in, the
  written ones first.
  """
  features = ("prompt", "rollout", "suffix", "features")
  written, targets = trajectory.written[:, :, 1:], trajectory.tokens[:, :, 1:]
  hidden, unread = hidden[:, :, :-1], written.shape[-1] - episodes.most_written
  order = jnp.argsort(~written, axis=-1, stable=True)
  back = jnp.argsort(order, axis=-1)
  if unread:  # or all are read where they lie
    hidden = permute(hidden, order, back)[:, :, :-unread]
    targets = jnp.take_along_axis(targets, order, axis=-1)[:, :, :-unread]
  outputs = policy_lib.log_probabilities(
    config,
    params,
    parallel.constrain(hidden, features),
    targets,
    episodes.temperature or 1.0,
  )

  def spread(x):
    if unread:
      x = jnp.pad(x, ((0, 0), (0, 0), (0, unread)))
      x = permute(x[..., None], back, order)[..., 0]
    return jnp.pad(jnp.where(written, x, 0.0), ((0, 0), (0, 0), (1, 0)))

  return tuple(map(spread, outputs))


def token_losses(
  config: UpdateConfig, logp, old, reference, advantages
) -> tuple[jax.Array, jax.Array]:
  """Loss of each token and whether its ratio was clipped."""
  ratio = jnp.exp(logp - old)
  low, high = 1 - config.clip_low, 1 + config.clip_high
  a = advantages[..., None]
  kept, cut = ratio * a, jnp.clip(ratio, low, high) * a
  loss = -jnp.minimum(kept, cut)
  if config.kl:
    loss = loss + config.kl * kl(logp, reference)
  return loss, cut < kept


def kl(logp, reference) -> jax.Array:
  """k3, exp(d) - d - 1: an unbiased and positive estimate of the KL."""
  d = reference - logp
  return jnp.exp(d) - d - 1
