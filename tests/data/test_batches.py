"""Packing examples into arrays of fixed shapes."""

import numpy as np
import pytest

from lfpc_jax import agent
from lfpc_jax.data import batches, prompts
from lfpc_jax.data.batches import Packer
from lfpc_jax.data.examples import Example
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.errors import UserError

TOKENIZER = Tokenizer.load(agent.ASSETS / "tiny_qwen")
QUESTION = "What digit is on the red sign?"


def _packer(**changes):
  fields = dict(
    tokenizer=TOKENIZER,
    style="short",
    view_capacity=16,
    view_min_tokens=4,
    text_capacity=40,
    image_capacity=(112, 224),
    target_capacity=2,
  )
  return Packer(**fields | changes)


def _example(height=112, width=224, boxes=(), question=QUESTION, seed=0):
  rng = np.random.default_rng(seed)
  return Example(
    id=f"image {seed}",
    image=rng.integers(1, 255, (height, width, 3)).astype(np.uint8),
    question=question,
    answer="7",
    category="any",
    options=(),
    boxes=np.array(boxes, np.int32).reshape(-1, 4),
    source="here",
  )


def test_originals_lie_in_the_top_left_corner():
  examples = [_example(), _example(56, 84, seed=1)]
  batch = _packer().pack(examples, [16, 16])
  assert batch.originals.shape == (2, 112, 224, 3)
  assert batch.originals.dtype == np.uint8
  assert batch.size.tolist() == [[112, 224], [56, 84]]
  np.testing.assert_array_equal(batch.originals[0], examples[0].image)
  small = batch.originals[1]
  np.testing.assert_array_equal(small[:56, :84], examples[1].image)
  assert small.sum() == examples[1].image.sum(dtype=np.int64)


def test_each_view_has_its_own_budget():
  # 4 x 8 tokens of 28 x 28 pixels fit no budget here.
  batch = _packer().pack([_example()] * 3, [16, 9, 4])
  # sqrt(budget / 2) rows and twice as many columns, each rounded down.
  assert batch.grid.tolist() == [[2, 5], [2, 4], [1, 2]]


def test_a_small_image_is_enlarged_but_not_beyond_its_budget():
  batch = _packer(view_min_tokens=9).pack([_example(28, 28)] * 2, [16, 4])
  assert batch.grid.tolist() == [[3, 3], [2, 2]]


def test_the_prompt_is_the_text_with_a_slot_for_each_visual_token():
  batch = _packer().pack([_example(), _example(56, 56)], [16, 4])
  text = "".join(prompts.prompt_text(QUESTION, style="short"))
  pad = TOKENIZER.special.image_pad
  assert batch.tokens.shape == batch.visual_index.shape == (2, 16 + 40)
  for row in range(2):
    length, visual = batch.length[row], int(batch.grid[row].prod())
    tokens = batch.tokens[row]
    spelled = text.replace("<|image_pad|>", "<|image_pad|>" * visual)
    assert TOKENIZER.decode(tokens[:length].tolist()) == spelled
    assert (tokens[length:] == TOKENIZER.special.pad).all()
    index = batch.visual_index[row]
    np.testing.assert_array_equal(index[tokens == pad], np.arange(visual))
    assert (index[tokens != pad] == -1).all()
    # An image takes as many positions as its larger side.
    after = length - visual + batch.grid[row].max()
    assert batch.next_position[row] == after
    assert batch.positions[row, length - 1].tolist() == [after - 1] * 3


def test_the_smallest_targets_are_kept():
  nested = [[4, 4, 8, 8], [2, 2, 9, 9], [0, 0, 20, 20]]
  examples = [_example(boxes=nested), _example(boxes=nested[:1]), _example()]
  batch = _packer().pack(examples, [4] * 3)
  assert batch.targets[0].tolist() == nested[:2]
  assert batch.targets[1].tolist() == [nested[0], [0] * 4]
  assert batch.target_valid.tolist() == [[True] * 2, [True, False], [False] * 2]


@pytest.mark.parametrize(
  "changes, says",
  [
    (dict(height=113), "image 3.*113 x 224 .*data.image_capacity"),
    (dict(width=225), "image 3.*112 x 225 .*data.image_capacity"),
    (dict(question="red " * 60), "rollout.text_capacity"),
  ],
)
def test_what_exceeds_a_capacity_is_refused_by_its_flag(changes, says):
  with pytest.raises(UserError, match=says):
    _packer().pack([_example(**changes, seed=3)], [4])


def test_a_budget_beyond_the_capacity_is_refused():
  with pytest.raises(UserError, match="4 x 4 .*capacity of 15.*gap.full_tok"):
    _packer(view_capacity=15).pack([_example(112, 112)], [16])


def test_every_example_needs_a_budget():
  with pytest.raises(ValueError):
    _packer().pack([_example()] * 2, [4])


def test_prompts_that_share_an_image_share_its_original():
  first, second = _example(seed=1), _example(40, 50, seed=2)
  examples = [first, first, second, second]
  originals = _packer().originals(examples, share=2)
  assert originals.shape == (2, 112, 224, 3)
  np.testing.assert_array_equal(originals[1, :40, :50], second.image)
  batch = _packer().pack(examples, [16] * 4, originals)
  assert batch.originals is originals and batch.tokens.shape[0] == 4
  for before, after in zip(examples, batches.in_place(examples, originals)):
    np.testing.assert_array_equal(after.image, before.image)
    assert np.shares_memory(after.image, originals)
