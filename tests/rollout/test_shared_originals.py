"""Prompts in a row that share an original see what they would see alone."""

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.rollout import encoding
from lfpc_jax.rollout.types import Batch

P, G, SHARE = 4, 2, 2
VIEW, CROP = 6, 4
FAST = {"xla_backend_optimization_level": 0}


def _batch(originals):
  empty = jnp.zeros((P, 1), jnp.int32)
  sizes = np.repeat([[60, 90], [84, 56]], SHARE, axis=0)
  grids = np.repeat([[2, 3], [3, 2]], SHARE, axis=0)
  return Batch(
    tokens=empty,
    positions=empty,
    visual_index=empty,
    length=empty[:, 0],
    next_position=empty[:, 0],
    originals=jnp.asarray(originals),
    size=jnp.asarray(sizes, jnp.int32),
    grid=jnp.asarray(grids, jnp.int32),
    targets=empty,
    target_valid=empty,
  )


def _encoded(originals):
  """Views and crops of a batch, [P, N, D] and [P, G, N, D]."""
  boxes = np.array([[0, 0, 50, 50], [10, 5, 40, 56], [3, 4, 56, 60]])
  boxes = boxes[np.arange(P * G) % 3].reshape(P, G, 4)
  grids = np.full((P, G, 2), 2)
  valid = np.arange(P * G).reshape(P, G) != 5

  def encode(batch):
    arrays = (jnp.asarray(x, jnp.int32) for x in (boxes, grids))
    return (
      encoding.encode_views(None, None, batch, VIEW),
      encoding.encode_crops(
        None, None, batch.originals, *arrays, jnp.asarray(valid), CROP
      ),
    )

  program = jax.jit(encode, compiler_options=FAST)
  return program(_batch(originals))


def test_a_shared_original_gives_the_views_and_crops_of_its_copies(monkeypatch):
  # The tower works view by view: the patches say all.
  flat = lambda config, params, view: view.patches.mean(axis=2)
  monkeypatch.setattr(encoding.vision, "encode_views", flat)
  rng = np.random.default_rng(0)
  originals = rng.integers(0, 256, (P // SHARE, 90, 90, 3), np.uint8)
  shared = _encoded(originals)
  alone = _encoded(np.repeat(originals, SHARE, axis=0))
  for ours, theirs in zip(shared, alone, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  views = np.asarray(shared[0])
  assert np.array_equal(views[0], views[1])
  assert not np.allclose(views[1], views[2])


def test_views_in_waves_are_those_of_all_at_once(monkeypatch):
  flat = lambda config, params, view: view.patches.mean(axis=2)
  monkeypatch.setattr(encoding.vision, "encode_views", flat)
  rng = np.random.default_rng(0)
  batch = _batch(rng.integers(0, 256, (P, 90, 90, 3), np.uint8))

  def encode(waves):
    program = lambda batch: encoding.encode_views(
      None, None, batch, VIEW, waves
    )
    return jax.jit(program, compiler_options=FAST)(batch)

  np.testing.assert_array_equal(encode(2), encode(1))
