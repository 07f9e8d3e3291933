"""The tower's attention: within windows, in parts, without large masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.image.views import View
from lfpc_jax.models import parameters, vision
from tests.models import oracle

_BLOCK = 8  # patches; the largest window


def _draw(seed):
  """Queries, keys and values [B, length, H, 4], and sorted window numbers."""
  rng = np.random.default_rng(seed)
  windows = []
  for empty in (3, 0):
    sizes = rng.integers(1, _BLOCK + 1, 15)
    numbers = np.repeat(np.arange(15), sizes)[: 61 - empty]
    windows.append(np.pad(numbers, (0, 61 - len(numbers)), constant_values=-1))
  q, k, v = rng.normal(size=(3, 2, 61, 2, 4))
  return q, k, v, np.array(windows)


def _reference(q, k, v, window):
  """Softmax over each query's own window, one at a time, in float64."""
  out = np.zeros_like(q)
  for b, i in np.argwhere(window >= 0):
    own = window[b] == window[b, i]
    scores = np.einsum("hd,khd->hk", q[b, i], k[b, own]) / 2
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    out[b, i] = np.einsum("hk,khd->hd", weight, v[b, own])
  return out


@pytest.mark.parametrize("chunk", [0, 1, _BLOCK, 3 * _BLOCK, 1000])
def test_window_attention_is_attention_within_each_window(chunk):
  q, k, v, window = _draw(chunk)
  real = (window >= 0)[..., None, None]
  attend = functools.partial(vision._window_attention, block=_BLOCK)

  def loss(q, k, v, chunk):
    out = attend(q, k, v, jnp.asarray(window), chunk=chunk)
    out = jnp.where(real, out, 0)
    return jnp.sum(jnp.sin(out)), out

  run = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
  arrays = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
  (_, out), gradients = run(*arrays, chunk)
  expected = _reference(q, k, v, window)
  np.testing.assert_allclose(out, expected, atol=2e-6)
  # The gradient along a random direction, by central differences in float64.
  rng = np.random.default_rng(9)
  for n in range(3):
    step = 1e-6 * rng.normal(size=q.shape)
    ends = []
    for sign in (1, -1):
      parts = [
        x + sign * step if m == n else x for m, x in enumerate((q, k, v))
      ]
      ends.append(np.sin(_reference(*parts, window)).sum())
    slope = float(np.sum(np.asarray(gradients[n], np.float64) * step))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-3, abs=1e-11)


def test_no_array_has_all_patches_twice():
  """Neither a mask nor scores; nor are all windows scored at one time."""
  config = oracle.config(attention_chunk=128)
  shapes = parameters.abstract(config)
  view = View(
    jax.ShapeDtypeStruct((1, 300, 4, 588), jnp.float32),
    jax.ShapeDtypeStruct((1, 2), jnp.int32),
  )

  def loss(tower, view):
    return jnp.sum(vision.encode_views(config, {"vision": tower}, view))

  program = jax.jit(jax.grad(loss)).lower(shapes["vision"], view).as_text()
  assert "x128x1200xf32" in program  # scores of a chunk: the test looks right
  assert "x1200x1200x" not in program
  assert "x64x192xf32" in program  # a block of 64 patches and its neighbours
  assert "2x2x1x64x192xf32" in program  # of two blocks, and two heads
  assert "19x2x1x64x192xf32" not in program
