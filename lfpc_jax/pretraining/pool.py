"""A pool of scenes, drawn once and kept as arrays, to cut views from."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import pathlib

import numpy as np

from lfpc_jax.data import scene_render

MAX_SIGNS = 8
COLOURS = tuple(scene_render.COLOURS)
# Between easy and hard, so that the policy meets every size.
MEDIUM = dataclasses.replace(
  scene_render.EASY,
  name="medium",
  num_signs=(4, 8),
  sign_size=(40, 56),
  digit_size=(20, 28),
  pair_probability=0.5,
  gap=22,
)
SPECS = (scene_render.EASY, MEDIUM, scene_render.HARD)
# One attention window full of signs: many digits to read for little compute.
CROWDED = tuple(
  scene_render.SceneSpec(
    name="crowded",
    size=112,
    num_signs=number,
    sign_size=sign,
    digit_size=digit,
    min_pairs=0,
    pair_probability=0.3,
    gap=1,
  )
  for number, sign, digit in (
    ((5, 8), (24, 32), (15, 22)),
    ((3, 5), (32, 44), (19, 30)),
    ((2, 4), (40, 52), (24, 38)),
    ((2, 3), (46, 54), (28, 44)),
  )
)


@dataclasses.dataclass(frozen=True)
class Pool:
  """M scenes with their signs, padded to MAX_SIGNS.

  images: u8[M, size, size, 3].
  signs, digits: boxes of plates and of ink, f32[M, 8, 4]; zeros where absent.
  colour, digit, partner: i32[M, 8]; -1 where absent.
  """

  images: np.ndarray
  signs: np.ndarray
  digits: np.ndarray
  colour: np.ndarray
  digit: np.ndarray
  partner: np.ndarray


def _compose(specs, seed: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(seed)
  scene = None
  while scene is None:
    try:
      spec = specs[seed % len(specs)]
      scene = scene_render.compose_scene(rng, spec, "train")
    except RuntimeError:  # no room for that many signs: draw again
      continue
  table = np.full((MAX_SIGNS, 11), -1, np.int32)
  for row, sign in zip(table, scene.signs, strict=False):
    colour = COLOURS.index(sign.colour)
    row[:] = (*sign.box, *sign.digit_box, colour, sign.digit, sign.partner)
  return scene.image, table


def make_pool(
  path: pathlib.Path, number: int, specs: tuple = SPECS, workers: int = 2
) -> Pool:
  """Draws `number` scenes, or maps them in if `path` already holds them."""
  images_path, table_path = path / "images.npy", path / "signs.npy"
  if not table_path.exists():
    path.mkdir(parents=True, exist_ok=True)
    size = specs[0].size
    images = np.lib.format.open_memmap(
      images_path, "w+", np.uint8, (number, size, size, 3)
    )
    compose = functools.partial(_compose, specs)
    with contextlib.ExitStack() as stack:
      scenes = map(compose, range(number))
      if workers > 1:
        executor = concurrent.futures.ProcessPoolExecutor(
          workers, multiprocessing.get_context("spawn")
        )
        stack.enter_context(executor)
        scenes = executor.map(compose, range(number), chunksize=64)
      tables = []
      for place, (image, table) in enumerate(scenes):
        images[place] = image
        tables.append(table)
    images.flush()
    np.save(table_path, np.stack(tables))  # last: marks the pool as whole
  table = np.load(table_path)
  boxes = np.maximum(table[..., :8], 0).astype(np.float32)
  images = np.load(images_path, mmap_mode="r")
  names = np.moveaxis(table[..., 8:], -1, 0)
  return Pool(images, boxes[..., :4], boxes[..., 4:], *names)
