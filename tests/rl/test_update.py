"""The update against a float64 re-computation, and its parts by themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfpc_jax.errors import UserError
from lfpc_jax.rl import token_losses
from lfpc_jax.rl.types import Lesson, UpdateConfig
from lfpc_jax.rl.update import Learner
from lfpc_jax.rollout import encoding
from lfpc_jax.rollout.probes import Probe
from tests.rollout import scripted_policy

RULES = UpdateConfig(clip_low=0.2, clip_high=0.28, kl=0.1)
LIMITS = scripted_policy.limits(1.0)
_STATIC = (scripted_policy.config(), LIMITS, scripted_policy.VIEW_TOKENS)


def _jit(function):
  return jax.jit(function, compiler_options=scripted_policy.FAST_COMPILE)


@pytest.fixture(scope="module")
def played():
  """(parameters, batch, trajectory): two sampled rollouts, then two greedy.

  The greedy ones follow their scripts: two crops, one crop, failed calls.
  """
  params, batch, sampled = scripted_policy.play(1.0)
  _, _, greedy = scripted_policy.play(0.0, Probe.NONE)

  def join(a, b):
    return jnp.concatenate([a[:, :2], b], axis=1) if a.ndim else a

  return params, batch, jax.tree.map(join, sampled, greedy)


@pytest.fixture(scope="module")
def weighted():
  """Log-probabilities, entropies, and the gradient of a weighted sum.

  One program for both: the oracle takes the policy as it is and the update's
  rules from NumPy.
  """

  def total(params, batch, trajectory, weights):
    outputs = token_losses.token_log_probabilities(
      *_STATIC, params, batch, trajectory
    )
    return jnp.sum(outputs[0] * weights), outputs

  return _jit(jax.grad(total, has_aux=True))


@pytest.fixture(scope="module")
def reference(played):
  """Another policy near the first."""
  rng = np.random.default_rng(5)
  return jax.tree.map(
    lambda x: x * (1 + 0.02 * rng.normal(size=x.shape).astype(np.float32)),
    played[0],
  )


@pytest.fixture(scope="module")
def known(played, weighted, reference):
  """NumPy f64: log-probabilities of policy and reference, and entropies."""
  params, batch, trajectory = played
  zero = jnp.zeros_like(trajectory.logp)
  outputs = [
    weighted(p, batch, trajectory, zero)[1] for p in (params, reference)
  ]
  (logp, entropy), (other, _) = (
    tuple(np.asarray(x, np.float64) for x in pair) for pair in outputs
  )
  return logp, other, entropy


@pytest.fixture(scope="module")
def lesson(played, known):
  """The rollouts as an older policy would have written them."""
  _, batch, trajectory = played
  rng = np.random.default_rng(1)
  p, g, t = trajectory.logp.shape
  old = known[0] + rng.uniform(-0.5, 0.5, (p, g, t))
  old = np.where(trajectory.written, old, 0).astype(np.float32)
  mask = rng.random((p, g)) < 0.7
  mask[1] = False  # a whole group that was dropped
  return Lesson(
    batch,
    dataclasses.replace(trajectory, logp=jnp.asarray(old)),
    jnp.asarray(rng.normal(size=(p, g)), jnp.float32),
    jnp.asarray(mask),
  )


def _learner(rules, optimiser=None, frozen=("vision",)):
  config, limits, capacity = _STATIC
  optimiser = optimiser or optax.sgd(1.0)
  return Learner(config, limits, rules, optimiser, capacity, frozen)


@pytest.fixture(scope="module")
def step(played):
  """One update with the plain rules: (state, metrics) from a lesson."""
  learner = _learner(RULES)
  return learner, _jit(learner.update)


@pytest.fixture(scope="module")
def updated(step, played, lesson, reference):
  learner, run = step
  return run(learner.init(played[0], 0), lesson, reference)


def _expected(lesson, known, rules):
  """Loss, share of clipped tokens, entropy, and d loss / d logp, in f64.

  The entropy is of all that was written, in the loss or not.
  """
  logp, other, entropy = known
  written = np.asarray(lesson.trajectory.written)
  mask = written & np.asarray(lesson.mask)[..., None]
  old = np.asarray(lesson.trajectory.logp, np.float64)
  a = np.asarray(lesson.advantages, np.float64)[..., None]
  tokens = mask.sum()
  ratio = np.exp(np.where(written, logp - old, 0))
  clipped = np.clip(ratio, 1 - rules.clip_low, 1 + rules.clip_high)
  is_clipped = clipped * a < ratio * a
  surrogate = np.where(is_clipped, clipped * a, ratio * a)
  away = np.where(written, other - logp, 0)
  k3 = np.exp(away) - away - 1
  loss = (mask * (rules.kl * k3 - surrogate)).sum() / tokens
  slope = rules.kl * (1 - np.exp(away)) - np.where(is_clipped, 0, ratio * a)
  return (
    loss,
    (mask & is_clipped).sum() / tokens,
    entropy[written].mean(),
    mask * slope / tokens,
  )


def _assert_close(tree, expected, tolerance):
  """Each leaf to a share of its largest value."""
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(expected)
  ):
    a, b = np.asarray(a), np.asarray(b)
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)
    assert error < tolerance, (jax.tree_util.keystr(path), error)


def _change(before, after):
  return jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), before, after)


def test_learner_and_sampler_agree(played, known):
  _, _, trajectory = played
  written = np.asarray(trajectory.written)
  crops = np.asarray(trajectory.crops)
  assert crops.max() == 2 and crops.min() == 0  # with and without crops
  gap = np.abs(known[0] - np.asarray(trajectory.logp))[written]
  assert gap.max() < 1e-4
  assert (known[0][..., 0] == 0).all()


def test_entropy_is_that_of_a_distribution_over_the_vocabulary(played, known):
  written = np.array(played[2].written)
  vocabulary = scripted_policy.config().text.vocab_size
  entropy = known[2][written]
  assert entropy.min() > 0 and entropy.max() < np.log(vocabulary)
  # What is sampled has on average the surprise of the entropy.
  written[:, 2:] = False  # greedy
  entropy, surprise = known[2][written], -known[0][written]
  spread = surprise.std() / len(surprise) ** 0.5
  assert abs(surprise.mean() - entropy.mean()) < 5 * spread


def test_loss_clip_and_kl_are_those_of_numpy(updated, lesson, known):
  _, metrics = updated
  loss, clipped, entropy, _ = _expected(lesson, known, RULES)
  assert 0.1 < clipped < 0.9
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics["clipped"], clipped, atol=2e-3)
  np.testing.assert_allclose(metrics["entropy"], entropy, rtol=1e-4)
  written = np.asarray(lesson.trajectory.written)
  gap = np.abs(known[0] - np.asarray(lesson.trajectory.logp))[written].max()
  np.testing.assert_allclose(metrics["sampler_gap"], gap, rtol=1e-3)
  mask = written & np.asarray(lesson.mask)[..., None]
  away = (known[1] - known[0])[mask]
  kl = (np.exp(away) - away - 1).mean()
  assert kl > 1e-4
  np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-3)


def test_a_step_whose_groups_are_all_dropped_keeps_its_entropy(
  step, played, lesson, updated, reference
):
  """Zero would read as a collapse of the policy."""
  learner, run = step
  dropped = dataclasses.replace(lesson, mask=jnp.zeros_like(lesson.mask))
  _, metrics = run(learner.init(played[0], 0), dropped, reference)
  assert metrics["loss"] == 0 and metrics["gradient_norm"] == 0
  expected = updated[1]["entropy"]
  np.testing.assert_allclose(metrics["entropy"], expected, rtol=1e-5)


def test_the_gradient_is_that_of_the_token_mean(
  played, updated, lesson, known, weighted
):
  params, batch, trajectory = played
  state, metrics = updated
  weights = jnp.asarray(_expected(lesson, known, RULES)[3], jnp.float32)
  expected, _ = weighted(params, batch, trajectory, weights)
  # Of the frozen tower too there would be a gradient.
  assert optax.global_norm(expected.pop("vision")) > 1e-4
  change = _change(params, state.params)
  change.pop("vision")
  _assert_close(change, expected, 1e-3)
  norm = optax.global_norm(expected)
  np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)


def test_an_update_gives_the_same_bits_each_time(
  step, played, updated, lesson, reference
):
  learner, run = step
  for _ in range(5):
    again = run(learner.init(played[0], 0), lesson, reference)
    jax.tree.map(np.testing.assert_array_equal, again[1], updated[1])
    jax.tree.map(
      np.testing.assert_array_equal, again[0].params, updated[0].params
    )


@pytest.mark.parametrize(
  "passes, pieces, slices",
  [
    (2, 2, 2),
    pytest.param(1, 4, 1, marks=pytest.mark.slow),
    pytest.param(1, 1, 2, marks=pytest.mark.slow),
    pytest.param(2, 1, 1, marks=pytest.mark.slow),
  ],
)
def test_passes_over_micro_batches_are_updates_by_the_whole_batch(
  played, step, updated, lesson, reference, passes, pieces, slices
):
  """A second pass compares with the sampler's log-probabilities again."""
  whole, expected = updated
  if passes == 2:
    whole, second = step[1](whole, lesson, reference)
    assert abs(second["loss"] - expected["loss"]) > 1e-4  # the ratio has moved
  learner = _learner(
    dataclasses.replace(
      RULES,
      updates_per_step=passes,
      micro_batches=pieces,
      rollout_slices=slices,
    )
  )
  state = learner.init(played[0], 0)
  state, metrics = _jit(learner.update)(state, lesson, reference)
  assert int(state.step) == 1
  for name, value in expected.items():  # those of the first pass
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
  before = played[0]
  _assert_close(
    {k: _change(before[k], state.params[k]) for k in before if k != "vision"},
    {k: _change(before[k], whole.params[k]) for k in before if k != "vision"},
    1e-4 if passes == 1 else 1e-3,  # sums in another order
  )


def test_frozen_parts_stay_bit_for_bit(played, updated):
  state, _ = updated
  before = jax.tree.leaves(played[0]["vision"])
  for a, b in zip(before, jax.tree.leaves(state.params["vision"])):
    np.testing.assert_array_equal(a, b)
  assert any(
    (a != b).any()
    for name in ("layers", "head", "embedding", "norm")
    for a, b in zip(
      jax.tree.leaves(played[0][name]), jax.tree.leaves(state.params[name])
    )
  )


def test_frozen_parts_have_no_optimiser_state(played):
  params = played[0]
  learner = _learner(RULES, optax.adamw(1e-3))
  state = learner.init(params, 0)
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  trained = {k: v for k, v in params.items() if k != "vision"}
  shapes = [x.shape for x in jax.tree.leaves(trained)]
  assert sorted(x.shape for x in moments) == sorted(2 * shapes)


def test_rules_that_make_no_update_are_refused(played):
  with pytest.raises(UserError, match="rl.advantage='best'"):
    UpdateConfig(advantage="best")
  with pytest.raises(UserError, match="rl.loss='sum'.*token_mean"):
    UpdateConfig(loss="sum")
  with pytest.raises(UserError, match="rl.kl=-1"):
    UpdateConfig(kl=-1)
  with pytest.raises(UserError, match="rl.micro_batches=0"):
    UpdateConfig(micro_batches=0)
  with pytest.raises(UserError, match="'tower'.*'vision'"):
    _learner(RULES, frozen=("tower",)).init(played[0], 0)


@pytest.mark.parametrize(
  "loss, expected",
  [
    ("token_mean", [[1 / 6] * 2] * 2),
    # Three of the four rollouts have tokens that count: 3, 2 and 1.
    ("sequence_mean", [[1 / 9, 1 / 6], [1 / 3, None]]),
    ("constant", [[1 / (3 * LIMITS.max_response_tokens)] * 2] * 2),
  ],
)
def test_what_a_token_weighs_in_the_loss(loss, expected):
  written = np.zeros((2, 2, 5), bool)
  for (p, g), number in {(0, 0): 3, (0, 1): 2, (1, 0): 1}.items():
    written[p, g, 1 : 1 + number] = True
  learner = _learner(UpdateConfig(loss=loss))
  weights = np.asarray(learner._weights(jnp.asarray(written)))
  for (p, g), _ in np.ndenumerate(weights):
    if written[p, g].any():
      np.testing.assert_allclose(weights[p, g], expected[p][g], rtol=1e-6)
  assert np.isfinite(learner._weights(jnp.zeros((2, 2, 5), bool))).all()


def test_encoded_views_serve_as_the_originals_do(played):
  params, batch, _ = played
  config, _, capacity = _STATIC
  encode = _jit(
    lambda batch: encoding.encode_views(config, params, batch, capacity)
  )
  prefill = _jit(
    lambda batch: encoding.encode_prompt(config, params, batch, capacity)
  )
  visual = encode(batch)
  expected = prefill(batch)
  for sign, close in ((1, True), (-1, False)):
    # Without the originals: nothing but the tokens can say what is seen.
    blind = dataclasses.replace(
      batch, originals=jnp.zeros_like(batch.originals), visual=sign * visual
    )
    found = prefill(blind)
    assert np.allclose(found.k, expected.k, atol=1e-5) == close
    assert np.allclose(found.v, expected.v, atol=1e-5) == close
