"""A page's pictures: few bytes however many they are, and what stays."""

import base64
import dataclasses
import io
import re

import numpy as np
import PIL.Image
import samples

from lfpc_jax.report import page, page_images, records

RNG = np.random.default_rng(0)


def _noise(side):
  return records.jpeg_bytes(RNG.integers(0, 256, (side, side, 3), np.uint8))


def _size(data):
  with PIL.Image.open(io.BytesIO(data)) as picture:
    return picture.size


def test_a_thumbnail_is_the_middle_in_few_pixels():
  image = np.zeros((600, 1000, 3), np.uint8)
  image[:, 200:500, 0] = 255  # red is left of the middle, in the square
  image[:, 500:800, 2] = 255  # and blue right of it
  data = page_images.thumbnail(records.jpeg_bytes(image))
  with PIL.Image.open(io.BytesIO(data)) as picture:
    shown = np.asarray(picture, int)
  assert shown.shape == (104, 104, 3)
  for x, colour in ((4, (255, 0, 0)), (99, (0, 0, 255))):
    assert np.abs(shown[52, x] - colour).max() < 30
  assert len(data) < 4000 < len(_noise(104))


def test_few_pictures_stay_as_they_are():
  pictures = {"a": _noise(64), "b": _noise(96)}
  share = sum(map(len, pictures.values()))
  assert page_images.fit(pictures, share) == pictures
  assert page_images.fit({}, 1) == {}


def test_many_pictures_keep_to_their_share_and_their_shape():
  pictures = {str(k): _noise(256) for k in range(8)}
  wide = RNG.integers(0, 256, (100, 400, 3), np.uint8)
  pictures["wide"] = records.jpeg_bytes(wide)
  share = sum(map(len, pictures.values())) // 8
  fitted = page_images.fit(pictures, share)
  assert fitted.keys() == pictures.keys()
  assert sum(map(len, fitted.values())) < 1.15 * share
  assert all(32 < _size(fitted[str(k)])[0] < 256 for k in range(8))
  width, height = _size(fitted["wide"])
  assert abs(width / height - 4) < 0.1


def test_little_too_much_costs_quality_and_no_pixels():
  pictures = {"a": _noise(256)}
  fitted = page_images.fit(pictures, len(pictures["a"]) - 1)
  assert _size(fitted["a"]) == (256, 256)
  assert len(fitted["a"]) < len(pictures["a"])


def test_coarse_pictures_keep_their_pixels():
  pictures = {"small": _noise(96), "large": _noise(512)}
  fitted = page_images.fit(pictures, 1000, least=page_images.COARSE)
  assert _size(fitted["small"]) == (96, 96)
  assert _size(fitted["large"]) == (400, 400)


def test_a_damaged_picture_stays_as_it_is():
  good = _noise(96)
  for damaged in (b"", b"no picture", good[: len(good) // 2]):
    assert page_images.thumbnail(damaged) == damaged
    fitted = page_images.fit({"bad": damaged, "good": good}, 100)
    assert fitted["bad"] == damaged and len(fitted["good"]) < len(good)


def _rollouts(number):
  """Noisy originals of 96 pixels, and crops and views of their own."""
  (first,) = samples.make_records(1, ("a",))
  turn = dataclasses.replace(first.turns[0], crop_jpeg=_noise(64))
  return [
    dataclasses.replace(
      first,
      id=str(k),
      view_jpeg=_noise(64),
      original_jpeg=_noise(96),
      original_size=(96, 96),
      turns=(dataclasses.replace(turn, crop_jpeg=_noise(64)),),
    )
    for k in range(number)
  ]


def _shown(path):
  """The page's pictures by name."""
  found = re.findall(
    r'id="image-([\w-]+)">([^<]*)<', path.read_text(encoding="utf-8")
  )
  return {name: base64.b64decode(data) for name, data in found}


def test_a_page_says_when_pictures_are_less_than_recorded(
  tmp_path, monkeypatch
):
  rollouts, path = _rollouts(20), tmp_path / "p.html"
  page.write_page(path, "T", rollouts=rollouts)
  whole = _shown(path)
  assert "compressed more" not in path.read_text()
  assert rollouts[3].original_jpeg in whole.values()
  assert len(whole) == 4 * 20  # original, its thumbnail, view, crop
  monkeypatch.setattr(page_images.fit, "__defaults__", (20_000, 0))
  page.write_page(path, "T", rollouts=rollouts)
  less = _shown(path)
  assert "compressed more" in path.read_text()
  assert less.keys() == whole.keys()
  size = lambda shown: sum(map(len, shown.values()))
  assert size(less) < 0.6 * size(whole)
