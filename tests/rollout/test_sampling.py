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


def test_sampling_is_that_of_jax_random_over_a_whole_vocabulary():
  logits = 3 * jax.random.normal(jax.random.key(0), (4, 152_064))
  key = jax.random.key(1)
  token, _ = jax.jit(sampling.sample, static_argnums=(2, 3))(
    key, logits, 0.7, 1.0
  )
  assert (token == jax.random.categorical(key, logits / 0.7)).all()


def test_the_largest_is_numpys_for_ties_and_cut_scores():
  scores = np.full((4, 7), -np.inf, np.float32)
  scores[1, 3:5] = 2.0
  scores[2, -1] = -5.0
  scores[3] = np.arange(7)
  found = jax.jit(sampling._largest)(scores)
  assert found.tolist() == np.argmax(scores, axis=-1).tolist() == [0, 3, 6, 6]
  scores[0, 2] = np.nan  # a token all the same, and not beyond the vocabulary
  assert jax.jit(sampling._largest)(scores)[0] == 6
