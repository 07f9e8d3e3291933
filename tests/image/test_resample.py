"""Resampling against Pillow.

Pillow up to version 12 resizes horizontally, then vertically. Later ones turn
that round for some sizes, so the oracle asks for one axis at a time, which
fixes the order in every version.
"""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from lfpc_jax.image import resample

crop_and_resize = jax.jit(resample.crop_and_resize, static_argnums=2)


def pillow(image, box, out_size):
  height, width = out_size
  crop = Image.fromarray(image).crop(tuple(int(x) for x in box))
  crop = crop.resize((width, crop.height), Image.Resampling.BICUBIC)
  crop = crop.resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(crop, np.float32)


def noise(rng, height, width):
  """Black and white pixels among random ones: overshoot must be clipped."""
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  return np.where(image < 64, 0, np.where(image < 128, 255, image))


def difference(image, box, out_size):
  got = crop_and_resize(image, np.array(box, np.int32), out_size)
  assert got.shape == (*out_size, 3)
  return np.abs(np.asarray(got) - pillow(image, box, out_size))


@pytest.mark.parametrize(
  "image_size, box, out_size",
  [
    ((90, 120), (13, 7, 101, 83), (112, 140)),  # up
    ((90, 120), (0, 0, 120, 90), (90, 120)),  # unchanged
    ((400, 500), (3, 5, 490, 399), (56, 84)),  # down over several tiles
    ((400, 500), (100, 50, 130, 390), (28, 300)),  # one each way
    ((400, 500), (50, 100, 390, 130), (300, 28)),
    ((40, 300), (10, 3, 290, 37), (30, 250)),  # lower than a tile
    ((140, 140), (100, 100, 140, 140), (120, 120)),  # the last tile moves
    ((60, 60), (59, 59, 60, 60), (56, 56)),  # one pixel
    ((60, 60), (20, 30, 22, 33), (113, 225)),  # more than one block
    ((1, 1), (0, 0, 1, 1), (56, 56)),
  ],
  ids=str,
)
def test_equals_pillow_up_to_one_level(image_size, box, out_size):
  levels = difference(
    noise(np.random.default_rng(0), *image_size), box, out_size
  )
  assert levels.max() <= 1
  assert (levels > 0).mean() < 5e-4


def test_equals_pillow_for_any_boxes_with_one_program():
  rng = np.random.default_rng(1)
  image = noise(rng, 700, 900)
  different, twice, pixels = 0, 0, 0
  before = crop_and_resize._cache_size()
  for _ in range(60):
    corner = [rng.integers(0, side - 1) for side in (900, 700)]
    end = [
      rng.integers(low + 1, side + 1) for low, side in zip(corner, (900, 700))
    ]
    levels = difference(image, (*corner, *end), (140, 120))
    assert levels.max() <= 2, (corner, end)
    different, twice = (
      different + (levels > 0).sum(),
      twice + (levels > 1).sum(),
    )
    pixels += levels.size
  assert different / pixels < 3e-4
  # Both passes round, and how a sum falls beside a half depends on the CPU.
  assert twice / pixels < 3e-6
  assert crop_and_resize._cache_size() <= before + 1


@pytest.mark.parametrize("span", [100, 200, 321, 590])
def test_the_size_of_the_tiles_changes_no_pixel(monkeypatch, span):
  image = noise(np.random.default_rng(1), 600, 600)
  box = (3, 5, 3 + span, 5 + span)
  for tiles in ((128,), (256,), (1024,), resample.TILES):
    monkeypatch.setattr(resample, "TILES", tiles)
    crop_and_resize.clear_cache()
    levels = difference(image, box, (64, 64))
    assert levels.max() <= 1
    assert (levels > 0).mean() < 5e-4


def test_far_corner_of_a_long_image_is_as_exact_as_the_near_one():
  """Positions beyond thousands of pixels must not lose their fraction."""
  image = noise(np.random.default_rng(2), 40, 16_384)
  levels = difference(image, (3, 0, 16_384, 40), (40, 12_000))
  assert levels.max() <= 1
  assert (levels > 0).mean() < 1e-3


def test_strong_down_sampling():
  image = noise(np.random.default_rng(3), 1500, 3000)
  levels = difference(image, (1, 2, 2999, 1498), (28, 28))
  assert levels.max() <= 1
  assert (levels > 0).mean() < 1e-2


@pytest.mark.slow
def test_down_sampling_of_an_8k_original():
  image = noise(np.random.default_rng(4), 8192, 8192)
  levels = difference(image, (0, 0, 8192, 8192), (112, 112))
  assert levels.max() <= 1
  assert (levels > 0).mean() < 1e-2


def test_a_crop_knows_nothing_outside_its_box():
  rng = np.random.default_rng(5)
  image, box = noise(rng, 200, 200), np.array([50, 60, 130, 110], np.int32)
  other = noise(rng, 200, 200)
  other[60:110, 50:130] = image[60:110, 50:130]
  np.testing.assert_array_equal(
    crop_and_resize(image, box, (84, 112)),
    crop_and_resize(other, box, (84, 112)),
  )


def test_a_constant_image_stays_constant():
  image = np.full((300, 200, 3), (0, 137, 255), np.uint8)
  got = crop_and_resize(image, np.array([3, 4, 199, 299], np.int32), (61, 33))
  np.testing.assert_array_equal(got, np.broadcast_to((0, 137, 255), got.shape))


def test_bicubic_kernel_at_its_known_points():
  """Keys' kernel, a = -1/2: 1, 9/16, 0, -1/16, 0 at 0, 1/2, 1, 3/2, 2."""
  x = jnp.array([0, 0.5, 1, 1.5, 2, 3])
  want = [1, 9 / 16, 0, -1 / 16, 0, 0]
  np.testing.assert_array_equal(resample.bicubic(x), want)
  np.testing.assert_array_equal(resample.bicubic(-x), want)
