"""Sharing a prefix changes neither logits nor gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.models import decoder, policy
from tests.models import batches, oracle

_TURN, _ANSWER = [11, 12, 13, 14], [21, 22, 23]
_PREFIXES = ([[1, 2], (5, 6), [3, 4, 5]], [[6], (2, 3), [7, 8]])
# 0 to 3 crops a rollout; the lengths differ, so that rows end early.
_GROUPS = (
  (
    [_ANSWER],
    [_TURN, (3, 2), _ANSWER],
    [_TURN, (1, 1), _TURN, (2, 5), _TURN, (4, 1), _ANSWER],
  ),
  (
    [_TURN, (2, 2), _TURN, (3, 3), _ANSWER],
    [[31]],
    [_TURN, _ANSWER],
  ),
)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
  config = oracle.config(vision=dict(depth=2))
  params = oracle.random_params(config, 3)
  model = oracle.load(config, params, tmp_path_factory.mktemp("model") / "m")
  seeds = iter(range(100))
  prefixes = [oracle.sequence(p, next(seeds)) for p in _PREFIXES]
  groups = [[oracle.sequence(s, next(seeds)) for s in g] for g in _GROUPS]
  return config, params, model, prefixes, groups


@pytest.fixture(scope="module")
def batch(setup):
  _, _, model, prefixes, groups = setup
  return batches.build(model, prefixes, groups)


@pytest.fixture(scope="module")
def whole(setup, batch):
  """Logits and gradients of the whole forward, for all tests here."""
  config, params, *_ = setup
  return batches.loss_gradients(config, params, batch)


def test_grouped_forward_and_gradients_are_those_of_flat_copies(setup, whole):
  config, _, model, prefixes, groups = setup
  scores, gradients = whole
  model.zero_grad()
  for p, (prefix, group) in enumerate(zip(prefixes, groups)):
    for g, suffix in enumerate(group):
      expected = oracle.backward(model, prefix + suffix, len(prefix))
      ours = scores[p, g, : len(suffix)]
      assert oracle.relative_error(ours, expected[len(prefix) :]) < 1e-4
  ours = oracle.published_tree(config, gradients)
  summed = oracle.gradients(model)
  assert ours.keys() == summed.keys()
  errors = {k: oracle.relative_error(ours[k], summed[k]) for k in ours}
  worst = max(errors, key=errors.get)
  print(f"gradients: largest relative error {errors[worst]:.1e}, {worst}")
  assert errors[worst] < 1e-3, worst


def test_a_fused_kernel_has_the_same_logits_and_gradients(setup, batch, whole):
  config, params, _, _, groups = setup
  config = dataclasses.replace(config, attention="splash")
  scores, gradients = batches.loss_gradients(config, params, batch)
  for p, group in enumerate(groups):
    for g, suffix in enumerate(group):
      ours, plain = (x[p, g, : len(suffix)] for x in (scores, whole[0]))
      assert oracle.relative_error(ours, plain) < 1e-5
  errors = jax.tree.map(oracle.relative_error, gradients, whole[1])
  assert max(jax.tree.leaves(errors)) < 1e-4


def test_padding_of_any_length_and_content_changes_nothing(setup, whole):
  config, params, model, prefixes, groups = setup
  long = batches.build(model, prefixes, groups, pad=9)
  junk = long.suffix.tokens.at[:, :, -9:].set(63)
  suffix = dataclasses.replace(long.suffix, tokens=junk)
  long = dataclasses.replace(long, suffix=suffix)
  a, b = whole[0], batches.logits(config, params, long)
  for p, group in enumerate(groups):
    for g, sequence in enumerate(group):
      n = len(sequence)
      np.testing.assert_allclose(a[p, g, :n], b[p, g, :n], rtol=1e-4, atol=1e-4)
  assert np.all(np.isfinite(b))


def _take(x, at):
  """Takes slots at[P, G, t] of x[P, G, T, ...], clipped to the last."""
  at = jnp.minimum(at, x.shape[2] - 1)
  return jnp.take_along_axis(x, at.reshape(*at.shape, *[1] * (x.ndim - 3)), 2)


def test_decoding_in_ragged_chunks_equals_the_whole_forward(
  setup, batch, whole
):
  config, params, *_ = setup
  expected = whole[0]
  suffix, chunk = batch.suffix, 4
  slots = suffix.tokens.shape[-1]

  @batches.fast_jit
  def start(params, batch):
    x = batches.embed(config, params, batch.suffix)
    return x, batches.prefill(config, params, batch.prefix)

  @batches.fast_jit
  def step(params, x, done, count, prefix, cache):
    at = done[..., None] + jnp.arange(chunk)
    kept = jnp.arange(chunk) < count[..., None]
    states, cache = decoder.extend(
      config,
      params,
      _take(x, at),
      _take(suffix.positions, at),
      jnp.where(kept, at, slots),  # beyond the cache: not stored
      prefix,
      cache,
    )
    return policy.logits(config, params, states), cache

  x, prefix = start(params, batch)
  cache = decoder.empty_suffix(config, *suffix.length.shape, slots)
  rng = np.random.default_rng(0)
  done, length = np.zeros((2, 3), np.int32), np.asarray(suffix.length)
  while np.any(done < length):
    count = np.minimum(rng.integers(0, chunk + 1, done.shape), length - done)
    scores, cache = step(params, x, done, count, prefix, cache)
    for p, g in np.ndindex(done.shape):
      n, start = count[p, g], done[p, g]
      np.testing.assert_allclose(
        scores[p, g, :n],
        expected[p, g, start : start + n],
        rtol=1e-4,
        atol=1e-4,
      )
    done += count
