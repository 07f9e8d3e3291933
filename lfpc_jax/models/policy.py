"""From token ids and views to hidden states, logits and log-probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lfpc_jax import parallel
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
  # The loop must not run over what is split: one lane for each part of it.
  lanes = parallel.parts("prompt")
  lanes, lane = ((), ()) if lanes == 1 else ((lanes,), ("prompt",))
  hidden = hidden.reshape(*lanes, -1, width)
  targets = targets.reshape(*lanes, -1)
  axis = len(lanes)
  total = targets.shape[axis]
  chunk = min(config.logit_chunk, total)

  def split(x):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, -total % chunk)
    x = jnp.pad(x, pad)
    x = x.reshape(*lanes, -1, chunk, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)

  def part(args):
    hidden = parallel.constrain(args[0], (*lane, None, "features"))
    scores = logits(config, params, hidden) / temperature
    logp = jax.nn.log_softmax(scores, axis=-1)
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    logp = jnp.take_along_axis(logp, args[1][..., None], axis=-1)
    return logp[..., 0], entropy

  found = jax.lax.map(jax.checkpoint(part), (split(hidden), split(targets)))

  def join(x):
    x = jnp.moveaxis(x, 0, axis).reshape(*lanes, -1)
    return x[..., :total].reshape(shape)

  return tuple(map(join, found))
