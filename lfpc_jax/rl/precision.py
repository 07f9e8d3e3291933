"""The precision that an optimiser keeps its state and does its sums in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def keep_in(
  optimiser: optax.GradientTransformation, dtype: Any
) -> optax.GradientTransformation:
  """The optimiser on gradients and parameters that are cast to `dtype` first.

  Moments and changes then have that precision, whatever the parameters'.
  """

  def cast(tree):
    return jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), tree)

  def init(params):
    return optimiser.init(cast(params))

  def update(grads, state, params=None):
    params = None if params is None else cast(params)
    return optimiser.update(cast(grads), state, params)

  return optax.GradientTransformation(init, update)
