"""Slices of an array's axis, taken one after another and joined again.

A slice has every n-th part of the axis. So each device has its share of every
slice of an axis that is split over devices.
"""

import jax
import jax.numpy as jnp


def take(x: jax.Array, axis: int, number: int, index: jax.Array) -> jax.Array:
  """Slice `index` of `number`; nothing else of `x` is copied.

  Args:
    x: its axis is a multiple of `number`.
    axis: which.
    number: of slices; static.
    index: i32[].
  """
  x = x.reshape(*x.shape[:axis], -1, number, *x.shape[axis + 1 :])
  return jax.lax.dynamic_index_in_dim(x, index, axis + 1, keepdims=False)


def join(x: jax.Array, axis: int) -> jax.Array:
  """The array whose slices [number, ...] are stacked in `x`."""
  x = jnp.moveaxis(x, 0, axis + 1)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
