"""Photographs of a benchmark's size, as JPEG files of about its bytes."""

import functools
import io

import numpy as np
from PIL import Image

from lfpc_jax.data import scene_assets

SIDES = (4096, 8192)
_QUALITY = 85
_NOISE = 3.0  # of 256 levels: a sensor's; an enlarged picture has none


@functools.cache
def jpeg(side: int, seed: int = 0) -> bytes:
  """A square photograph of `side` pixels, as a JPEG file."""
  name = scene_assets.PHOTOGRAPHS["train"][seed % 3]
  image = scene_assets.photograph(name, side).crop((0, 0, side, side))
  pixels = np.asarray(image)
  tile = np.random.default_rng(seed).normal(0, _NOISE, (1024, 1024, 1))
  rows = -(-side // 1024)
  noise = np.tile(np.rint(tile).astype(np.int8), (rows, rows, 1))
  pixels = np.clip(pixels.astype(np.int16) + noise[:side, :side], 0, 255)
  file = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
  return file.getvalue()
