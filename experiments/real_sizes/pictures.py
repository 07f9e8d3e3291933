"""Photographs of a benchmark's size: JPEG files of about its bytes, and PNG."""

import functools
import io

import numpy as np
from PIL import Image

from lfpc_jax.data import scene_assets

SIDES = (4096, 8192)
_QUALITY = 85
_NOISE = 3.0  # of 256 levels: a sensor's; an enlarged picture has none


@functools.cache
def encoded(side: int, kind: str = "JPEG", seed: int = 0) -> bytes:
  """A square photograph of `side` pixels, as a file: 'JPEG' or 'PNG'."""
  name = scene_assets.PHOTOGRAPHS["train"][seed % 3]
  image = scene_assets.photograph(name, side).crop((0, 0, side, side))
  pixels = np.asarray(image)
  tile = np.random.default_rng(seed).normal(0, _NOISE, (1024, 1024, 1))
  rows = -(-side // 1024)
  noise = np.tile(np.rint(tile).astype(np.int8), (rows, rows, 1))
  pixels = np.clip(pixels.astype(np.int16) + noise[:side, :side], 0, 255)
  file = io.BytesIO()
  options = {"quality": _QUALITY} if kind == "JPEG" else {}
  Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
  return file.getvalue()
