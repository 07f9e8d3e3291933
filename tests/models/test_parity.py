"""The policy's logits and gradients are those of transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.models import rotary
from tests.models import batches, oracle

_A, _B, _C = [1, 2, 3], [4, 5, 6, 7], [8, 9]

# Pairs of prefix and suffix that every policy below sees, in one batch with
# its padding. Images are grids of visual tokens; a window is 4 x 4 of them
# unless the case says so.
_SEQUENCES = (
  ([_A, (5, 7), _B], [_C, (1, 3), _A]),  # no multiples of a window
  ([_A, (9, 1), _B], [_B, (1, 9), _C]),  # one cell wide
  ([_A, (2, 3)], [_C, (1, 1), _A]),  # smaller than a window
  ([_A, (4, 4), _B], [_B, (4, 8), _C]),  # whole windows
  ([_A, (3, 9), (2, 1), _C], [_C, (4, 5), _A, (7, 2), _B]),  # several images
  ([_A, _B, _C], [_B, _A, _C, _B]),  # text only
)

# name: (text fields, vision fields, policy fields). The full-attention blocks
# are all eight subsets of the tower's three.
CASES = {
  "untied, two queries a kv head": (
    {},
    dict(full_attention_blocks=(1,)),
    {},
  ),
  "tied, one query a kv head": (
    dict(heads=4, kv_heads=4),
    dict(full_attention_blocks=(2,)),
    dict(tie_word_embeddings=True),
  ),
  "seven queries a kv head, all activations kept": (
    dict(width=56, heads=14, kv_heads=2, mrope_section=(0, 1, 1)),
    dict(full_attention_blocks=(0,)),
    dict(remat="none"),
  ),
  "wide heads, narrow windows, products kept": (
    dict(width=64, heads=2, kv_heads=1, mrope_section=(4, 6, 6)),
    dict(width=48, window_size=56, full_attention_blocks=(0, 2)),
    dict(remat="products"),
  ),
  "tied, seven queries a kv head, windows alone": (
    dict(width=56, heads=7, kv_heads=1, mrope_section=(2, 1, 1)),
    dict(full_attention_blocks=()),
    dict(tie_word_embeddings=True),
  ),
  "four heads in the tower, full attention alone": (
    {},
    dict(heads=4, full_attention_blocks=(0, 1, 2)),
    {},
  ),
  "scores and logits in chunks": (
    {},
    dict(full_attention_blocks=(0, 1)),
    dict(attention_chunk=8, logit_chunk=8),
  ),
  "other rotary bases and norm": (
    dict(rope_theta=500.0, norm_epsilon=1e-3, depth=1),
    dict(rope_theta=300.0, full_attention_blocks=(1, 2)),
    {},
  ),
}
# In the default run; the slow run takes them all. Gradients of an untied
# policy are in the default run too, in test_prefix_suffix.py.
_WITH_GRADIENTS = "tied, one query a kv head"


def _setup(name, tmp_path):
  text, tower, fields = CASES[name]
  config = oracle.config(text, tower, **fields)
  params = oracle.random_params(config, len(name))
  model = oracle.load(config, params, tmp_path / "model")
  pairs = [
    (oracle.sequence(prefix, 2 * i), oracle.sequence(suffix, 2 * i + 1))
    for i, (prefix, suffix) in enumerate(_SEQUENCES)
  ]
  batch = batches.build(model, [p for p, _ in pairs], [[s] for _, s in pairs])
  return config, params, model, pairs, batch


def _check_logits(scores, expected, pairs):
  errors = [
    oracle.relative_error(ours[0, : len(suffix)], flat[len(prefix) :])
    for ours, flat, (prefix, suffix) in zip(scores, expected, pairs)
  ]
  print(f"logits: largest relative error {max(errors):.1e}")
  assert max(errors) < 1e-4, errors


def test_the_cases_place_full_attention_everywhere():
  placements = {case[1]["full_attention_blocks"] for case in CASES.values()}
  assert len(placements) == 2**3


@pytest.mark.parametrize("name", sorted(CASES.keys() - {_WITH_GRADIENTS}))
def test_logits(name, tmp_path):
  config, params, model, pairs, batch = _setup(name, tmp_path)
  expected = [oracle.logits(model, p + s) for p, s in pairs]
  _check_logits(batches.logits(config, params, batch), expected, pairs)


@pytest.mark.parametrize(
  "name",
  [
    n if n == _WITH_GRADIENTS else pytest.param(n, marks=pytest.mark.slow)
    for n in CASES
  ],
)
def test_logits_and_gradients_of_every_tensor(name, tmp_path):
  config, params, model, pairs, batch = _setup(name, tmp_path)
  expected = [oracle.backward(model, p + s, len(p)) for p, s in pairs]
  scores, gradients = batches.loss_gradients(config, params, batch)
  _check_logits(scores, expected, pairs)
  ours = oracle.published_tree(config, gradients)
  theirs = oracle.gradients(model)
  if config.tie_word_embeddings:
    theirs.pop("lm_head.weight", None)
  assert ours.keys() == theirs.keys()
  errors = {k: oracle.relative_error(ours[k], theirs[k]) for k in ours}
  worst = max(errors, key=errors.get)
  print(f"gradients: largest relative error {errors[worst]:.1e}, {worst}")
  assert errors[worst] < 1e-3, worst


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
