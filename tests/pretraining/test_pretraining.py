"""The pretraining's data against scenes worked out here."""

import numpy as np
import pytest

from lfpc_jax import agent
from lfpc_jax.data import prompts
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.pretraining import loop, pool, tower, views, writer


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  return pool.make_pool(tmp_path_factory.mktemp("pool"), 6, workers=1)


@pytest.fixture(scope="module")
def tokenizer():
  return Tokenizer.load(agent.ASSETS / "tiny_qwen")


def test_pool_is_read_back_and_not_drawn_again(tmp_path):
  first = pool.make_pool(tmp_path, 3, workers=1)
  images = np.array(first.images)
  again = pool.make_pool(tmp_path, 999)
  np.testing.assert_array_equal(again.images, images)


def test_token_on_a_digit_must_name_its_sign(scenes):
  sign, ink = scenes.signs[0, 0], scenes.digits[0, 0]
  box = tuple(int(v) for v in sign)
  cut = views.cut(scenes.images[0], box, (16, 16), 16)
  colour, digit, _, place = tower.token_targets(scenes, 0, cut, 16)
  rows, cols = cut.grid
  centre = ((ink[:2] + ink[2:]) / 2 - sign[:2]) / (sign[2:] - sign[:2])
  slot = int(centre[1] * rows) * cols + int(centre[0] * cols)
  assert digit[slot] == scenes.digit[0, 0]
  assert colour[slot] == scenes.colour[0, 0]
  # The view is the sign itself: its left edge lies left of any token's
  # centre by the token's column and a half.
  np.testing.assert_allclose(place[slot, 0], -(slot % cols) - 0.5, atol=1e-5)


def test_a_digit_too_small_to_read_is_not_asked_for(scenes):
  size = scenes.images.shape[1]
  cut = views.cut(scenes.images[0], (0, 0, size, size), (4, 4), 4)
  _, digit, _, _ = tower.token_targets(scenes, 0, cut, 4)
  assert (digit == -1).all()


def test_token_on_a_sign_names_the_partners_colour_if_both_are_seen(scenes):
  scene, sign = np.argwhere(scenes.partner >= 0)[0]
  other = scenes.partner[scene, sign]
  boxes = scenes.signs[scene][[sign, other]]
  pair = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))

  def partners_of(region):
    region = tuple(int(v) for v in region)
    cut = views.cut(scenes.images[scene], region, (9, 16), 16)
    colour, _, partner, _ = tower.token_targets(scenes, scene, cut, 16)
    return set(partner[colour == scenes.colour[scene, sign]].tolist())

  assert partners_of(pair) == {int(scenes.colour[scene, other])}
  assert partners_of(boxes[0]) == {-1}


def test_conversation_is_the_prompts_own_text(tokenizer):
  text = writer.Writer(tokenizer)
  question = "What digit is on the red sign?"
  made = text.conversation(question, (1, 2, 30, 40), (2, 3), "7", 10)
  tokens, positions, visual = made.tokens, made.positions, made.visual
  head, _, _ = prompts.prompt_text(question, style="short")
  before, after = prompts.observation_text("short")
  pads = "<|image_pad|>" * 6
  prompt = "".join(prompts.prompt_text(question, style="short"))
  call = (
    '<tool_call>\n{"name": "image_zoom_in_tool", '
    '"arguments": {"bbox_2d": [1, 2, 30, 40]}}\n</tool_call>'
  )
  answer = "<answer>7</answer><|im_end|>"
  whole = prompt[len(head) :] + call + before + pads + after + answer
  assert tokenizer.decode(tokens.tolist()) == whole
  np.testing.assert_array_equal(visual[visual >= 0], np.arange(6))
  assert tokenizer.decode([int(tokens[made.answer])]) == "7"
  written = tokenizer.decode(tokens[made.weight > 0].tolist())
  assert written == call + answer
  assert tokenizer.decode([int(tokens[made.colour])]) == " red"
  numbers = [tokenizer.decode([int(tokens[n])]) for n in made.numbers]
  assert numbers == ["1", "2", "30", "40"]
  # Three positions for six visual tokens: the larger side of 2 x 3.
  assert positions[-1, 0] == 10 + len(tokens) - 1 - 6 + 3


def test_batches_do_not_depend_on_where_a_run_starts():
  def make(rng):
    return rng.integers(1 << 30)

  whole = list(loop.batches(make, 3, 0, 7))
  assert list(loop.batches(make, 3, 4, 7)) == whole[4:]
