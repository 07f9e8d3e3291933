"""What scenes are made of: photographs and handwritten digits, by split.

Photographs ship inside scikit-learn and scikit-image, digits inside
scikit-learn (`load_digits`); nothing is downloaded. No two splits share a
photograph or a digit.
"""

import functools
import gzip
import importlib.util
import pathlib

import numpy as np
from PIL import Image

from lfpc_jax import errors

SPLITS = ("train", "validation", "test")

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
  "train": (
    "sklearn/datasets/images/china.jpg",
    "skimage/data/astronaut.png",
    "skimage/data/coffee.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/rocket.jpg",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/brick.png",
    "skimage/data/gravel.png",
  ),
  "validation": (
    "skimage/data/retina.jpg",
    "skimage/data/coins.png",
    "skimage/data/moon.png",
  ),
  "test": (
    "sklearn/datasets/images/flower.jpg",
    "skimage/data/chelsea.png",
    "skimage/data/grass.png",
    "skimage/data/camera.png",
  ),
}

_SATURATION = 0.4
_GLYPH_SIDE = 96
_BICUBIC = Image.Resampling.BICUBIC


@functools.cache
def split_glyphs(split: str) -> dict[int, np.ndarray]:
  """Indices into `load_digits` of a split: digit -> i64[number].

  Five in seven digits train, one in seven each validates and tests.
  """
  _, digits = _handwriting()
  part = np.arange(len(digits)) % 7
  chosen = {"train": part < 5, "validation": part == 5, "test": part == 6}
  return {d: np.flatnonzero(chosen[split] & (digits == d)) for d in range(10)}


def _packaged(path: str) -> pathlib.Path:
  """A data file of an installed package, found without importing it."""
  package, _, rest = path.partition("/")
  found = importlib.util.find_spec(package)
  if found is None:
    raise errors.UserError(
      f"The package of {path!r} is missing: install scikit-learn and"
      " scikit-image, whose pictures the scenes are made of."
    )
  file = pathlib.Path(found.submodule_search_locations[0]) / rest
  if not file.exists():
    raise errors.UserError(
      f"{file} is missing: reinstall the package {package!r} from its wheel."
    )
  return file


@functools.cache
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
  """scikit-learn's digits: f32[1797, 8, 8] in 0..1 and their values."""
  # The file behind `load_digits`, whose import takes seconds per process.
  with gzip.open(_packaged("sklearn/datasets/data/digits.csv.gz")) as file:
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
  return (table[:, :64] / 16).astype(np.float32).reshape(-1, 8, 8), table[:, 64]


@functools.cache
def glyph(index: int) -> Image.Image:
  """A digit's opacity, enlarged smoothly and cut to its ink (mode 'L')."""
  cells = np.pad(_handwriting()[0][index], 1)
  large = Image.fromarray(cells).resize((_GLYPH_SIDE,) * 2, _BICUBIC)
  opacity = np.clip((np.asarray(large) - 0.2) / 0.4, 0, 1)
  ys, xs = np.nonzero(opacity >= 0.5)
  tight = opacity[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
  return Image.fromarray(np.round(tight * 255).astype(np.uint8))


@functools.cache
def photograph(path: str, short_side: int) -> Image.Image:
  """A photograph that ships with a package, enlarged, its colours muted."""
  image = Image.open(_packaged(path)).convert("RGB")
  scale = short_side / min(image.size)
  size = tuple(max(short_side, round(side * scale)) for side in image.size)
  image = image.resize(size, _BICUBIC)
  return Image.blend(image.convert("L").convert("RGB"), image, _SATURATION)
