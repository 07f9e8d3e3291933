"""Attention in parts that merge by their log-sum-exp.

A suffix token attends to two sets of keys: the prefix, which the G rollouts
of a prompt share, and its own suffix. Softmax over their union is exactly the
two partial softmaxes weighted by their log-sum-exp, so each part is an
ordinary attention call over its own keys (Prefix Grouper, arXiv 2506.05433).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lfpc_jax.models.layers import precision

_NEGATIVE = -1e30  # a masked score; finite, so that an empty row is no NaN


def scores(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
  """Scaled scores f32[B, K, R, Tq, Tk] for R query heads per kv head."""
  scale = q.shape[-1] ** -0.5
  q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
  # Queries are few beside keys: they are what is brought in order, so that
  # the product reads keys and values as a cache has them.
  s = jnp.einsum(
    "bkrqd,bskd->bkrqs",
    q.transpose(0, 2, 3, 1, 4),
    k,
    precision=precision(q.dtype),
    preferred_element_type=jnp.float32,
  )
  return jnp.where(mask[:, None, None], s * scale, _NEGATIVE)


def _attend(q, k, v, mask):
  s = scores(q, k, mask)
  top = jax.lax.stop_gradient(jnp.max(s, axis=-1, keepdims=True))
  weight = jnp.exp(s - top)
  total = jnp.sum(weight, axis=-1)
  weight = weight.astype(v.dtype)
  out = jnp.einsum("bkrqs,bskd->bkrqd", weight, v, precision=precision(v.dtype))
  out = jnp.moveaxis(out / total[..., None].astype(out.dtype), 3, 1)
  lse = jnp.moveaxis(top[..., 0] + jnp.log(total), 3, 1)
  return out.reshape(q.shape), lse.reshape(q.shape[:3])


def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, chunk: int = 0
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention and its log-sum-exp.

  Args:
    q: queries [B, Tq, H, head_dim].
    k: keys [B, Tk, K, head_dim]; H is a multiple of K.
    v: values, as k.
    mask: which keys a query may read, bool[B or 1, Tq or 1, Tk].
    chunk: queries scored at one time (0: all), which bounds the memory.

  Returns:
    Outputs [B, Tq, H, head_dim] and log-sum-exp f32[B, Tq, H].
  """
  length = q.shape[1]
  if not chunk or length <= chunk:
    return _attend(q, k, v, mask)
  pad = -length % chunk

  def split(x):
    x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(x.shape[0], -1, chunk, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  def join(x):
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]

  if mask.shape[1] == 1:  # one row for all queries is not worth copying
    out = jax.lax.map(
      jax.checkpoint(lambda part: _attend(part, k, v, mask)), split(q)
    )
  else:
    out = jax.lax.map(
      jax.checkpoint(lambda part: _attend(part[0], k, v, part[1])),
      (split(q), split(mask)),
    )
  return jax.tree.map(join, out)


def merge(
  a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]
) -> jax.Array:
  """Attention over the union of two disjoint key sets from its two parts."""
  weight = jax.nn.sigmoid(a[1] - b[1])[..., None]
  out = a[0].astype(jnp.float32) * weight
  out = out + b[0].astype(jnp.float32) * (1.0 - weight)
  return out.astype(a[0].dtype)
