"""Log-probabilities by parts of the vocabulary against the whole softmax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.models import policy
from tests.models import oracle


def _inputs(vocab, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  width, shape = 16, (2, 3, 7)
  head = rng.normal(size=(vocab, width))
  hidden = 2 * rng.normal(size=(*shape, width))
  hidden[0, 0] *= 30  # scores of some hundreds
  targets = rng.integers(0, vocab, shape)
  targets[0, 0, 0], targets[1, 2, 3] = vocab - 1, 0
  return jnp.asarray(head, jnp.float32), jnp.asarray(hidden, dtype), targets


def _whole(head, hidden, targets, temperature):
  """The same in float64, at once."""
  head, hidden = (np.asarray(x, np.float64) for x in (head, hidden))
  scores = hidden @ head.T / temperature
  scores -= scores.max(-1, keepdims=True)
  logp = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
  found = np.take_along_axis(logp, targets[..., None], -1)[..., 0]
  return found, -(np.exp(logp) * logp).sum(-1), np.exp(logp)


def _config(chunk):
  return dataclasses.replace(oracle.config(), logit_chunk=chunk)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("vocab", [64, 37])
@pytest.mark.parametrize("chunk, parts", [(0, 1), (42, 1), (41, 2), (6, 8)])
def test_parts_of_the_vocabulary_are_one_softmax(vocab, chunk, parts, tied):
  head, hidden, targets = _inputs(vocab)
  config = dataclasses.replace(_config(chunk), tie_word_embeddings=tied)
  assert policy._vocabulary_parts(config, targets.size) == parts
  name = "embedding" if tied else "head"

  @jax.jit
  def found(head, hidden):
    logp, entropy = policy.log_probabilities(
      config, {name: head}, hidden, targets, 0.7
    )
    return jnp.sum(logp * jnp.arange(logp.size).reshape(logp.shape)), (
      logp,
      entropy,
    )

  (_, (logp, entropy)), grads = jax.value_and_grad(
    found, argnums=(0, 1), has_aux=True
  )(head, hidden)
  wanted, spread, shares = _whole(head, hidden, targets, 0.7)
  np.testing.assert_allclose(logp, wanted, rtol=1e-5, atol=1e-4)
  # Scores of some hundreds are 3e-5 apart in float32; CPUs sum differently.
  np.testing.assert_allclose(entropy, spread, rtol=2e-5, atol=3e-5)
  # d logp[target] / d score = 1[target] - softmax, by hand.
  weight = np.arange(targets.size).reshape(*targets.shape, 1) / 0.7
  of_scores = weight * (np.eye(vocab)[targets] - shares)
  of_head = np.einsum("abtv,abtd->vd", of_scores, np.asarray(hidden))
  of_hidden = of_scores @ np.asarray(head)
  for got, want in zip(grads, (of_head, of_hidden)):
    scale = np.abs(want).max()
    np.testing.assert_allclose(got / scale, want / scale, atol=5e-5)


def test_logits_never_exist_for_all_tokens_at_once():
  head, hidden, targets = _inputs(64)
  hidden, targets = jnp.tile(hidden, (1, 8, 1, 1)), np.tile(targets, (1, 8, 1))

  def total(hidden):
    return jnp.sum(
      policy.log_probabilities(_config(21), {"head": head}, hidden, targets)[0]
    )

  text = jax.jit(jax.grad(total)).lower(hidden).compile().as_text()
  assert "f32[2,24,7,4]" in text
  assert "f32[2,24,7,64]" not in text and "f32[336,64]" not in text
