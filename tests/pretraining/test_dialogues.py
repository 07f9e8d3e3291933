"""Conversations, and the layer-by-layer forward that supervises attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import agent
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models import decoder
from lfpc_jax.models import policy as policy_lib
from lfpc_jax.pretraining import (
  dialogue_loss,
  dialogues,
  initial,
)
from lfpc_jax.pretraining import (
  features as features_lib,
)
from lfpc_jax.pretraining import (
  pool as pool_lib,
)
from lfpc_jax.pretraining import (
  writer as writer_lib,
)

pytestmark = pytest.mark.slow  # compiles the losses with their gradients


@pytest.fixture(scope="module")
def tokenizer():
  return Tokenizer.load(agent.ASSETS / "tiny_qwen")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  return pool_lib.make_pool(tmp_path_factory.mktemp("pool"), 4, workers=1)


@pytest.fixture(scope="module")
def features(scenes):
  """Random features, with crops that hold their sign's upper left part."""
  rng = np.random.default_rng(0)
  shape = (4, pool_lib.MAX_SIGNS, features_lib.CROPS)
  low = np.maximum(scenes.signs[:, :, None, :2] - 6, 0)
  low = np.broadcast_to(low, (*shape, 2))
  side = rng.integers(40, 90, size=(*shape, 1))
  boxes = np.concatenate([low, low + side], -1)
  return features_lib.Features(
    {n: rng.normal(size=(4, n, 128)) for n in (16, 64)},
    rng.normal(size=(*shape, 16, 128)),
    boxes.astype(np.int32),
    np.broadcast_to([3, 4], (*shape, 2)),
  )


KINDS = (
  dialogues.Kind(0, False, 2, 2, 0.3),
  dialogues.Kind(16, True, 3, 2, 0.4),
)


@pytest.fixture(scope="module", params=KINDS, ids=("crop", "call"))
def case(request, tokenizer, scenes, features):
  config = initial.tiny_config(tokenizer)
  policy = initial.initial_parameters(config, tokenizer, 0)
  writer = writer_lib.Writer(tokenizer)
  batch = dialogues.make_batch(
    np.random.default_rng(1), scenes, features, writer, (request.param,)
  )
  return config, policy, jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope="module")
def trace(case):
  config, policy, batch = case
  return jax.jit(lambda p: dialogue_loss.trace(config, p, batch))(policy)


def test_traced_states_are_the_decoders(case, trace):
  config, policy, batch = case
  x = policy_lib.embed(
    config, policy, batch.prefix_tokens, batch.prefix_visual, batch.view
  )
  cache = decoder.prefill(
    config, policy, x, batch.prefix_positions, batch.length
  )
  y = policy_lib.embed(config, policy, batch.tokens, batch.visual, batch.crops)
  slots = jnp.broadcast_to(jnp.arange(y.shape[2]), y.shape[:3])
  hidden, _ = decoder.extend(config, policy, y, batch.positions, slots, cache)
  hidden = jnp.take_along_axis(hidden, batch.target_slot[..., None], axis=2)
  np.testing.assert_allclose(trace.hidden, hidden, atol=1e-4)


def test_traced_attention_is_a_distribution_over_what_is_seen(case, trace):
  _, _, batch = case
  looks = trace.looks
  s = batch.prefix_tokens.shape[1]
  for look in looks:
    weight = np.exp(np.asarray(look))
    np.testing.assert_allclose(weight.sum(-1), 1, atol=1e-5)
    padding = np.arange(s) >= np.asarray(batch.length)[:, None]
    hidden = weight[..., :s] * padding[:, None, None, None]
    assert hidden.max(initial=0) == 0
    later = np.arange(batch.tokens.shape[2]) > batch.target_slot[..., None]
    assert (weight[..., s:] * later[:, :, :, None]).max() == 0


def test_targets_are_the_tokens_that_name_and_show_the_sign(case, tokenizer):
  _, _, batch = case
  p, g = batch.colour_slot.shape
  for i in range(p):
    for j in range(g):
      tokens = np.asarray(batch.tokens[i, j])
      word = tokenizer.decode([int(tokens[batch.colour_slot[i, j]])])
      assert word.strip() in pool_lib.COLOURS
      look = np.asarray(batch.look[i, j])
      told = [
        tokenizer.decode([int(tokens[slot + 1])])
        for slot in batch.target_slot[i, j][look > 0]
      ]
      assert all(text.isdigit() for text in told)
      assert len(told) == (5 if batch.crops.shape[2] > 1 else 1)


def test_cells_are_those_under_the_box():
  region = np.array((100, 200, 220, 280))  # 2 rows and 3 columns of 40 x 40
  cells = dialogues._cells(np.array((150, 245, 178, 270.0)), region, (2, 3), 9)
  np.testing.assert_array_equal(np.flatnonzero(cells), [4])
  # Half in column 0, half in column 1, and a sliver in row 0.
  cells = dialogues._cells(np.array((130, 238, 150, 270.0)), region, (2, 3), 9)
  np.testing.assert_array_equal(np.flatnonzero(cells), [3, 4])
  outside = dialogues._cells(np.array((0, 0, 9, 9.0)), region, (2, 3), 9)
  assert not outside.any()


def test_look_loss_is_nil_when_the_attention_is_right(case):
  _, _, batch = case
  word, sign = dialogue_loss._wanted(batch)

  def perfect(wanted):
    share = wanted / np.maximum(wanted.sum(-1, keepdims=True), 1)
    look = np.log(np.maximum(share, 1e-12))[..., None, :]
    return jnp.repeat(jnp.asarray(look), 4, axis=3)

  looks = [perfect(word), perfect(sign), perfect(sign), perfect(sign)]
  right = dialogue_loss._look_loss(looks, batch)
  np.testing.assert_allclose(right, 0, atol=1e-5)
  wrong = dialogue_loss._look_loss([looks[1], *looks[:1], *looks[2:]], batch)
  assert wrong[0] > 5 and wrong[1] > 5


def test_values_are_those_that_the_tokens_write(tokenizer):
  values = dialogue_loss.number_values(tokenizer)
  for number in (0, 7, 57, 504):
    (token,) = tokenizer.encode(str(number))
    assert values[token] == number
  assert values[tokenizer.encode("sign")[0]] == -1


def test_a_number_is_as_wrong_as_its_expectation_is_far(case, tokenizer):
  _, _, batch = case
  if batch.crops.shape[2] == 1:
    pytest.skip("no box is written")
  values = dialogue_loss.number_values(tokenizer)
  (near,), (far,) = tokenizer.encode("10"), tokenizer.encode("66")
  scores = np.full((*batch.look.shape, len(values)), -50.0, np.float32)
  scores[..., [near, far]] = 0.0  # half each: the expectation is 38
  targets = jnp.full(batch.look.shape, near)
  loss = dialogue_loss._far_loss(scores, targets, values, batch)
  np.testing.assert_allclose(loss, 1.0, atol=1e-5)  # 28 pixels are a cell


def test_a_number_must_know_the_row_and_column_of_the_digit(case):
  config, _, batch = case
  rng = np.random.default_rng(3)
  heads = dialogue_loss.init_heads(jax.random.key(0), config.text.width)
  hidden = rng.normal(size=(*batch.look.shape, config.text.width))
  loss = dialogue_loss._copy_loss(heads, jnp.asarray(hidden), batch)
  visual = np.asarray(batch.prefix_visual)
  losses = []
  for p, g, a in np.argwhere(np.asarray(dialogue_loss._numbers(batch))):
    x = hidden[p, g, a]
    scores = np.asarray(heads["position"], float).transpose(0, 2, 1) @ (
      x / np.sqrt((x**2).mean())
    )
    logp = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    slots = np.flatnonzero(visual[p] >= 0)
    places = np.asarray(batch.prefix_positions[p])[slots, 1:]
    places = places - places[0]
    held = np.asarray(batch.view_cells[p, g])[visual[p][slots]]
    losses.append(
      -np.mean([logp[0, r] + logp[1, c] for r, c in places[held]]) / 2
    )
  want = np.mean(losses) if losses else 0.0
  np.testing.assert_allclose(loss, want, rtol=1e-4)


def test_the_loss_falls_on_a_batch_that_is_seen_again(case, tokenizer):
  config, policy, batch = case
  values = dialogue_loss.number_values(tokenizer)
  heads = dialogue_loss.init_heads(jax.random.key(0), config.text.width)
  trained = {"policy": policy, "heads": heads}

  @jax.jit
  def step(trained):
    (value, _), grads = jax.value_and_grad(dialogue_loss.loss, 1, True)(
      config, trained, batch, values
    )
    return value, jax.tree.map(lambda p, g: p - 0.03 * g, trained, grads)

  losses = []
  for _ in range(4):
    value, trained = step(trained)
    losses.append(float(value))
  assert np.isfinite(losses).all() and losses[-1] < losses[0]
