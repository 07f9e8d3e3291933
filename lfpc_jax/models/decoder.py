"""The decoder over a shared prefix and the suffixes that continue it.

`prefill` runs the prefix of P prompts once. `extend` runs T further tokens of
each of the P x G suffixes against it: T = 1 decodes, T = an observation's
length prefills it, T = the whole suffix is the training forward.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from lfpc_jax import parallel
from lfpc_jax.models import attention, fused, lora, rotary
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.layers import dense, remembering, rms_norm, swiglu
from lfpc_jax.models.parameters import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefixCache:
  """Keys and values of the prefix, read by all rollouts of a prompt.

  k: keys, already rotated, [L, P, K, head_dim, S].
  v: values, [L, P, K, S, head_dim]. Keys lie with their slots last and values
    with their width, as the products over a head read them: no step transposes
    a cache.
  length: filled slots, i32[P].
  """

  k: jax.Array
  v: jax.Array
  length: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixCache:
  """Keys and values of the suffixes.

  k: [L, P, G, K, head_dim, T].
  v: [L, P, G, K, T, head_dim].
  """

  k: jax.Array
  v: jax.Array


def empty_suffix(
  config: PolicyConfig, prompts: int, group: int, slots: int
) -> SuffixCache:
  """A cache for `slots` suffix tokens of each rollout."""
  text = config.text
  shape = (text.depth, prompts, group, text.kv_heads)
  return SuffixCache(
    jnp.zeros((*shape, text.head_dim, slots), config.dtype),
    jnp.zeros((*shape, slots, text.head_dim), config.dtype),
  )


def project(config, params, x, angles):
  """Rotated queries and keys, and values, of normed x."""
  x = rms_norm(params["norm1"], x, config.text.norm_epsilon)
  q = rotary.rotate(dense(params["q"], x), angles)
  k = rotary.rotate(dense(params["k"], x), angles)
  return q, k, dense(params["v"], x)


def finish(config, params, x, mixed):
  """The layer's second half: output projection and SwiGLU."""
  x = x + dense(params["o"], mixed, inputs=2)
  normed = rms_norm(params["norm2"], x, config.text.norm_epsilon)
  return x + swiglu(params, normed)


def prefill(
  config: PolicyConfig,
  params: Params,
  x: jax.Array,
  positions: jax.Array,
  length: jax.Array,
) -> PrefixCache:
  """Runs the prefix causally and keeps its keys and values.

  Args:
    config: the policy.
    params: its parameters.
    x: embedded tokens [P, S, D], padding on the right.
    positions: three-axis rotary positions i32[P, S, 3].
    length: filled slots i32[P], at least 1.
  """
  angles = rotary.text_angles(config.text, positions)
  slot = jnp.arange(x.shape[1])
  mask = (slot[:, None] >= slot[None])[None]
  kernel = fused.chosen(config)

  def mix(q, k, v):
    if kernel == "xla":
      return attention.attend(q, k, v, mask, config.attention_chunk)[0]
    return fused.causal(kernel, q, k, v)

  def step(x, layer):
    q, k, v = project(config, layer, x, angles)
    mixed = mix(q, k, v)
    return finish(config, layer, x, mixed), _to_cache(k, v)

  x = x.astype(config.dtype)
  layers = lora.adapt(config, params)
  _, (k, v) = jax.lax.scan(remembering(config, step), x, layers)
  return PrefixCache(k, v, length)


def _to_cache(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Keys and values [..., T, K, head_dim] as the caches have them."""
  return jnp.moveaxis(k, -3, -1), jnp.swapaxes(v, -3, -2)


def _from_cache(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The reverse, in name only: a product reads the caches as they lie."""
  return jnp.moveaxis(k, -1, -3), jnp.swapaxes(v, -3, -2)


def suffix_attention(config, q, k, v, slots, prefix_k, prefix_v, length):
  """Attention of q[P, G, t, H, .] to the prefix and to suffix keys k, v.

  A query in slot s reads the suffix keys of slots <= s. Arguments as in
  `extend`; k and v are [P, G, T, K, head_dim], the prefix's are
  [P, S, K, head_dim].
  """
  p, g, t = q.shape[:3]
  chunk = config.attention_chunk
  seen = (jnp.arange(prefix_k.shape[1]) < length[:, None])[:, None]
  folded = q.reshape(p, g * t, *q.shape[3:])
  shared = attention.attend(folded, prefix_k, prefix_v, seen, chunk)
  own_mask = jnp.arange(k.shape[2]) <= slots[..., None]

  def fold(x):
    return x.reshape(p * g, *x.shape[2:])

  own = attention.attend(fold(q), fold(k), fold(v), fold(own_mask), chunk)
  shared = tuple(x.reshape(p * g, t, *x.shape[2:]) for x in shared)
  return attention.merge(shared, own).reshape(q.shape)


def _store(keys, values, k, v, number, slots):
  """Puts k, v[p, g, i] in slot slots[p, g, i] of a layer, if there is one."""
  rows = jnp.arange(slots.shape[0])[:, None, None]
  cols = jnp.arange(slots.shape[1])[None, :, None]
  k, v = k.astype(keys.dtype), v.astype(values.dtype)
  return (
    keys.at[number, rows, cols, :, :, slots].set(k, mode="drop"),
    values.at[number, rows, cols, :, slots].set(v, mode="drop"),
  )


def extend(
  config: PolicyConfig,
  params: Params,
  x: jax.Array,
  positions: jax.Array,
  slots: jax.Array,
  prefix: PrefixCache,
  cache: SuffixCache | None = None,
  extent: int | None = None,
) -> tuple[jax.Array, SuffixCache | None]:
  """Runs suffix tokens against the prefix and the suffix so far.

  Args:
    config: the policy.
    params: its parameters.
    x: embedded tokens [P, G, t, D].
    positions: three-axis rotary positions i32[P, G, t, 3].
    slots: the suffix slot of each token i32[P, G, t]; a token whose slot is
      beyond the cache is not stored, and its output has no meaning.
    prefix: the prompts' keys and values.
    cache: keys and values of earlier suffix slots. None: x is the whole
      suffix, in slots 0, 1, 2, ..., and nothing is stored.
    extent: the cache is read in slots below this, which must hold every token
      that has a slot; static. None: in all.

  Returns:
    Hidden states [P, G, t, D] after the final norm, and the updated cache.
  """
  angles = rotary.text_angles(config.text, positions)
  x = x.astype(config.dtype)
  shared = (lora.adapt(config, params), prefix.k, prefix.v)
  kernel = fused.chosen(config)

  def whole(x, layer):
    layer, *before = layer
    q, k, v = project(config, layer, x, angles)
    before = (*_from_cache(*before), prefix.length)
    if kernel == "xla":
      mixed = suffix_attention(config, q, k, v, slots, *before)
    else:
      mixed = fused.grouped(kernel, q, k, v, *before)
    return finish(config, layer, x, mixed), None

  def cached(carry, layer):
    x, keys, values, number = carry
    layer, *before = layer
    q, k, v = project(config, layer, x, angles)
    # The whole cache is the carry and is written in place; what a layer reads
    # of it may be copied.
    keys, values = store(keys, values, k, v, number, slots)
    k = jax.lax.dynamic_index_in_dim(keys, number, keepdims=False)
    v = jax.lax.dynamic_index_in_dim(values, number, keepdims=False)
    k, v = _from_cache(k[..., :extent], v[..., :extent, :])
    before = (*_from_cache(*before), prefix.length)
    mixed = suffix_attention(config, q, k, v, slots, *before)
    return (finish(config, layer, x, mixed), keys, values, number + 1), None

  # Or else all devices would get the new keys of all prompts.
  row = ("prompt", "rollout")
  whole_cache = ("layers", *row)
  axes = (whole_cache, whole_cache, row, row, (), row)
  store = parallel.per_shard(_store, axes, whole_cache)
  if cache is None:
    x, _ = jax.lax.scan(remembering(config, whole), x, shared)
  else:
    carry = (x, cache.k, cache.v, jnp.int32(0))
    (x, keys, values, _), _ = jax.lax.scan(cached, carry, shared)
    cache = SuffixCache(keys, values)
  return rms_norm(params["norm"], x, config.text.norm_epsilon), cache
