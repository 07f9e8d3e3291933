"""One token from logits.

Sampling inverts the cumulative distribution, in two steps: a block of the
vocabulary by its share of the probability, then an id within it. That takes two
random numbers a row; the Gumbel scores of jax.random.categorical take one for
each id, 152,064 of them, which costs several times as much
(experiments/speed/sampling.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_BLOCKS = 128  # what published vocabularies are multiples of


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
  top = jnp.max(scores, axis=-1, keepdims=True)
  return _first(scores == top, scores.shape[-1] - 1)


def _first(which: jax.Array, default: int | jax.Array) -> jax.Array:
  """The first index of the last axis where `which` holds, i32[...]."""
  number = jax.lax.broadcasted_iota(jnp.int32, which.shape, which.ndim - 1)
  size = which.shape[-1]
  found = jnp.min(jnp.where(which, number, size), axis=-1)
  return jnp.where(found < size, found, default)


def _invert(uniform: jax.Array, weights: jax.Array) -> jax.Array:
  """An index drawn by its weight, i32[...]; never one whose weight is 0.

  Args:
    uniform: random numbers in [0, 1), f32[...].
    weights: f32[..., n], none negative; all 0 gives the last index.
  """
  total = jnp.cumsum(weights, axis=-1)
  above = total > uniform[..., None] * total[..., -1:]
  # Rounding may leave nothing above, and may lift a sum beside a weight of 0.
  size = weights.shape[-1]
  last = size - 1 - _first(jnp.flip(weights, -1) > 0, 0)
  return _first(above & (weights > 0), last)


def _draw(key: jax.Array, logits: jax.Array) -> jax.Array:
  """An id with probability softmax(logits), i32[...]."""
  vocab = logits.shape[-1]
  size = -(-vocab // _BLOCKS)
  weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  pad = [(0, 0)] * (logits.ndim - 1) + [(0, size * _BLOCKS - vocab)]
  weights = jnp.pad(weights, pad).reshape(*logits.shape[:-1], _BLOCKS, size)
  uniform = jax.random.uniform(key, (*logits.shape[:-1], 2))
  block = _invert(uniform[..., 0], jnp.sum(weights, axis=-1))
  # Not a gather: where the vocabulary is split, each device has its part.
  number = jnp.arange(_BLOCKS)[:, None]
  own = jnp.where(number == block[..., None, None], weights, 0.0)
  inside = _invert(uniform[..., 1], jnp.sum(own, axis=-2))
  return jnp.minimum(block * size + inside, vocab - 1)


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
    token = _draw(key, _nucleus(logits, top_p) if top_p < 1 else logits)
  else:
    token = _largest(logits)
  chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  return token, chosen - jax.nn.logsumexp(logits, axis=-1)
