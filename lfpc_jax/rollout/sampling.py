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
    token = jax.random.categorical(key, cut, axis=-1)
  else:
    token = jnp.argmax(logits, axis=-1)
  token = token.astype(jnp.int32)
  chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  return token, chosen - jax.nn.logsumexp(logits, axis=-1)
