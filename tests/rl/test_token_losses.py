"""The head on written tokens alone, beside NumPy over every slot."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.rl import token_losses
from lfpc_jax.rollout.types import EpisodeConfig
from tests.rollout import scripted_policy

P, G, TEMPERATURE = 2, 3, 0.7
# Two turns of four tokens; the rest of the fifteen slots is a crop's.
LIMITS = EpisodeConfig(
  group=G,
  max_turns=2,
  max_turn_tokens=4,
  max_response_tokens=15,
  temperature=TEMPERATURE,
)


@dataclasses.dataclass(frozen=True)
class Written:
  """What the head reads of a trajectory."""

  tokens: np.ndarray
  written: np.ndarray


def _written(rng) -> np.ndarray:
  """Rows with all eight tokens, with few, and with none; slot 0 never."""
  written = np.zeros((P, G, LIMITS.slots), bool)
  for row, number in zip(written.reshape(-1, LIMITS.slots), (8, 8, 5, 1, 0, 8)):
    row[1 + rng.permutation(LIMITS.slots - 1)[:number]] = True
  return written


@pytest.fixture(scope="module")
def case():
  """(policy, head, hidden states, trajectory), random."""
  rng = np.random.default_rng(0)
  config = scripted_policy.config()
  vocab, width = config.text.vocab_size, config.text.width
  head = rng.normal(size=(vocab, width)).astype(np.float32)
  hidden = rng.normal(size=(P, G, LIMITS.slots, width)).astype(np.float32)
  tokens = rng.integers(vocab, size=(P, G, LIMITS.slots)).astype(np.int32)
  return config, head, hidden, Written(tokens, _written(rng))


def _oracle(head, hidden, tokens):
  """f64[P, G, T] each: log-probability and entropy of slot t, from t - 1."""
  scores = np.float64(hidden) @ np.float64(head).T / TEMPERATURE
  scores -= scores.max(axis=-1, keepdims=True)
  logs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
  own = np.take_along_axis(logs[:, :, :-1], tokens[:, :, 1:, None], axis=-1)
  entropy = -(np.exp(logs) * logs).sum(axis=-1)[:, :, :-1]
  start = ((0, 0), (0, 0), (1, 0))
  return np.pad(own[..., 0], start), np.pad(entropy, start)


def _outputs(case, head, hidden):
  config, _, _, trajectory = case
  return token_losses._at_written(
    config, LIMITS, {"head": head}, hidden, trajectory
  )


def test_written_tokens_have_their_numbers_and_others_zero(case):
  _, head, hidden, trajectory = case
  found = jax.jit(lambda *a: _outputs(case, *a))(head, hidden)
  for ours, theirs in zip(found, _oracle(head, hidden, trajectory.tokens)):
    expected = np.where(trajectory.written, theirs, 0.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_a_head_over_every_slot(case):
  _, head, hidden, trajectory = case
  weights = np.random.default_rng(1).normal(size=trajectory.written.shape)
  grads = jax.jit(
    jax.grad(
      lambda *a: jnp.sum(_outputs(case, *a)[0] * weights), argnums=(0, 1)
    )
  )(head, hidden)
  scores = np.float64(hidden) @ np.float64(head).T / TEMPERATURE
  chances = np.exp(scores - scores.max(axis=-1, keepdims=True))
  chances /= chances.sum(axis=-1, keepdims=True)
  # d logp[t] / d scores[t - 1] = onehot(token[t]) - chances[t - 1]
  own = np.eye(head.shape[0])[trajectory.tokens[:, :, 1:]]
  weight = np.where(trajectory.written, weights, 0.0)[:, :, 1:, None]
  above = np.zeros_like(scores)
  above[:, :, :-1] = weight * (own - chances[:, :, :-1]) / TEMPERATURE
  np.testing.assert_allclose(grads[1], above @ head, rtol=1e-3, atol=1e-4)
  of_head = np.einsum("pgtv,pgtd->vd", above, hidden)
  np.testing.assert_allclose(grads[0], of_head, rtol=1e-3, atol=1e-4)
