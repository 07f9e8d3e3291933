"""Cuts views from pooled scenes on the host, many at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from lfpc_jax.image import views

_BICUBIC = Image.Resampling.BICUBIC
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_LEVELS = (np.arange(256, dtype=np.float32)[:, None] / 255 - _MEAN) / _STD
CELL, PATCH = 28, 14


@dataclasses.dataclass(frozen=True)
class Cut:
  """A region of a pooled scene as the policy sees it.

  patches: f32[N, 4, 588], as in image.views.View.
  grid: (rows, cols).
  scale: shown pixels per original pixel, (x, y).
  box: the region in the original.
  """

  patches: np.ndarray
  grid: tuple[int, int]
  scale: tuple[float, float]
  box: tuple[int, int, int, int]


def fit(grid: tuple[int, int], capacity: int) -> tuple[int, int]:
  """Shortens a grid's longer side until it has at most `capacity` tokens."""
  rows, cols = grid
  if rows * cols <= capacity:
    return rows, cols
  if rows <= cols:
    return rows, max(1, capacity // rows)
  return max(1, capacity // cols), cols


def cut(
  image: np.ndarray,
  box: tuple[int, int, int, int],
  tokens: tuple[int, int],
  capacity: int,
) -> Cut:
  """Cuts and resizes as the crop tool does, with Pillow."""
  x1, y1, x2, y2 = box
  grid = fit(views.choose_grid(y2 - y1, x2 - x1, *tokens), capacity)
  rows, cols = grid
  region = Image.fromarray(np.ascontiguousarray(image[y1:y2, x1:x2]))
  shown = np.asarray(region.resize((cols * CELL, rows * CELL), _BICUBIC))
  shown = shown.reshape(rows, 2, PATCH, cols, 2, PATCH, 3)
  shown = shown.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * cols, 4, 3, -1)
  pixels = np.empty(shown.shape, np.float32)
  for channel in range(3):
    pixels[:, :, channel] = _LEVELS[:, channel][shown[:, :, channel]]
  patches = np.zeros((capacity, 4, 3 * PATCH * PATCH), np.float32)
  patches[: rows * cols] = pixels.reshape(rows * cols, 4, -1)
  scale = (cols * CELL / (x2 - x1), rows * CELL / (y2 - y1))
  return Cut(patches, grid, scale, box)


def sign_region(
  rng: np.random.Generator, sign: np.ndarray, size: int, spread: tuple
) -> tuple[int, int, int, int]:
  """A rough box around a sign: side and centre random, inside the image.

  `spread` is the range of the box's side as a multiple of the sign's.
  """
  side = sign[2] - sign[0]
  factor = np.exp(rng.uniform(np.log(spread[0]), np.log(spread[1]), 2))
  half = np.clip(side * factor * np.exp(rng.normal(0, 0.12, 2)), 28, size) / 2
  centre = (sign[:2] + sign[2:]) / 2
  centre = centre + rng.uniform(-0.5, 0.5, 2) * np.maximum(half, side * 0.6)
  low = np.clip(np.round(centre - half), 0, size - 28).astype(int)
  high = np.clip(np.round(centre + half), low + 28, size).astype(int)
  return int(low[0]), int(low[1]), int(high[0]), int(high[1])
