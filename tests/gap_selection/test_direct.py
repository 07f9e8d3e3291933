"""Direct answers against transformers' Qwen2.5-VL and Pillow."""

import jax
import numpy as np
import pytest
import torch
import transformers

from lfpc_jax import agent as agent_lib
from lfpc_jax.data import prompts
from lfpc_jax.gap_selection import direct
from lfpc_jax.gap_selection.direct import DirectAnswers
from tests.gap_selection import sizes
from tests.models import oracle
from tests.rollout import reference_episode

BUDGET = 20


@pytest.mark.parametrize(
  "written, expected",
  [
    ("7</answer><|im_end|>", "7"),
    (" two dogs </answer> and more", "two dogs"),
    ("cut off in the mid", "cut off in the mid"),
    ("7<|im_end|>", "7"),
    ("", ""),
  ],
)
def test_the_answer_is_what_comes_before_the_closing_tag(written, expected):
  assert direct.answer_text(written) == expected


@pytest.fixture(scope="module")
def model():
  return transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    agent_lib.ASSETS / "tiny_qwen",
    dtype=torch.float32,
    attn_implementation="eager",
  ).eval()


def _reference(model, tokenizer, example, grid, limit):
  """The greedy continuation, and its least margin over the second best."""
  pad = tokenizer.special.image_pad
  text = "".join(prompts.prompt_text(example.question, style="short"))
  ids = tokenizer.encode(text + "<answer>")
  place = ids.index(pad)
  world = reference_episode.World([], [], [], pad, [], [])
  flat = reference_episode.words(ids[:place])
  flat += reference_episode.image(world, grid, example.image)
  flat += reference_episode.words(ids[place + 1 :])
  written, margin = [], np.inf
  while len(written) < limit and tokenizer.special.im_end not in written:
    scores = np.sort(oracle.logits(model, flat)[-1])
    margin = min(margin, scores[-1] - scores[-2])
    token = int(np.argmax(oracle.logits(model, flat)[-1]))
    written.append(token)
    flat += reference_episode.words([token])
  return tokenizer.decode(written), margin


@pytest.fixture(autouse=True)
def compile_fast():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def test_answers_are_those_of_transformers(model):
  config = sizes.load("selection.batch=2")
  answers = DirectAnswers(config, sizes.params(), BUDGET)
  examples = list(sizes.source(3))
  found, tokens = answers(*answers.pack(examples[:2]))
  compiled = answers.compile_seconds
  batch, number = answers.pack(examples[2:])
  assert number == 1 and batch.tokens.shape[0] == 2  # filled up
  more, more_tokens = answers(batch, number)
  assert 0 < compiled == answers.compile_seconds  # one program
  found, tokens = found + more, [*tokens, *more_tokens]
  assert len(found) == 3
  agent = agent_lib.make_agent(config, BUDGET)
  for example, answer, visual in zip(examples, found, tokens):
    grid = agent.packer.view_grid(example, BUDGET)
    assert visual == grid[0] * grid[1] <= BUDGET
    expected, margin = _reference(model, agent.tokenizer, example, grid, 4)
    # Two equally good tokens may come in either order.
    assert margin < 1e-3 or answer == direct.answer_text(expected)


def test_the_full_style_says_nothing_of_the_tool():
  text = "".join(prompts.prompt_text("Which colour?", (), "full", direct=True))
  assert "tool" not in text and "zoom" not in text
  assert text.endswith("<|im_start|>assistant\n<answer>")
  assert "Which colour?" in text
