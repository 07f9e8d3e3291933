"""Log-probabilities and losses of single tokens, on given rollouts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lfpc_jax import parallel
from lfpc_jax.models import decoder
from lfpc_jax.models import policy as policy_lib
from lfpc_jax.models.config import PolicyConfig
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
    f32[P, G, T] each; slot t is the token in slot t given all before it.
    Slot 0 is the prompt's and has 0.
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
  hidden = parallel.constrain(
    hidden[:, :, :-1], ("prompt", "rollout", "suffix", "features")
  )
  outputs = policy_lib.log_probabilities(
    config,
    params,
    hidden,
    trajectory.tokens[:, :, 1:],
    episodes.temperature or 1.0,
  )
  start = ((0, 0), (0, 0), (1, 0))
  return tuple(jnp.pad(x, start) for x in outputs)


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
