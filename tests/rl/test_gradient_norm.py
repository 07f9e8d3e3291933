"""The gradient's norm and its clipping, against float64 and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfpc_jax.rl import gradient_norm


def _tree(scale=1.0):
  rng = np.random.default_rng(0)
  shapes = {"a": (3, 700, 900), "b": (5000,), "c": (), "d": (7, 1, 5)}
  return {
    name: (scale * rng.normal(size=shape)).astype(np.float32)
    for name, shape in shapes.items()
  }


def _wanted(tree):
  return np.sqrt(
    sum(np.square(np.asarray(x, np.float64)).sum() for x in tree.values())
  )


def test_the_norm_is_that_of_float64():
  tree = _tree() | {"e": jnp.full((300,), 3, jnp.bfloat16)}
  found = jax.jit(gradient_norm.global_norm)(tree)
  assert found.dtype == jnp.float32 and found.shape == ()
  np.testing.assert_allclose(found, _wanted(tree), rtol=2e-6)
  assert gradient_norm.global_norm({}) == 0


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_clipping_is_optaxs(scale):
  tree = _tree(scale)
  ours, theirs = gradient_norm.clip(1.0), optax.clip_by_global_norm(1.0)
  assert ours.init(tree) == theirs.init(tree)
  found, _ = jax.jit(ours.update)(tree, ours.init(tree))
  wanted, _ = theirs.update(tree, theirs.init(tree))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted
  )
  assert _wanted(found) == pytest.approx(min(1.0, _wanted(tree)), rel=1e-5)
