"""The vision tower: a padded view of any grid becomes visual tokens.

Window attention without a table of windows: tokens are sorted by window, so
each window is a run of at most window^2 tokens, and a block of that many
tokens needs to look no further than its two neighbours. Shapes depend on the
capacity N alone; the grid is data.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import parallel
from lfpc_jax.image.views import View
from lfpc_jax.models import attention, fused, rotary
from lfpc_jax.models.config import PolicyConfig, VisionConfig
from lfpc_jax.models.layers import (
  dense,
  permute,
  remembering,
  rms_norm,
  swiglu,
)
from lfpc_jax.models.parameters import Params


def _layout(config: VisionConfig, grid: jax.Array, capacity: int):
  """Order, window number and patch positions of the slots of one batch.

  Returns:
    order: slot numbers sorted by window, padding last, i32[B, N].
    window: window number in that order, -1 for padding, i32[B, N].
    positions: (row, col) of each patch in that order, i32[B, N, 4, 2].
  """
  slot = jnp.arange(capacity, dtype=jnp.int32)
  rows, cols = grid[:, :1], jnp.maximum(grid[:, 1:], 1)
  row, col = slot // cols, slot % cols
  across = -(-cols // config.window)
  window = (row // config.window) * across + col // config.window
  window = jnp.where(slot < rows * cols, window, jnp.int32(2**30))
  order = jnp.argsort(window, axis=1, stable=True)
  take = functools.partial(jnp.take_along_axis, indices=order, axis=1)
  window = take(window)
  corner = jnp.stack([take(row), take(col)], axis=-1) * config.merge_size
  unit = np.arange(config.merge_size**2)
  inside = np.stack(np.divmod(unit, config.merge_size), axis=-1)
  positions = corner[:, :, None] + inside
  return order, jnp.where(window == 2**30, -1, window), positions


def _window_attention(q, k, v, window, block, chunk):
  """Attention within windows, at most about `chunk` queries at one time.

  `block` patches hold at least one window.
  """
  batch, length = window.shape
  if length <= block:
    return attention.attend(q, k, v, window[:, :, None] == window[:, None])[0]
  group = max(chunk // block, 1) if chunk else length // block + 1
  group = min(group, -(-length // block))
  groups = -(-length // (group * block))

  def split(x, fill=0):
    """The blocks [groups, group, B, block, ...] of x [B, length, ...]."""
    pad = [(0, 0), (0, groups * group * block - length)]
    x = jnp.pad(x, pad + [(0, 0)] * (x.ndim - 2), constant_values=fill)
    x = jnp.moveaxis(x.reshape(batch, -1, block, *x.shape[2:]), 1, 0)
    return x.reshape(groups, group, *x.shape[1:])

  def beside(x, fill=0):
    """Each group's blocks with the one before and the one after."""
    edge = jnp.full_like(x[:1, :1], fill)
    before = jnp.concatenate([edge, x[:-1, -1:]])
    after = jnp.concatenate([x[1:, :1], edge])
    return jnp.concatenate([before, x, after], axis=1)

  def attend(parts):
    q, k, v, window, around = parts
    k, v, around = (
      jnp.concatenate([x[:-2], x[1:-1], x[2:]], axis=2) for x in (k, v, around)
    )
    mask = window[..., :, None] == around[..., None, :]
    fold = lambda x: x.reshape(-1, *x.shape[2:])
    out, _ = attention.attend(*map(fold, (q, k, v, mask)))
    return out.reshape(q.shape)

  q, k, v = map(split, (q, k, v))
  window = split(window, -2)
  parts = (q, beside(k), beside(v), window, beside(window, -3))
  if groups == 1:
    out = attend(jax.tree.map(lambda x: x[0], parts))[None]
  else:
    out = jax.lax.map(jax.checkpoint(attend), parts)
  out = jnp.moveaxis(out.reshape(-1, *out.shape[2:]), 1, 0)
  return out.reshape(batch, -1, *out.shape[3:])[:, :length]


def _block(config, kernel, chunk, x, params, full, angles, window):
  """One pre-norm block over patches x[B, N*4, width]."""
  block = config.window**2 * config.merge_size**2
  qkv = dense(params["qkv"], rms_norm(params["norm1"], x))
  q, k, v = (qkv[:, :, i] for i in range(3))
  q, k = rotary.rotate(q, angles), rotary.rotate(k, angles)

  def global_attention(q, k, v):
    if kernel != "xla":
      return fused.full(kernel, q, k, v, window >= 0)
    # One row for all queries: what padding reads has no meaning anyway.
    return attention.attend(q, k, v, (window >= 0)[:, None], chunk)[0]

  def local_attention(q, k, v):
    if kernel == "splash":
      return fused.windows(q, k, v, window, block)
    # Blocks and views become one axis, of which the views' parts are none.
    part = parallel.per_shard(
      lambda *args: _window_attention(*args, block, chunk),
      (("view",),) * 4,
      ("view",),
    )
    return part(q, k, v, window)

  mixed = jax.lax.cond(full, global_attention, local_attention, q, k, v)
  x = x + dense(params["proj"], mixed, inputs=2)
  return x + swiglu(params, rms_norm(params["norm2"], x))


def _merge(params: Params, x: jax.Array, unit: int) -> jax.Array:
  """2x2 patch merger: x[B, N*unit, width] -> [B, N, D]."""
  x = rms_norm(params["merger_norm"], x)
  x = x.reshape(x.shape[0], -1, unit * x.shape[-1])
  hidden = jax.nn.gelu(dense(params["merger_in"], x), approximate=False)
  return dense(params["merger_out"], hidden)


def encode_views(config: PolicyConfig, params: Params, view: View) -> jax.Array:
  """Encodes a batch of views.

  Args:
    config: the policy.
    params: the policy's parameters (the tower's are under "vision").
    view: patches [B, N, 4, patch_dim] and grid i32[B, 2].

  Returns:
    Visual tokens [B, N, D] in row-major order of the grid; slots beyond the
    grid hold values without meaning.
  """
  vision, params = config.vision, params["vision"]
  batch, capacity, unit, _ = view.patches.shape
  order, window, positions = _layout(vision, view.grid, capacity)
  patches = view.patches.astype(config.dtype)
  # An image is two equal frames, so their kernels add up: in float32, or a
  # sum of kernels kept in bfloat16 would be rounded once more.
  kernel = params["patch_embed"]["kernel"]
  kernel = jnp.sum(kernel, axis=0, dtype=jnp.float32)
  x = dense({"kernel": kernel}, patches)
  back = jnp.argsort(order, axis=1)
  x = permute(x.reshape(batch, capacity, -1), order, back)
  x = x.reshape(batch, capacity * unit, vision.width)
  angles = rotary.vision_angles(vision, positions)
  angles = angles.reshape(batch, capacity * unit, -1)
  window = jnp.repeat(window, unit, axis=1)

  kernel, chunk = fused.chosen(config), config.attention_chunk

  def step(x, layer):
    x = _block(vision, kernel, chunk, x, *layer, angles, window)
    return x, None

  step = remembering(config, step)
  full = np.isin(np.arange(vision.depth), vision.full_attention_blocks)
  x, _ = jax.lax.scan(step, x, (params["blocks"], jnp.asarray(full)))
  tokens = _merge(params, x, unit)
  return permute(tokens, back, order)
