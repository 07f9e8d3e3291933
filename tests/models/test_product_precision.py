"""Float32 products are float32 on every device, forward and backward.

On GPUs and TPUs, XLA computes a float32 product of unstated precision in TF32
or bfloat16. What a program asks for stands in its StableHLO, on any machine.
"""

import re

import jax
import jax.numpy as jnp
import optax
import pytest

from lfpc_jax.models import decoder, layers, parameters, policy
from lfpc_jax.models.config import LoraConfig
from lfpc_jax.rl.types import Lesson, UpdateConfig
from lfpc_jax.rl.update import Learner
from tests.models import batches, oracle
from tests.rollout import scripted_policy

_TYPES = re.compile(r": \(tensor<([^>]*)>, tensor<([^>]*)>\)")


def _products(lowered) -> list[tuple[str, bool]]:
  """(operand types, whether HIGHEST is asked of both) of each dot."""
  lines = lowered.as_text().splitlines()
  lines = [x for x in lines if "stablehlo.dot_general" in x]
  assert all("HIGHEST" not in x or "[HIGHEST, HIGHEST]" in x for x in lines)
  kinds = [[x.split("x")[-1] for x in _TYPES.search(y).groups()] for y in lines]
  return [
    (" ".join(kind), "[HIGHEST, HIGHEST]" in line)
    for kind, line in zip(kinds, lines)
  ]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
  config = oracle.config()
  params = oracle.random_params(config)
  model = oracle.load(config, params, tmp_path_factory.mktemp("m") / "m")
  prefix = oracle.sequence([[1, 2], (9, 9), [3, 4, 5]], 1)
  suffix = oracle.sequence([[11, 12, 13], (5, 6), [21, 22, 23]], 2)
  return batches.build(model, [prefix], [[suffix]])


def _lower(batch, dtype, **fields):
  """The gradient's program: towers, prefix, suffix, chunks, adapters."""
  config = oracle.config(
    dtype=dtype,
    lora=LoraConfig(rank=2),
    attention_chunk=64,
    logit_chunk=4,
    **fields,
  )
  params = parameters.abstract(config)
  return batches._loss_gradients.lower(config, params, {}, batch)


@pytest.mark.parametrize("tied", [False, True])
def test_every_float32_product_of_values_and_gradients_is_exact(batch, tied):
  found = _products(_lower(batch, "float32", tie_word_embeddings=tied))
  assert len(found) > 100  # three for each of the forward's
  assert set(found) == {("f32 f32", True)}


def test_products_of_bfloat16_are_left_as_they_are(batch):
  # The others are gradients of products that are summed in float32.
  found = _products(_lower(batch, "bfloat16"))
  assert ("bf16 bf16", False) in found
  assert not any(exact for _, exact in found)


def test_decoding_with_a_cache_is_exact_too():
  config = oracle.config()
  params = oracle.random_params(config)
  text = config.text
  shape = (text.depth, 1, text.kv_heads)
  keys = jnp.zeros((*shape, text.head_dim, 5))
  values = jnp.zeros((*shape, 5, text.head_dim))

  def decode(params, keys, values):
    prefix = decoder.PrefixCache(keys, values, jnp.array([4]))
    cache = decoder.empty_suffix(config, 1, 2, 3)
    x = jnp.ones((1, 2, 1, text.width))
    positions = jnp.full((1, 2, 1, 3), 4)
    slots = jnp.zeros((1, 2, 1), jnp.int32)
    hidden, _ = decoder.extend(
      config, params, x, positions, slots, prefix, cache
    )
    return policy.logits(config, params, hidden)

  found = _products(jax.jit(decode).lower(params, keys, values))
  assert len(found) > 8 and set(found) == {("f32 f32", True)}


def test_every_product_of_a_whole_update_is_exact():
  """With the views rendered again, the loss and the optimiser."""
  config = scripted_policy.config()
  assert config.dtype == "float32"
  params, batch, trajectory = scripted_policy.play(1.0)
  learner = Learner(
    config,
    scripted_policy.limits(1.0),
    UpdateConfig(),
    optax.adamw(1e-3),
    scripted_policy.VIEW_TOKENS,
    (),
  )
  shape = trajectory.length.shape
  lesson = Lesson(batch, trajectory, jnp.ones(shape), jnp.ones(shape, bool))
  state = jax.eval_shape(lambda p: learner.init(p, 0), params)
  found = _products(jax.jit(learner.update).lower(state, lesson))
  assert len(found) > 100 and set(found) == {("f32 f32", True)}


def test_only_float32_asks_for_more_than_the_default():
  assert layers.precision("float32") == jax.lax.Precision.HIGHEST
  assert layers.precision(jnp.bfloat16) is None
