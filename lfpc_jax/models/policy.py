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
  rollout: bool = False,
) -> jax.Array:
  """Embeds tokens, visual tokens taken from the tower's output.

  Args:
    config: the policy.
    params: its parameters.
    tokens: ids i32[..., T].
    visual_index: for a visual token its row in `visual`, else -1, i32[..., T].
    visual: the tower's output [..., M, D], the same leading axes.
    rollout: whether the parameters lie where a rollout has them.

  Returns:
    [..., T, D] in the compute precision.
  """
  words = jnp.take(params["embedding"], tokens, axis=0).astype(config.dtype)
  if not rollout and parallel.parts("embed") > 1:
    # Each device looks all tokens up in its own part of the width, and only
    # then they are exchanged; so do their gradients go back.
    words = parallel.constrain(words, (None,) * tokens.ndim + ("embed",))
  index = jnp.maximum(visual_index, 0)[..., None]
  pixels = jnp.take_along_axis(visual.astype(config.dtype), index, axis=-2)
  return jnp.where((visual_index >= 0)[..., None], pixels, words)


def _head(config: PolicyConfig, params: Params) -> jax.Array:
  return params["embedding" if config.tie_word_embeddings else "head"]


def _scores(hidden: jax.Array, head: jax.Array) -> jax.Array:
  """f32[..., V] of hidden states [..., D] and rows [V, D] of the head."""
  kind, rows = hidden.dtype, hidden.shape[:-1]
  if parallel.current_mesh() is None:
    # The head's gradient then sums over one axis: layers.py says why.
    hidden = hidden.reshape(-1, hidden.shape[-1])
  product = jnp.matmul(
    hidden,
    head.astype(kind).T,
    precision=precision(kind),
    preferred_element_type=jnp.float32,
  )
  return product.reshape(*rows, head.shape[0])


def logits(
  config: PolicyConfig, params: Params, hidden: jax.Array
) -> jax.Array:
  """Logits f32[..., V] of hidden states [..., D]; for a few tokens only."""
  return _scores(hidden, _head(config, params))


def log_probabilities(
  config: PolicyConfig,
  params: Params,
  hidden: jax.Array,
  targets: jax.Array,
  temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each target and the entropy of its distribution.

  Works through the vocabulary in parts, each over all tokens, and recomputes
  them in the backward pass: `[..., V]` never exists whole, each device brings
  each part of a split head together once, and a part's gradient leaves it
  once. The softmax over the union of the parts is exact.

  Args:
    config: the policy; `logit_chunk` tokens' logits may exist at one time.
    params: its parameters.
    hidden: hidden states [..., T, D], each predicting its target.
    targets: ids i32[..., T].
    temperature: divides the logits, as in sampling.

  Returns:
    f32[..., T] each; the entropy has no gradient.
  """
  head = _head(config, params)
  number = _vocabulary_parts(config, targets.size)
  vocab, width = head.shape
  size = -(-vocab // number)
  # Part i has the ids i, i + number, ...: each a share of every device's rows.
  head = jnp.pad(head, ((0, size * number - vocab), (0, 0)))
  head = jnp.moveaxis(head.reshape(size, number, width), 1, 0)
  kind, hidden = hidden.dtype, hidden.astype(jnp.float32)  # sums its gradient

  def part(carry, rows):
    top, total, weighted, found = carry
    head, index = rows
    scores = _scores(hidden.astype(kind), head) / temperature
    known = jnp.arange(size) * number + index < vocab
    scores = jnp.where(known, scores, _NEGATIVE)
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
    new = jnp.maximum(top, highest)
    below = scores - new[..., None]
    weight, scale = jnp.exp(below), jnp.exp(top - new)
    # Of scores below the highest one: nothing large cancels in the entropy.
    weighted = (weighted + total * (top - new)) * scale
    weighted += jnp.sum(weight * below, axis=-1)
    weighted = jax.lax.stop_gradient(weighted)
    total = total * scale + jnp.sum(weight, axis=-1)
    # A masked sum has a mask for a gradient, where a look-up has a scatter.
    own = targets[..., None] == jnp.arange(size) * number + index
    found += jnp.sum(jnp.where(own, scores, 0.0), axis=-1)
    return (new, total, weighted, found), None

  zero = jnp.zeros(targets.shape, jnp.float32)
  start = (zero + _NEGATIVE, zero, zero, zero)
  if number > 1:  # or there is nothing that has to be forgotten
    part = jax.checkpoint(part)
  (top, total, weighted, found), _ = jax.lax.scan(
    part, start, (head, jnp.arange(number))
  )
  entropy = jax.lax.stop_gradient(jnp.log(total) - weighted / total)
  return found - (top + jnp.log(total)), entropy


def _vocabulary_parts(config: PolicyConfig, tokens: int) -> int:
  """A power of two up to 128, which published vocabularies are multiples of."""
  if not config.logit_chunk:
    return 1
  devices = parallel.parts("prompt") * parallel.parts("vocab")
  wanted = -(-tokens // (devices * config.logit_chunk))
  return min(1 << max(wanted - 1, 0).bit_length(), 128)


_NEGATIVE = -1e30  # the score of an id that is not there
