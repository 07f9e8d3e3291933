"""Rotary positions: two axes in the vision tower, three in the decoder."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.models.config import TextConfig, VisionConfig


def _inverse_frequencies(dim: int, theta: float) -> np.ndarray:
  exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
  return (1.0 / np.float32(theta) ** exponent).astype(np.float32)


def vision_angles(config: VisionConfig, positions: jax.Array) -> jax.Array:
  """Angles `[..., head_dim / 2]` of patches at (row, col) `[..., 2]`.

  The first half of the angles turns with the row, the second with the
  column; both use the frequencies of head_dim / 2 (Qwen2.5-VL).
  """
  table = _inverse_frequencies(config.head_dim // 2, config.rope_theta)
  angles = positions[..., None].astype(jnp.float32) * table
  return angles.reshape(*positions.shape[:-1], config.head_dim // 2)


def text_angles(config: TextConfig, positions: jax.Array) -> jax.Array:
  """Angles `[..., head_dim / 2]` of tokens at (time, row, col) `[..., 3]`.

  `mrope_section` says how many frequencies follow each of the three axes.
  """
  table = _inverse_frequencies(config.head_dim, config.rope_theta)
  axis = np.repeat(np.arange(3), config.mrope_section)
  return positions.astype(jnp.float32)[..., axis] * table


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
  """Turns `x [..., heads, head_dim]` by `angles [..., head_dim / 2]`.

  Dimension i is paired with i + head_dim / 2; computed in float32.
  """
  cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def view_positions(
  start: jax.Array, grid: jax.Array, index: jax.Array
) -> jax.Array:
  """Positions `[..., 3]` of visual token number `index` of an image.

  Args:
    start: position of the image's first token, i32[...].
    grid: (rows, cols) of visual tokens, i32[..., 2].
    index: running number of the token in row-major order, i32[...].
  """
  cols = jnp.maximum(grid[..., 1], 1)
  row, col = index // cols, index % cols
  steps = jnp.stack([jnp.zeros_like(row), row, col], axis=-1)
  return start[..., None] + steps
