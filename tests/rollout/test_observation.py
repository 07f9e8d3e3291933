"""The tool's answer: its size, its tokens and their rotary positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

from lfpc_jax import agent
from lfpc_jax.data import prompts, tokenizer
from lfpc_jax.rollout import observation
from lfpc_jax.rollout.observation import Call
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import EpisodeConfig

CONFIG = EpisodeConfig(crop_min_tokens=4, crop_max_tokens=12, max_crops=2)
_FAST = {"xla_backend_optimization_level": 0}  # small programs, run once
crop_grid = jax.jit(
  observation.crop_grid, static_argnums=1, compiler_options=_FAST
)
with_box = jax.jit(
  observation.with_box, static_argnums=0, compiler_options=_FAST
)
compose = jax.jit(observation.compose, static_argnums=0, compiler_options=_FAST)
read = jax.jit(observation.read, static_argnums=0, compiler_options=_FAST)


@pytest.fixture(scope="module")
def words():
  return tokenizer.Tokenizer.load(agent.ASSETS / "tiny_qwen")


@pytest.fixture(scope="module", params=["short", "full"])
def styled(request, words):
  texts = agent.environment_texts(words, request.param, words.vocab_size)
  return request.param, texts


@pytest.fixture(scope="module")
def short(words):
  return agent.environment_texts(words, "short", words.vocab_size)


def _boxes(rng, number):
  """Boxes up to 4,000 pixels a side, most of them thin."""
  side = np.exp(rng.uniform(np.log(28), np.log(4000), (number, 2)))
  side = side.astype(np.int32)
  low = rng.integers(0, 100, (number, 2))
  return np.concatenate([low, low + side], 1).astype(np.int32)


@pytest.mark.parametrize("least, most", [(4, 4), (9, 16)])
def test_a_crop_has_the_processors_grid_and_never_more_than_the_most(
  least, most
):
  config = dataclasses.replace(
    CONFIG, crop_min_tokens=least, crop_max_tokens=most
  )
  boxes = _boxes(np.random.default_rng(0), 2000)
  grids = crop_grid(boxes, config)
  changed = 0
  for box, grid in zip(boxes.tolist(), np.asarray(grids).tolist()):
    size = image_processing_pil_qwen2_vl.smart_resize(
      box[3] - box[1], box[2] - box[0], 28, least * 784, most * 784
    )
    rows, cols = (side // 28 for side in size)
    assert min(grid) >= 1 and grid[0] * grid[1] <= most
    if rows * cols <= most:
      assert grid == [rows, cols]
      continue
    changed += 1
    # The short side stays if it can, the long one takes what is left.
    short = min(rows, cols, most)
    assert sorted(grid) == sorted([short, most // short])
    if rows != cols:
      assert (grid[0] > grid[1]) == (rows > cols) or grid[0] == grid[1]
  assert changed > 0


def _call(failures, grids, closed, texts):
  """P = 1 prompt with a rollout for each call."""
  failures = jnp.array([failures], jnp.int32)
  boxes = jnp.zeros((*failures.shape, 4), jnp.int32)
  call = Call(
    made=jnp.ones_like(failures, bool),
    failure=failures,
    box_shown=boxes.astype(jnp.float32),
    box=boxes,
    closed=jnp.array([closed], jnp.int32),
    grid=jnp.zeros((*failures.shape, 2), jnp.int32),
    length=jnp.zeros_like(failures),
  )
  # The grid's own boxes: cells of 28 pixels.
  side = np.array([[28 * cols, 28 * rows] for rows, cols in grids])
  box = jnp.asarray(np.concatenate([np.zeros_like(side), side], 1)[None])
  return with_box(CONFIG, texts, call, box.astype(jnp.int32))


def _qwen_positions(tokens, words, grid, first):
  """get_rope_index's rule in plain Python: position [n, 3] of each token."""
  places, now, cell = [], first, 0
  for token in tokens:
    if token != words.special.image_pad:
      places.append([now] * 3)
      now += 1
      continue
    row, col = divmod(cell, grid[1])
    places.append([now, now + row, now + col])
    cell += 1
    if cell == grid[0] * grid[1]:
      now += max(grid)
  return places, now


@pytest.mark.parametrize("closed", [0, 1])
def test_tokens_and_positions_are_those_of_the_text(styled, words, closed):
  style, texts = styled
  grids = [(2, 2), (3, 4), (1, 12), (4, 1)]
  failures = [-1] * len(grids) + list(Failure)
  grids += [(2, 3)] * len(Failure)
  call = _call(failures, grids, [closed] * len(grids), texts)
  first = jnp.arange(10, 10 + len(grids), dtype=jnp.int32)[None]
  outputs = map(np.asarray, compose(CONFIG, texts, call, first))
  tokens, visual, positions, after = (x[0] for x in outputs)
  assert tokens.shape[1] == texts.capacity(CONFIG)
  before, behind = prompts.observation_text(style)
  for k, (failure, grid) in enumerate(zip(failures, grids)):
    text = before + "<|image_pad|>" * (grid[0] * grid[1]) + behind
    if failure >= 0:
      text = prompts.error_text(Failure(failure), style)
    want = words.encode(text)[closed:]
    n = int(call.length[0, k])
    assert tokens[k, :n].tolist() == want
    places, end = _qwen_positions(want, words, grid, 10 + k)
    assert positions[k, :n].tolist() == places
    assert after[k] == end
    is_pad = np.array(want) == words.special.image_pad
    assert visual[k, :n][is_pad].tolist() == list(range(is_pad.sum()))
    assert (visual[k, :n][~is_pad] == -1).all()
    assert n <= texts.capacity(CONFIG)


def test_an_observation_goes_on_where_a_packed_prompt_would(styled, words):
  """Positions again, against the packing that transformers has checked."""
  style, texts = styled
  before, behind = prompts.observation_text(style)
  text = before + "<|image_pad|>" + behind
  grids = ((3, 4), (6, 2), (1, 4))
  call = _call([-1] * 3, grids, [0] * 3, texts)
  start = jnp.zeros((1, 3), jnp.int32)
  _, _, positions, after = compose(CONFIG, texts, call, start)
  for k, grid in enumerate(grids):
    packed = prompts.pack_prompt(words, text, grid, 80)
    n = int(packed.length)
    np.testing.assert_array_equal(positions[0, k, :n], packed.positions[:n])
    assert int(after[0, k]) == packed.next_position


def _read(words, texts, text, crops_left=1):
  ids = words.encode(text)
  tokens = jnp.array(ids + [0] * (96 - len(ids)), jnp.int32)[None, None]
  scalar = lambda x: jnp.full((1, 1), x, jnp.int32)
  return read(
    dataclasses.replace(CONFIG, crop_max_aspect=39.0),
    texts,
    tokens,
    scalar(0),
    scalar(len(ids)),
    jnp.array([[[56, 112]]]),
    jnp.array([[[560, 1120]]]),
    scalar(crops_left),
  )


def _text(numbers):
  arguments = '{"bbox_2d": [' + numbers + "]}"
  name = '"name": "image_zoom_in_tool"'
  return f'<tool_call>{{{name}, "arguments": {arguments}}}</tool_call>'


@pytest.mark.parametrize(
  "numbers, crops_left, failure",
  [
    ("1, 2, 30, 40", 1, -1),
    ("1, 2, 30, 40", 0, Failure.NO_CROPS_LEFT),
    ("1, 2, 1, 40", 0, Failure.BOX_EMPTY),
    ("1, 2, 1e999, 40", 1, Failure.BOX_NOT_FINITE),
    ("0, 2, 112, 2.1", 1, Failure.BOX_TOO_THIN),
    ("1, 2, 30", 1, Failure.WRONG_ARGUMENTS),
    ("1, 2, 30,", 1, Failure.NOT_JSON),
  ],
)
def test_a_call_is_placed_or_fails(words, short, numbers, crops_left, failure):
  call = _read(words, short, _text(numbers), crops_left)
  assert bool(call.made[0, 0])
  assert int(call.failure[0, 0]) == failure
  assert bool(call.good[0, 0]) == (failure < 0)
  if failure < 0:
    assert call.box[0, 0].tolist() == [10, 20, 300, 400]
    assert call.box_shown[0, 0].tolist() == [1, 2, 30, 40]
  elif failure != Failure.NO_CROPS_LEFT:
    assert int(call.length[0, 0]) == int(short.error_lengths[failure])


def test_a_turn_without_a_call_is_none(words, short):
  for text in ("<answer>7</answer><|im_end|>", "</tool_call>", "7"):
    call = _read(words, short, text)
    assert not bool(call.made[0, 0]) and not bool(call.good[0, 0])
