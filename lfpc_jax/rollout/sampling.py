"""One token from logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _nucleus(logits: jax.Array, top_p: float) -> jax.Array:
  """Masks all but the most likely tokens that reach probability top_p."""
  ordered = jnp.sort(logits, axis=-1, descending=True)
  before = jnp.cumsum(jax.nn.softmax(ordered), axis=-1)
  before = before - jax.nn.softmax(ordered)
  kept = jnp.where(before < top_p, ordered, jnp.inf)
  return jnp.where(logits >= jnp.min(kept, -1, keepdims=True), logits, -jnp.inf)


def _largest(scores: jax.Array) -> jax.Array:
  """argmax over the last axis, i32[...], as two plain reductions.

  XLA's own reduces pairs of value and index, which it does not vectorise on
  the CPU. Scores that are not numbers give the last index.
  """
  # Both reductions have to read the same bits, not to compute them anew.
  scores = jax.lax.optimization_barrier(scores)
  size = scores.shape[-1]
  top = jnp.max(scores, axis=-1, keepdims=True)
  number = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
  return jnp.min(jnp.where(scores == top, number, size - 1), axis=-1)


def sample(
  key: jax.Array, logits: jax.Array, temperature: float, top_p: float
) -> tuple[jax.Array, jax.Array]:
  """Samples a token and gives its log-probability.

  The log-probability is that of softmax(logits / temperature) before the
  nucleus cut, which is what the learner recomputes; greedy sampling
  (temperature 0) reports it at temperature 1.

  Args:
    key: a random key.
    logits: f32[..., V].
    temperature: divides the logits; 0 takes the largest.
    top_p: probability of the nucleus, 1 for all tokens.

  Returns:
    Token i32[...] and log-probability f32[...].
  """
  if temperature > 0:
    logits = logits / temperature
    cut = _nucleus(logits, top_p) if top_p < 1 else logits
    # What jax.random.categorical does: the largest of the Gumbel scores.
    token = _largest(cut + jax.random.gumbel(key, cut.shape, cut.dtype))
  else:
    token = _largest(logits)
  chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  return token, chosen - jax.nn.logsumexp(logits, axis=-1)
