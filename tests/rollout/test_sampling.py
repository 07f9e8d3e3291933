"""One token from logits: greedy, by temperature, from a nucleus."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.rollout import sampling

LOGITS = np.log([0.5, 0.3, 0.15, 0.05]).astype(np.float32)
DRAWS = 4000
sample = jax.jit(sampling.sample, static_argnums=(2, 3))


def _draw(temperature, top_p):
  logits = jnp.broadcast_to(LOGITS, (DRAWS, 4))
  token, logp = sample(jax.random.key(0), logits, temperature, top_p)
  return np.asarray(token), np.asarray(logp)


def test_greedy_takes_the_largest_and_reports_temperature_one():
  logits = jnp.array([[1.0, 3.0, 2.0], [5.0, 0.0, 5.0]])
  token, logp = sample(jax.random.key(0), logits, 0.0, 1.0)
  assert token.dtype == jnp.int32
  assert token.tolist() == [1, 0]  # the first of two that are equal
  rows = np.array([[1, 3, 2], [5, 0, 5]], np.float64)
  want = rows.max(-1) - np.log(np.exp(rows).sum(-1))
  np.testing.assert_allclose(logp, want, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature):
  token, logp = _draw(temperature, 1.0)
  want = np.array([0.5, 0.3, 0.15, 0.05]) ** (1 / temperature)
  want /= want.sum()
  share = np.bincount(token, minlength=4) / DRAWS
  # Five standard deviations of a share of DRAWS draws.
  assert (np.abs(share - want) < 5 * np.sqrt(want / DRAWS)).all()
  np.testing.assert_allclose(logp, np.log(want)[token], atol=1e-5)


@pytest.mark.parametrize(
  "top_p, kept", [(0.4, 1), (0.55, 2), (0.81, 3), (0.96, 4), (1.0, 4)]
)
def test_the_nucleus_is_the_smallest_set_of_its_probability(top_p, kept):
  token, logp = _draw(1.0, top_p)
  assert set(token.tolist()) == set(range(kept))
  want = np.array([0.5, 0.3, 0.15, 0.05])[:kept]
  share = np.bincount(token, minlength=kept) / DRAWS
  assert (np.abs(share - want / want.sum()) < 0.05).all()
  # The learner does not cut, so the log-probability is that before the cut.
  np.testing.assert_allclose(logp, LOGITS[token], atol=1e-5)


def test_the_temperature_acts_before_the_nucleus():
  token, _ = _draw(0.25, 0.8)  # 0.5 has become 0.88
  assert set(token.tolist()) == {0}


def test_the_nucleus_keeps_unsorted_places():
  logits = jnp.broadcast_to(LOGITS[[2, 0, 3, 1]], (500, 4))
  token, _ = sample(jax.random.key(1), logits, 1.0, 0.7)
  assert set(np.asarray(token).tolist()) == {1, 3}


def test_over_a_whole_vocabulary_it_inverts_the_distribution_of_float64():
  size = 152_064 // 128
  logits = 3 * jax.random.normal(jax.random.key(0), (64, 128 * size))
  key = jax.random.key(1)
  token, _ = sample(key, logits, 0.7, 1.0)
  weights = np.exp(np.asarray(logits, np.float64) / 0.7).reshape(64, 128, size)
  first, second = np.asarray(jax.random.uniform(key, (64, 2)), np.float64).T
  for row in range(64):
    shares = np.cumsum(weights[row].sum(-1))
    block = np.searchsorted(shares / shares[-1], first[row], "right")
    inside = np.cumsum(weights[row, block])
    wanted = np.searchsorted(inside / inside[-1], second[row], "right")
    # A sum of 1,188 weights in float32 may put an edge one id aside.
    assert token[row] // size == block
    assert abs(int(token[row]) % size - wanted) <= 1


@pytest.mark.parametrize("vocab", [5, 128, 300, 1536])
def test_each_id_of_a_vocabulary_is_drawn_by_its_probability(vocab):
  draws = 200_000
  logits = jax.random.normal(jax.random.key(2), (vocab,))
  rows = jnp.broadcast_to(logits, (draws, vocab))
  token, _ = sample(jax.random.key(3), rows, 1.0, 1.0)
  p = np.exp(np.asarray(logits, np.float64))
  wanted = draws * p / p.sum()
  found = np.bincount(token, minlength=vocab)
  assert len(found) == vocab
  # Chi-squared has a mean of n and a variance of 2n: five deviations.
  n = vocab - 1
  assert ((found - wanted) ** 2 / wanted).sum() < n + 5 * np.sqrt(2 * n)


@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(np.float32(1), 0)])
def test_what_has_no_weight_is_never_drawn(uniform):
  rng = np.random.default_rng(0)
  weights = rng.random((1000, 77)).astype(np.float32)
  weights *= rng.random((1000, 77)) < 0.1
  weights[:, rng.integers(77)] = 1e-6  # no row is empty
  found = jax.jit(sampling._invert)(jnp.full((1000,), uniform), weights)
  assert (np.take_along_axis(weights, np.asarray(found)[:, None], 1) > 0).all()


def test_scores_that_are_not_numbers_give_an_id_all_the_same():
  token, _ = sample(jax.random.key(0), jnp.full((3, 300), jnp.nan), 1.0, 1.0)
  assert ((token >= 0) & (token < 300)).all()


def test_the_largest_is_numpys_for_ties_and_cut_scores():
  scores = np.full((4, 7), -np.inf, np.float32)
  scores[1, 3:5] = 2.0
  scores[2, -1] = -5.0
  scores[3] = np.arange(7)
  found = jax.jit(sampling._largest)(scores)
  assert found.tolist() == np.argmax(scores, axis=-1).tolist() == [0, 3, 6, 6]
  scores[0, 2] = np.nan  # a token all the same, and not beyond the vocabulary
  assert jax.jit(sampling._largest)(scores)[0] == 6
