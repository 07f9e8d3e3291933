"""The update of a policy with adapters trains these and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfpc_jax import checkpoints
from lfpc_jax.models import lora
from lfpc_jax.models.config import LoraConfig
from lfpc_jax.rl import precision
from lfpc_jax.rl.types import Lesson, UpdateConfig
from lfpc_jax.rl.update import Learner
from tests.rollout import scripted_policy

pytestmark = pytest.mark.slow  # compiles an update

_POLICY = dataclasses.replace(
  scripted_policy.config(), lora=LoraConfig(rank=2, targets=("q", "o", "up"))
)


@pytest.fixture(scope="module")
def learner():
  # Frozen parts in bfloat16: their products are the adapters' only input.
  optimiser = precision.keep_in(optax.adamw(1e-2), "float32")
  return Learner(
    _POLICY,
    scripted_policy.limits(1.0),
    UpdateConfig(),
    optimiser,
    scripted_policy.VIEW_TOKENS,
    ("vision",),
  )


@pytest.fixture(scope="module")
def states(learner):
  """The training state before and after an update."""
  params, batch, trajectory = scripted_policy.play(1.0)
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  before = learner.init(lora.with_fresh(_POLICY, params), 0)
  shape = trajectory.length.shape
  signs = np.resize([1.0, -1.0, 0.5], shape).astype(np.float32)
  lesson = Lesson(batch, trajectory, jnp.asarray(signs), jnp.ones(shape, bool))
  update = jax.jit(
    learner.update, compiler_options=scripted_policy.FAST_COMPILE
  )
  after, metrics = update(before, lesson)
  return before, after, metrics


def test_only_adapters_change(states):
  before, after, metrics = states
  assert metrics["gradient_norm"] > 1e-6
  assert jax.tree.structure(before) == jax.tree.structure(after)
  for name, part in before.params.items():
    if name != lora.PART:
      for x, y in zip(
        jax.tree.leaves(part), jax.tree.leaves(after.params[name])
      ):
        assert x.dtype == y.dtype == jnp.bfloat16
        np.testing.assert_array_equal(x, y)
  for target, pair in after.params[lora.PART].items():
    # A's gradient is zero as long as B is zero; weight decay moves A too.
    assert pair["b"].dtype == jnp.float32 and jnp.abs(pair["b"]).max() > 1e-3
    assert not before.params[lora.PART][target]["b"].any()


def test_optimiser_state_is_the_adapters_alone(states):
  before, _, _ = states
  moments = [x for x in jax.tree.leaves(before.opt_state) if x.ndim]
  shapes = [x.shape for x in jax.tree.leaves(before.params[lora.PART])]
  assert sorted(x.shape for x in moments) == sorted(2 * shapes)
  assert {x.dtype for x in moments} == {jnp.dtype("float32")}


def test_a_checkpoint_brings_adapters_and_moments_back(states, tmp_path):
  _, after, _ = states
  with checkpoints.Checkpointer(tmp_path) as saved:
    saved.save(1, after)
    back, _ = saved.restore(checkpoints.abstract(after))
  for x, y in zip(jax.tree.leaves(after.params), jax.tree.leaves(back.params)):
    np.testing.assert_array_equal(x, y)
  for x, y in zip(
    jax.tree.leaves(after.opt_state), jax.tree.leaves(back.opt_state)
  ):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_have_the_optimisers_precision(dtype):
  """Whatever the parameters' precision; the sums are float32's."""
  rng = np.random.default_rng(0)
  wide = jnp.asarray(rng.normal(size=64), jnp.float32)
  optimiser = precision.keep_in(optax.adamw(1e-3), dtype)
  state = optimiser.init(wide.astype(jnp.bfloat16))
  grads = jnp.asarray(rng.normal(size=64), jnp.bfloat16)
  change, state = optimiser.update(grads, state, wide.astype(jnp.bfloat16))
  assert change.dtype == dtype
  assert {x.dtype for x in jax.tree.leaves(state) if x.ndim} == {
    jnp.dtype(dtype)
  }
  # AdamW's first step by hand: the gradient's sign, and the decay.
  expected = -1e-3 * (np.sign(grads) + 1e-4 * np.asarray(wide))
  np.testing.assert_allclose(
    change.astype(np.float32),
    expected,
    rtol=2e-2 if dtype != "float32" else 1e-4,
  )


def test_small_changes_need_float32_parameters():
  """Why trained parts are float32: 1e-6 of a weight is lost in bfloat16."""
  optimiser = precision.keep_in(optax.sgd(1e-6), "float32")
  moved = {}
  for dtype in ("float32", "bfloat16"):
    weight = jnp.ones(1, dtype)
    state = optimiser.init(weight)
    for _ in range(100):
      change, state = optimiser.update(jnp.ones(1, dtype), state, weight)
      weight = optax.apply_updates(weight, change)
    moved[dtype] = 1 - float(weight[0])
  assert moved["bfloat16"] == 0
  np.testing.assert_allclose(moved["float32"], 1e-4, rtol=0.1)
