"""From token ids and views to hidden states, logits and log-probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.layers import precision
from lfpc_jax.models.parameters import Params


def embed(
  config: PolicyConfig,
  params: Params,
  tokens: jax.Array,
  visual_index: jax.Array,
  visual: jax.Array,
) -> jax.Array:
  """Embeds tokens, visual tokens taken from the tower's output.

  Args:
    config: the policy.
    params: its parameters.
    tokens: ids i32[..., T].
    visual_index: for a visual token its row in `visual`, else -1, i32[..., T].
    visual: the tower's output [..., M, D], the same leading axes.

  Returns:
    [..., T, D] in the compute precision.
  """
  words = jnp.take(params["embedding"], tokens, axis=0).astype(config.dtype)
  index = jnp.maximum(visual_index, 0)[..., None]
  pixels = jnp.take_along_axis(visual.astype(config.dtype), index, axis=-2)
  return jnp.where((visual_index >= 0)[..., None], pixels, words)


def _head(config: PolicyConfig, params: Params) -> jax.Array:
  return params["embedding" if config.tie_word_embeddings else "head"]


def logits(
  config: PolicyConfig, params: Params, hidden: jax.Array
) -> jax.Array:
  """Logits f32[..., V] of hidden states [..., D]; for a few tokens only."""
  head = _head(config, params).astype(hidden.dtype)
  axes = (((hidden.ndim - 1,), (1,)), ((), ()))
  return jax.lax.dot_general(
    hidden,
    head,
    axes,
    precision=precision(hidden.dtype),
    preferred_element_type=jnp.float32,
  )


def log_probabilities(
  config: PolicyConfig,
  params: Params,
  hidden: jax.Array,
  targets: jax.Array,
  temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each target and the entropy of its distribution.

  Works through `logit_chunk` tokens at a time and recomputes them in the
  backward pass, so `[..., V]` never exists for all tokens at once.

  Args:
    config: the policy.
    params: its parameters.
    hidden: hidden states [..., T, D], each predicting its target.
    targets: ids i32[..., T].
    temperature: divides the logits, as in sampling.

  Returns:
    f32[..., T] each.
  """
  width, shape = hidden.shape[-1], targets.shape
  hidden, targets = hidden.reshape(-1, width), targets.reshape(-1)
  total = targets.shape[0]
  chunk = min(config.logit_chunk, total)
  pad = -total % chunk
  hidden = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(-1, chunk, width)
  targets = jnp.pad(targets, (0, pad)).reshape(-1, chunk)

  def part(args):
    scores = logits(config, params, args[0]) / temperature
    logp = jax.nn.log_softmax(scores, axis=-1)
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    return jnp.take_along_axis(logp, args[1][:, None], axis=1)[:, 0], entropy

  logp, entropy = jax.lax.map(jax.checkpoint(part), (hidden, targets))
  return tuple(x.reshape(-1)[:total].reshape(shape) for x in (logp, entropy))
