"""Finds NaN and infinity in arrays that were read, where the arrays lie.

One small program reads each array once, on the devices that hold it, and
copies none. All processes of a run learn the same, and so fail together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp


def first_bad(arrays: Mapping[str, jax.Array]) -> tuple[str, int] | None:
  """Name and row, along its first axis, of what first holds NaN or infinity.

  Args:
    arrays: by name, on any mesh; what is no floating-point number is passed
      over. The row of a scalar is 0.

  Returns:
    None where all numbers are finite.
  """
  floats = {
    name: x
    for name, x in arrays.items()
    if jnp.issubdtype(x.dtype, jnp.floating) and x.size
  }
  all_finite = jax.device_get(_all_finite(list(floats.values())))
  for (name, x), good in zip(floats.items(), all_finite, strict=True):
    if not good:
      return name, int(jax.device_get(_first_row(x)))
  return None


@jax.jit
def _all_finite(arrays: Sequence[jax.Array]) -> list[jax.Array]:
  """Of each array whether all of it is finite, bool[].

  Zero times NaN or infinity is NaN, and a sum keeps it. Not a maximum: that
  of several devices loses it. Nor `isfinite(x).all()`: CPUs hold a whole array
  of bools for it, and compile for many times as long.
  """
  return [jnp.sum(0 * x) == 0 for x in arrays]


@jax.jit
def _first_row(x: jax.Array) -> jax.Array:
  """The first row that is not finite, i32[]."""
  rows = jnp.atleast_1d(x)
  sums = jnp.sum(0 * rows, axis=range(1, rows.ndim))
  return jnp.argmax(sums != 0).astype(jnp.int32)
