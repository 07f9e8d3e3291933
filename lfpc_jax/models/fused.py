"""Attention on a fused kernel, whose scores never leave the chip's own memory.

`policy.attention` chooses: 'splash' is splash attention, a Pallas kernel for
TPUs; 'cudnn' is cuDNN's for GPUs; 'xla' is `attention.attend`; 'auto' takes
splash where bfloat16 runs on a TPU, else xla.

What a kernel serves:
- the prefix, causally;
- the whole suffixes of an update: the prompt's keys before each rollout's own
  make one causal call, so that no log-sum-exp, of which the kernels have no
  gradient, has to be merged;
- the tower: attention within windows, which lie side by side, is a band with
  window numbers as segments (splash alone), and full attention.

What stays with XLA: a token's decoding reads each key once for few queries, so
that reading the caches binds and nothing is to be fused; an observation's
queries begin at a slot of each row's own, for which the kernels have no mask;
and a prefix, suffix or view that is itself split over devices.

On a platform that is no TPU, splash attention is interpreted: the same numbers,
slowly, for tests.
"""

from __future__ import annotations

import contextlib
import functools

import jax
import jax.numpy as jnp

from lfpc_jax import parallel
from lfpc_jax.models.config import PolicyConfig

_LANES = 128  # what blocks are multiples of
_BLOCKS = (512, 256, _LANES)
_UNSPLIT = ("prefix", "suffix", "sequence", "visual_token", "head_dim")


def chosen(config: PolicyConfig) -> str:
  """'xla', 'splash' or 'cudnn', on the active mesh."""
  name = config.attention
  if name == "auto":
    on_tpu = parallel.platform() == "tpu"
    name = "splash" if on_tpu and config.dtype == "bfloat16" else "xla"
  apart = parallel.parts("heads") != parallel.parts("kv_heads")
  if apart or any(parallel.parts(axis) > 1 for axis in _UNSPLIT):
    return "xla"
  return name


def causal(kernel: str, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Causal attention of a prefix to itself.

  Args:
    kernel: 'splash' or 'cudnn'.
    q: queries [P, S, H, head_dim].
    k: keys [P, S, K, head_dim].
    v: values, as k.

  Returns:
    [P, S, H, head_dim].
  """

  def local(q, k, v):
    none = jnp.zeros((k.shape[0], 0), bool)
    return _causal(kernel, q, k, v, none)

  keys = ("prompt", None, "kv_heads")
  rows = ("prompt", None, "heads")
  return parallel.per_shard(local, (rows, keys, keys), rows)(q, k, v)


def grouped(
  kernel: str,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  prefix_k: jax.Array,
  prefix_v: jax.Array,
  length: jax.Array,
) -> jax.Array:
  """Attention of whole suffixes to their prompt's prefix and to themselves.

  Args:
    kernel: 'splash' or 'cudnn'.
    q: queries of the slots 0, 1, 2, ... [P, G, T, H, head_dim].
    k: their keys [P, G, T, K, head_dim].
    v: their values, as k.
    prefix_k: keys [P, S, K, head_dim].
    prefix_v: values, as prefix_k.
    length: filled slots of the prefix, i32[P].

  Returns:
    [P, G, T, H, head_dim].
  """

  def local(q, k, v, prefix_k, prefix_v, length):
    p, g = q.shape[:2]
    size = -(-prefix_k.shape[1] // _LANES) * _LANES

    def join(prefix, own):
      prefix = _padded(prefix, size)[:, None]
      prefix = jnp.broadcast_to(prefix, (p, g, *prefix.shape[2:]))
      whole = jnp.concatenate([prefix, own], axis=2)
      return whole.reshape(p * g, *whole.shape[2:])

    seen = jnp.arange(size) < length[:, None]
    fold = lambda x: x.reshape(p * g, *x.shape[2:])
    out = _causal(
      kernel,
      fold(q),
      join(prefix_k, k),
      join(prefix_v, v),
      jnp.repeat(seen, g, axis=0),
    )
    return out.reshape(q.shape)

  rows = ("prompt", "rollout", None, "heads")
  own = ("prompt", "rollout", None, "kv_heads")
  shared = ("prompt", None, "kv_heads")
  part = parallel.per_shard(
    local, (rows, own, own, shared, shared, ("prompt",)), rows
  )
  return part(q, k, v, prefix_k, prefix_v, length)


def windows(
  q: jax.Array, k: jax.Array, v: jax.Array, window: jax.Array, block: int
) -> jax.Array:
  """Attention within windows, on splash attention.

  Args:
    q: queries [B, N, H, head_dim], sorted by window.
    k: keys, as q.
    v: values, as q.
    window: number of each one's window, i32[B, N].
    block: queries of the largest window.
  """

  def local(q, k, v, window):
    return _splash(q, k, v, window, window, reach=block - 1)

  rows = ("view", None, "vision_heads")
  part = parallel.per_shard(local, (rows, rows, rows, ("view",)), rows)
  return part(q, k, v, window)


def full(
  kernel: str, q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array
) -> jax.Array:
  """Attention of all queries to all valid keys.

  Args:
    kernel: 'splash' or 'cudnn'.
    q: queries [B, N, H, head_dim].
    k: keys, as q.
    v: values, as q.
    valid: bool[B, N], the valid ones first.
  """

  def local(q, k, v, valid):
    if kernel == "splash":
      hidden = (~valid).astype(jnp.int32)
      return _splash(q, k, v, jnp.zeros_like(hidden), hidden)
    number = jnp.maximum(jnp.sum(valid, axis=1, dtype=jnp.int32), 1)
    return jax.nn.dot_product_attention(
      q, k, v, key_value_seq_lengths=number, implementation="cudnn"
    )

  rows = ("view", None, "vision_heads")
  part = parallel.per_shard(local, (rows, rows, rows, ("view",)), rows)
  return part(q, k, v, valid)


def _causal(kernel, q, k, v, seen):
  """q[B, T] to k[B, S + T]: the keys s < S if seen[B, s], else s - S <= t."""
  length, before = q.shape[1], seen.shape[1]
  if kernel == "splash":
    ids = jnp.pad((~seen).astype(jnp.int32), ((0, 0), (0, length)))
    zero = jnp.zeros(q.shape[:2], jnp.int32)
    return _splash(q, k, v, zero, ids, before=before, is_causal=True)
  size = -(-length // _LANES) * _LANES  # cuDNN has gradients of even lengths
  q, k, v = (
    _padded(q, size),
    _padded(k, before + size),
    _padded(v, before + size),
  )
  attend = functools.partial(
    jax.nn.dot_product_attention, q, k, v, implementation="cudnn"
  )
  if not before:
    return attend(is_causal=True)[:, :length]
  slot = jnp.arange(size)
  own = jnp.broadcast_to(slot[:, None] >= slot, (q.shape[0], size, size))
  prompt = jnp.broadcast_to(seen[:, None], (q.shape[0], size, before))
  mask = jnp.concatenate([prompt, own], axis=2)[:, None]
  return attend(mask=mask)[:, :length]


def _padded(x: jax.Array, size: int, value: int = 0) -> jax.Array:
  """x[B, n, ...] with `size` slots."""
  pad = [(0, 0), (0, size - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
  return jnp.pad(x, pad, constant_values=value)


def _block_size(length: int) -> int:
  """The largest block whose padding is at most an eighth of the length."""
  return next((b for b in _BLOCKS if -length % b * 8 <= length), _LANES)


def _splash(
  q, k, v, q_ids, k_ids, before=0, is_causal=False, reach=None
) -> jax.Array:
  """Splash attention of q[B, T] to k[B, before + T] of the same segment.

  Args:
    q: queries [B, T, H, head_dim].
    k: keys [B, before + T, K, head_dim].
    v: values, as k.
    q_ids: segments i32[B, T].
    k_ids: segments i32[B, before + T].
    before: keys before those of the queries; a multiple of 128.
    is_causal: query t reads no key beyond before + t.
    reach: keys to either side that a query reads at most; None: all.
  """
  # Late, because few need it and it takes a moment.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  length, heads = q.shape[1:3]
  block = _block_size(length)
  size = -(-length // block) * block
  # Blocks of keys divide both parts.
  inner = next(b for b in _BLOCKS if b <= block and before % b == 0)
  shape = (size, before + size)
  if is_causal:
    mask = splash.CausalMask(shape, offset=before)
  elif reach is not None:
    mask = splash.LocalMask(shape, (reach, reach), 0)
  else:
    mask = splash.FullMask(shape)
  kernel = splash.make_splash_mha_single_device(
    mask=splash.MultiHeadMask([mask] * heads),
    block_sizes=splash.BlockSizes(
      block_q=block,
      block_kv=inner,
      block_q_dkv=block,
      block_kv_dkv=inner,
      block_q_dq=block,
      block_kv_dq=inner,
    ),
    interpret=parallel.platform() != "tpu",
  )
  q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
  first = lambda x, n: jnp.swapaxes(_padded(x, n), 1, 2)
  ids = splash.SegmentIds(
    _padded(q_ids, size, _NOWHERE), _padded(k_ids, before + size, _NOWHERE)
  )
  wide = q.dtype == jnp.float32
  with jax.default_matmul_precision("highest") if wide else _PLAIN:
    out = jax.vmap(kernel)(
      first(q, size), first(k, before + size), first(v, before + size), ids
    )
  return jnp.swapaxes(out, 1, 2)[:, :length]


_NOWHERE = -2  # the segment of padding, which reads itself
_PLAIN = contextlib.nullcontext()
