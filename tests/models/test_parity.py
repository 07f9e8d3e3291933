"""The policy's logits and gradients are those of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lfpc_jax.image.views import View
from lfpc_jax.models import rotary, vision
from tests.models import batches, oracle

slow = pytest.mark.slow
_A, _B, _C = [1, 2, 3], [4, 5, 6, 7], [8, 9]

# name: (text fields, vision fields, policy fields, prefix, suffix). Images are
# grids of visual tokens; a window is 4 x 4 of them unless the case says so.
CASES = {
  "untied, two queries a kv head, images in both parts": (
    {},
    {},
    {},
    [_A, (5, 7), _B],
    [_C, (1, 3), _A],
  ),
  "tied, one query a kv head, one cell wide": (
    dict(heads=4, kv_heads=4),
    dict(full_attention_blocks=(2,)),
    dict(tie_word_embeddings=True),
    [_A, (9, 1), _B],
    [_B, (1, 9), _C],
  ),
  "seven queries a kv head": (
    dict(width=56, heads=14, kv_heads=2, mrope_section=(0, 1, 1)),
    dict(full_attention_blocks=(0,)),
    dict(remat="none"),
    [_A, (4, 8), _B],
    [_C, _A],
  ),
  "wide heads, narrow windows": (
    dict(width=64, heads=2, kv_heads=1, mrope_section=(4, 6, 6)),
    dict(width=48, heads=2, window_size=56),
    {},
    [_A, (5, 3), _B],
    [_C, (3, 2), _A],
  ),
  "no full attention, smaller than a window": (
    {},
    dict(full_attention_blocks=()),
    {},
    [_A, (2, 3)],
    [_C, (1, 1), _A],
  ),
  "full attention in every block": (
    {},
    dict(full_attention_blocks=(0, 1, 2)),
    {},
    [_A, (6, 5), _B],
    [_C, _B],
  ),
  "several images of different sizes in each part": (
    {},
    dict(full_attention_blocks=(0, 2)),
    {},
    [_A, (3, 9), _B, (5, 5), (2, 1), _C],
    [_C, (4, 5), (1, 2), _A, (7, 2), _B],
  ),
  "text only": ({}, {}, {}, [_A, _B, _C], [_B, _A, _C, _B]),
  "scores and logits in chunks": (
    {},
    {},
    dict(attention_chunk=8, logit_chunk=8),
    [_A, (6, 5)],
    [_C, (5, 2)],
  ),
}
_WITH_GRADIENTS = (0, 1)  # in the default run; the slow run takes them all


def _setup(name, tmp_path):
  text, tower, fields, prefix, suffix = CASES[name]
  config = oracle.config(text, tower, **fields)
  params = oracle.random_params(config, len(name))
  model = oracle.load(config, params, tmp_path / "model")
  prefix, suffix = oracle.sequence(prefix, 1), oracle.sequence(suffix, 2)
  batch = batches.build(model, [prefix], [[suffix]])
  return config, params, model, prefix, suffix, batch


def _check_logits(scores, expected, start, length):
  ours = scores[0, 0, :length]
  assert oracle.relative_error(ours, expected[start:]) < 1e-4


@pytest.mark.parametrize("name", list(CASES)[len(_WITH_GRADIENTS) :])
def test_logits(name, tmp_path):
  config, params, model, prefix, suffix, batch = _setup(name, tmp_path)
  expected = oracle.logits(model, prefix + suffix)
  scores = batches.logits(config, params, batch)
  _check_logits(scores, expected, len(prefix), len(suffix))


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(n, marks=() if i in _WITH_GRADIENTS else slow)
    for i, n in enumerate(CASES)
  ],
)
def test_logits_and_gradients_of_every_tensor(name, tmp_path):
  config, params, model, prefix, suffix, batch = _setup(name, tmp_path)
  expected = oracle.backward(model, prefix + suffix, len(prefix))
  scores, gradients = batches.loss_gradients(config, params, batch)
  _check_logits(scores, expected, len(prefix), len(suffix))
  ours = oracle.published_tree(config, gradients)
  theirs = oracle.gradients(model)
  if config.tie_word_embeddings:
    theirs.pop("lm_head.weight", None)
  assert ours.keys() == theirs.keys()
  errors = {k: oracle.relative_error(ours[k], theirs[k]) for k in ours}
  worst = max(errors, key=errors.get)
  assert errors[worst] < 1e-3, worst


@pytest.mark.parametrize("full", [(), (0,), (1,), (0, 1)])
def test_tower_for_every_placement_of_full_attention(full, tmp_path):
  config = oracle.config(
    vision=dict(depth=2, full_attention_blocks=full), remat="none"
  )
  params = oracle.random_params(config)
  model = oracle.load(config, params, tmp_path / "model")
  grids = ((5, 7), (1, 3), (4, 4), (9, 2), (8, 5), (3, 1), (1, 1), (13, 3))
  images = oracle.sequence(list(grids))
  given = oracle.inputs(images)
  with torch.no_grad():
    expected = model.model.visual(
      given["pixel_values"], given["image_grid_thw"]
    ).pooler_output.numpy()
  patches = np.full((len(grids), 43, 4, 588), 3.0, np.float32)
  for row, image in zip(patches, images.patches):
    row[: len(image)] = image
  view = View(jnp.asarray(patches), jnp.asarray(grids))
  tokens = jax.jit(lambda p, v: vision.encode_views(config, p, v))(params, view)
  ours = [t[: r * c] for t, (r, c) in zip(np.asarray(tokens), grids)]
  assert oracle.relative_error(np.concatenate(ours), expected) < 1e-4


def test_positions_of_a_view(tmp_path):
  config = oracle.config()
  model = oracle.load(config, oracle.random_params(config), tmp_path / "m")
  sequence = oracle.sequence([_A, (5, 7), _B, (2, 3), _C])
  expected = oracle.positions(model, sequence)
  for grid in sequence.grids:
    size = grid[0] * grid[1]
    first = {(5, 7): 0, (2, 3): 35}[grid]
    slot = int(np.flatnonzero(sequence.visual_index == first)[0])
    ours = rotary.view_positions(
      jnp.int32(expected[slot, 0]), jnp.array(grid), jnp.arange(size)
    )
    np.testing.assert_array_equal(ours, expected[slot : slot + size])
