"""Scenes: what is drawn is where the metadata says, and as specified."""

import dataclasses
import itertools

import numpy as np
from PIL import Image
import pytest

from lfpc_jax import errors
from lfpc_jax.data import scene_assets, scene_render

SPECS = [scene_render.EASY.scaled(256), scene_render.HARD.scaled(256)]


def _scenes(spec, split="train", number=12):
  for seed in range(number):
    yield scene_render.compose_scene(np.random.default_rng(seed), spec, split)


def _gap(a, b):
  """Pixels between two boxes along the axis that separates them more."""
  across = max(a[0] - b[2], b[0] - a[2])
  down = max(a[1] - b[3], b[1] - a[3])
  return max(across, down)


def test_a_scene_depends_on_the_generator_alone():
  spec = SPECS[0]
  first, again, other = (
    scene_render.compose_scene(np.random.default_rng(seed), spec, "test")
    for seed in (1, 1, 2)
  )
  assert first.signs == again.signs
  np.testing.assert_array_equal(first.image, again.image)
  assert first.image.shape == (256, 256, 3) and first.image.dtype == np.uint8
  assert not np.array_equal(first.image, other.image)


def test_splits_share_no_glyph_and_no_photograph():
  glyphs, photographs = [], []
  for split in scene_assets.SPLITS:
    for indices in scene_assets.split_glyphs(split).values():
      glyphs += indices.tolist()
    photographs += scene_assets.PHOTOGRAPHS[split]
  # The data set's own count: 1797 digits, each used by exactly one split.
  assert sorted(glyphs) == list(range(1797))
  assert len(photographs) == len(set(photographs))


def test_every_split_knows_every_digit():
  # Class sizes as scikit-learn documents them.
  total = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
  counts = {}
  for split in scene_assets.SPLITS:
    glyphs = scene_assets.split_glyphs(split)
    counts[split] = np.array([len(glyphs[digit]) for digit in range(10)])
  np.testing.assert_array_equal(sum(counts.values()), total)
  assert min(counts["validation"]) >= 15 and min(counts["test"]) >= 15


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("split", ["train", "test"])
def test_signs_are_as_specified(spec, split):
  numbers = set()
  for scene in _scenes(spec, split):
    signs = scene.signs
    numbers.add(len(signs))
    assert len({sign.colour for sign in signs}) == len(signs)
    assert len({sign.digit for sign in signs}) == len(signs)
    assert sum(sign.partner >= 0 for sign in signs) >= 2 * spec.min_pairs
    for sign in signs:
      x1, y1, x2, y2 = sign.box
      assert x2 - x1 == y2 - y1
      assert spec.sign_size[0] <= x2 - x1 <= spec.sign_size[1]
      assert x1 >= 0 and y1 >= 0 and x2 <= spec.size and y2 <= spec.size
      left, top, right, bottom = sign.digit_box
      assert x1 < left < right < x2 and y1 < top < bottom < y2
      assert spec.digit_size[0] <= bottom - top <= spec.digit_size[1]
  assert len(numbers) > 1
  assert min(numbers) >= spec.num_signs[0]
  assert max(numbers) <= spec.num_signs[1]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_partners_touch_and_strangers_keep_their_distance(spec):
  for scene in _scenes(spec):
    for (i, a), (j, b) in itertools.combinations(enumerate(scene.signs), 2):
      if a.partner == j:
        assert b.partner == i
        assert a.box[2] == b.box[0] and a.box[1::2] == b.box[1::2]
      else:
        assert _gap(a.box, b.box) >= spec.gap


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_digit_box_is_the_tight_box_of_the_ink(spec):
  for scene in _scenes(spec):
    for sign in scene.signs:
      x1, y1, x2, _ = sign.box
      side = x2 - x1
      # Inside the border, ink is what differs much from the plate.
      inset = side // 8
      plate = scene.image[y1:, x1:][inset : side - inset, inset : side - inset]
      face = np.median(plate[: side // 12 + 1], axis=(0, 1))
      ink = np.abs(plate - face).max(-1) > 60
      ys, xs = np.nonzero(ink)
      found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
      found += np.array([x1, y1, x1, y1]) + inset
      assert np.abs(found - sign.digit_box).max() <= 2, sign


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_colours_stay_visible_in_a_small_view(spec):
  names = list(scene_render.COLOURS)
  colours = np.array(list(scene_render.COLOURS.values()))
  view = 112
  seen = []
  for scene in _scenes(spec, number=30):
    small = Image.fromarray(scene.image).resize(
      (view, view), Image.Resampling.BICUBIC
    )
    for sign in scene.signs:
      x1, y1, x2, _ = np.array(sign.box) * view / spec.size
      top = np.asarray(small)[
        round(y1 + 1) : round(y1 + 3), round(x1 + 1) : round(x2 - 1)
      ]
      found = np.median(top, axis=(0, 1))
      distance = np.linalg.norm(colours - found, axis=-1)
      seen.append(names[int(distance.argmin())] == sign.colour)
  assert np.mean(seen) > 0.95


def test_specifications_scale_and_contradictions_are_refused():
  half = scene_render.EASY.scaled(256)
  assert half.sign_size == (24, 32) and half.digit_size == (13, 17)
  assert half.num_signs == scene_render.EASY.num_signs
  with pytest.raises(ValueError, match="digit_size = .* does not fit"):
    dataclasses.replace(half, digit_size=(30, 40))
  with pytest.raises(ValueError, match="no range"):
    dataclasses.replace(half, sign_size=(9, 8))
  with pytest.raises(ValueError, match="9 colours"):
    dataclasses.replace(half, num_signs=(3, 10))
  with pytest.raises(ValueError, match="min_pairs = 2"):
    dataclasses.replace(half, min_pairs=2)


def test_errors_name_the_cause():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match="'exam'"):
    scene_render.compose_scene(rng, SPECS[0], "exam")
  crowded = dataclasses.replace(SPECS[1], size=64)
  with pytest.raises(RuntimeError, match="signs found no place"):
    scene_render.compose_scene(rng, crowded, "train")
  with pytest.raises(errors.UserError, match="no_package"):
    scene_assets.photograph("no_package/sky.jpg", 64)
  with pytest.raises(errors.UserError, match="sky.jpg is missing"):
    scene_assets.photograph("skimage/data/sky.jpg", 64)
