"""Attention in parts against a softmax over the union, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.models import attention


def _reference(q, k, v, mask):
  """Softmax attention [B, Tq, H, head_dim] in NumPy, float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  repeat = q.shape[2] // k.shape[2]
  k, v = np.repeat(k, repeat, axis=2), np.repeat(v, repeat, axis=2)
  scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
  scores = np.where(np.asarray(mask)[:, None], scores, -np.inf)
  weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
  total = weight.sum(axis=-1, keepdims=True)
  lse = np.log(total[..., 0]) + scores.max(axis=-1)
  out = np.einsum("bhqk,bkhd->bqhd", weight / total, v)
  return out, np.swapaxes(lse, 1, 2)


def _draw(seed, queries=7, keys=9, heads=6, kv_heads=2, batch=2, width=8):
  rng = np.random.default_rng(seed)
  shapes = [(queries, heads), (keys, kv_heads), (keys, kv_heads)]
  q, k, v = (
    jnp.asarray(rng.normal(size=(batch, *s, width)), jnp.float32)
    for s in shapes
  )
  mask = rng.random((batch, queries, keys)) < 0.6
  mask[:, :, 0] = True  # no empty row; those are another test's
  return 2 * q, k, v, jnp.asarray(mask)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attend_is_softmax_attention_with_its_log_sum_exp(kv_heads):
  q, k, v, mask = _draw(0, kv_heads=kv_heads)
  out, lse = attention.attend(q, k, v, mask)
  expected, expected_lse = _reference(q, k, v, mask)
  np.testing.assert_allclose(out, expected, atol=2e-6)
  np.testing.assert_allclose(lse, expected_lse, atol=2e-6)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_two_merged_parts_are_attention_over_the_union(cut):
  q, k, v, mask = _draw(1)
  mask = mask.at[:, :, cut].set(True)
  parts = [
    attention.attend(q, k[:, keys], v[:, keys], mask[:, :, keys])
    for keys in (slice(None, cut), slice(cut, None))
  ]
  expected, _ = _reference(q, k, v, mask)
  np.testing.assert_allclose(attention.merge(*parts), expected, atol=2e-6)
  np.testing.assert_allclose(attention.merge(*parts[::-1]), expected, atol=2e-6)


def test_a_part_without_any_key_has_no_weight():
  q, k, v, mask = _draw(2)
  empty = attention.attend(q, 5.0 * k, 5.0 * v, jnp.zeros_like(mask))
  full = attention.attend(q, k, v, mask)
  np.testing.assert_array_equal(attention.merge(full, empty), full[0])
  np.testing.assert_array_equal(attention.merge(empty, full), full[0])


def test_far_apart_scores_neither_overflow_nor_vanish():
  q, k, v, mask = _draw(3)
  parts = [
    attention.attend(100.0 * q, k[:, keys], v[:, keys], mask[:, :, keys])
    for keys in (slice(None, 1), slice(1, None))
  ]
  expected, _ = _reference(100.0 * q, k, v, mask)
  np.testing.assert_allclose(attention.merge(*parts), expected, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 8])
def test_chunks_change_neither_values_nor_gradients(rows):
  q, k, v, mask = _draw(4, queries=8)
  mask = mask[:, :rows]

  def loss(q, k, v, chunk):
    out, lse = attention.attend(q, k, v, mask, chunk)
    return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(lse)), (out, lse)

  grad = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
  for chunk in (2, 8, 16):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-6),
      grad(q, k, v, chunk),
      grad(q, k, v, 0),
    )


def test_a_length_that_chunks_do_not_divide_is_still_chunked():
  q, k, v, mask = _draw(5, queries=11)
  out, lse = attention.attend(q, k, v, mask, 4)
  expected, expected_lse = _reference(q, k, v, mask)
  np.testing.assert_allclose(out, expected, atol=2e-6)
  np.testing.assert_allclose(lse, expected_lse, atol=2e-6)
  lowered = jax.jit(attention.attend, static_argnums=4).lower(q, k, v, mask, 4)
  assert "2x2x3x11x9xf32" not in lowered.as_text()  # all scores at one time


def test_fully_masked_rows_give_no_nan_in_values_or_gradients():
  q, k, v, mask = _draw(6)
  mask = mask.at[:, 2:5].set(False)

  def loss(q, k, v):
    out, lse = attention.attend(q, k, v, mask)
    merged = attention.merge((out, lse), (out, lse))
    return jnp.sum(merged[:, :2] ** 2), merged

  (_, merged), gradients = jax.value_and_grad(
    loss, argnums=(0, 1, 2), has_aux=True
  )(q, k, v)
  assert np.all(np.isfinite(merged))
  assert all(np.all(np.isfinite(g)) for g in gradients)
  np.testing.assert_array_equal(gradients[0][:, 2:5], 0.0)


def test_merge_keeps_the_precision_of_its_parts():
  q, k, v, mask = (x.astype(jnp.bfloat16) for x in _draw(7))
  part = attention.attend(q, k, v, mask.astype(bool))
  assert part[0].dtype == jnp.bfloat16 and part[1].dtype == jnp.float32
  assert attention.merge(part, part).dtype == jnp.bfloat16
