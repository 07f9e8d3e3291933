"""The tower's outputs for pooled scenes, computed once and kept."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from lfpc_jax.image.views import View
from lfpc_jax.models import vision
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.pretraining import pool as pool_lib
from lfpc_jax.pretraining import views

LEVELS = (16, 64, 324)  # visual tokens of the global view
CROP_TOKENS = (9, 16)
CROPS = 4  # kept for each sign
_SPREAD = (0.8, 3.0)  # side of a rough box, in signs


@dataclasses.dataclass(frozen=True)
class Features:
  """The tower's outputs for the pool.

  levels: for each level, f16[M, level, D]; all scenes are square.
  crops: f16[M, 8, CROPS, 16, D], around each sign.
  crop_boxes: i32[M, 8, CROPS, 4] in original pixels.
  crop_grids: i32[M, 8, CROPS, 2].
  """

  levels: dict[int, np.ndarray]
  crops: np.ndarray
  crop_boxes: np.ndarray
  crop_grids: np.ndarray


def compute_features(
  config: PolicyConfig,
  params: Params,
  pool: pool_lib.Pool,
  number: int,
  seed: int,
  progress=lambda text: None,
) -> Features:
  """Runs the tower over views and crops of the first `number` scenes."""
  rng = np.random.default_rng(seed)
  size, width = pool.images.shape[1], config.text.width
  levels = {n: np.zeros((number, n, width), np.float16) for n in LEVELS}
  shape = (number, pool_lib.MAX_SIGNS, CROPS)
  crops = np.zeros((*shape, CROP_TOKENS[1], width), np.float16)
  boxes, grids = np.zeros((*shape, 4), np.int32), np.ones((*shape, 2), np.int32)
  encode = jax.jit(lambda p, v: vision.encode_views(config, p, v))

  def run(cuts):
    view = View(
      np.stack([c.patches for c in cuts]),
      np.array([c.grid for c in cuts], np.int32),
    )
    return np.asarray(encode(params, view), np.float16)

  for first in range(0, number, 16):
    scenes = range(first, min(first + 16, number))
    for level in LEVELS:
      whole = (0, 0, size, size)
      cuts = [
        views.cut(pool.images[m], whole, (level, level), level) for m in scenes
      ]
      levels[level][first : first + len(cuts)] = run(cuts)
    cuts, places = [], []
    for m in scenes:
      for s in range(int((pool.colour[m] >= 0).sum())):
        for c in range(CROPS):
          box = views.sign_region(rng, pool.signs[m, s], size, _SPREAD)
          most = CROP_TOKENS[1]
          cuts.append(views.cut(pool.images[m], box, CROP_TOKENS, most))
          places.append((m, s, c))
    pad = -len(cuts) % 128
    out = run(cuts + cuts[:1] * pad)
    for place, cut, feature in zip(places, cuts, out, strict=False):
      crops[place], boxes[place], grids[place] = feature, cut.box, cut.grid
    if first % 512 == 0:
      progress(f"features of {first} / {number} scenes")
  return Features(levels, crops, boxes, grids)
