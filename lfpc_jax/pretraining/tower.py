"""First step: the vision tower alone learns what each token shows.

Every visual token that lies on a sign must name the sign's colour and digit.
The targets are the very embeddings that the decoder uses for those words, so
that decoder attention can match words with tokens from its first step. Small
auxiliary heads (dropped afterwards) place the sign and name the colour of its
partner, by which "the sign next to the red sign" is found.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.image.views import View
from lfpc_jax.models import vision
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.pretraining import pool as pool_lib
from lfpc_jax.pretraining import views

_CAPACITY = 16
_READABLE = 10.0  # shown height in pixels from which a digit must be read


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TowerBatch:
  """Views and what each of their tokens shows.

  patches f32[B, N, 4, 588], grid i32[B, 2].
  colour: 0-8, 9 for background, i32[B, N]; -1 beyond the grid.
  digit: 0-9 or -1 (unreadable), i32[B, N].
  partner: colour of the sign beside it, 0-8, or -1 (none in view), i32[B, N].
  place: the sign's box relative to the token's centre, in cells,
    f32[B, N, 4].
  """

  patches: jax.Array
  grid: jax.Array
  colour: jax.Array
  digit: jax.Array
  partner: jax.Array
  place: jax.Array


def token_targets(
  pool: pool_lib.Pool, scene: int, cut: views.Cut, capacity: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Colour, digit, partner's colour and place for each token of a view."""
  rows, cols = cut.grid
  offset = np.array(cut.box[:2] * 2, np.float32)
  scale = np.array(cut.scale * 2, np.float32)
  signs = (pool.signs[scene] - offset) * scale
  ink = (pool.digits[scene] - offset) * scale
  index = np.arange(rows * cols)
  corner = np.stack([index % cols, index // cols], -1) * views.CELL
  cells = np.concatenate([corner, corner + views.CELL], -1)

  def overlap(boxes):
    low = np.maximum(cells[:, None, :2], boxes[None, :, :2])
    high = np.minimum(cells[:, None, 2:], boxes[None, :, 2:])
    return np.prod(np.clip(high - low, 0, None), -1)

  present = pool.colour[scene] >= 0
  area = overlap(signs) * present
  best = area.argmax(1)
  covered = area[index, best]
  share = np.minimum(np.prod(signs[:, 2:] - signs[:, :2], -1)[best], 28.0**2)
  shown = covered > 0.3 * share
  full = np.array([cols, rows], np.float32) * views.CELL

  def inside(boxes):
    low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], full)
    all_of_it = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    part = np.prod(np.clip(high - low, 0, None), -1)
    return part / np.maximum(all_of_it, 1e-6)

  whole = np.prod(ink[:, 2:] - ink[:, :2], -1)
  height = ink[:, 3] - ink[:, 1]
  readable = (inside(ink) > 0.9) & (height >= _READABLE)
  digits = np.where(readable, pool.digit[scene], -1)
  # Only tokens that hold much of the ink are asked for the digit.
  held = (overlap(ink) * present)[index, best]
  reads = (held > 0.3 * whole[best]) | (held > 0.5 * views.CELL**2)
  reads &= shown
  partner = pool.partner[scene]
  in_view = (partner >= 0) & (inside(signs)[partner] > 0.4)
  others = np.where(in_view, pool.colour[scene][partner], -1)
  centre = (cells[:, :2] + cells[:, 2:]) / 2
  place = (signs[best] - np.tile(centre, 2)) / views.CELL

  def slots(values, fill):
    out = np.full((capacity, *values.shape[1:]), fill, values.dtype)
    out[: rows * cols] = values
    return out

  background = len(pool_lib.COLOURS)
  colour = np.where(shown, pool.colour[scene][best], background)
  return (
    slots(colour.astype(np.int32), -1),
    slots(np.where(reads, digits[best], -1).astype(np.int32), -1),
    slots(np.where(shown, others[best], -1).astype(np.int32), -1),
    slots(place.astype(np.float32), 0),
  )


def _region(rng, pool, scene):
  """A crop, a window of a view of some budget, or the whole scene."""
  size = pool.images.shape[1]
  kind = rng.random()
  if kind < 0.2:
    return (0, 0, size, size)
  sign = pool.signs[scene][rng.integers((pool.colour[scene] >= 0).sum())]
  if kind < 0.55:
    return views.sign_region(rng, sign, size, (0.7, 4.0))
  side = int(rng.uniform(*((104, 140) if kind < 0.8 else (180, 300))))
  low = np.clip(sign[:2] - rng.uniform(-20, side - 30, 2), 0, size - side)
  x, y = (int(v) for v in low)
  return (x, y, x + side, y + side)


def make_batch(
  rng: np.random.Generator,
  scenes: pool_lib.Pool,
  crowded: pool_lib.Pool,
  number: int,
  crowded_share: float,
) -> TowerBatch:
  """Cuts `number` views of up to 16 tokens from random scenes."""
  rows = []
  for _ in range(number):
    is_crowded = rng.random() < crowded_share
    pool = crowded if is_crowded else scenes
    scene = int(rng.integers(len(pool.images)))
    size = pool.images.shape[1]
    box = (0, 0, size, size) if is_crowded else _region(rng, pool, scene)
    cut = views.cut(pool.images[scene], box, (9, _CAPACITY), _CAPACITY)
    targets = token_targets(pool, scene, cut, _CAPACITY)
    if is_crowded:  # where any two signs may touch
      targets[2][:] = -1
    rows.append((cut.patches, np.array(cut.grid, np.int32), *targets))
  return TowerBatch(*(np.stack(column) for column in zip(*rows, strict=True)))


def init_heads(key: jax.Array, width: int) -> Params:
  """The auxiliary heads: background, partner's colour, place."""
  a, b, c = jax.random.split(key, 3)
  return {
    "background": jax.random.normal(a, (width,)) * 0.05,
    "partner": jax.random.normal(b, (width, len(pool_lib.COLOURS))) * 0.05,
    "place": jax.random.normal(c, (width, 4)) * 0.05,
  }


def _cross_entropy(scores, target):
  """Mean over targets >= 0, and accuracy."""
  known = target >= 0
  logp = jax.nn.log_softmax(scores)
  index = jnp.maximum(target, 0)[..., None]
  picked = jnp.take_along_axis(logp, index, axis=-1)[..., 0]
  right = (jnp.argmax(scores, -1) == target) & known
  total = jnp.maximum(known.sum(), 1)
  return -jnp.sum(jnp.where(known, picked, 0)) / total, right.sum() / total


def token_loss(
  heads: Params,
  features: jax.Array,
  words: tuple[jax.Array, jax.Array],
  batch: TowerBatch,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss of the tokens' names and places.

  Args:
    heads: the auxiliary heads.
    features: the tower's output [B, N, D].
    words: embeddings of the colour words [9, D] and of the digits [10, D].
    batch: the targets.
  """
  colours = jnp.concatenate([words[0], heads["background"][None]])
  named, named_right = _cross_entropy(features @ colours.T, batch.colour)
  read, read_right = _cross_entropy(features @ words[1].T, batch.digit)
  other, other_right = _cross_entropy(
    features @ heads["partner"], batch.partner
  )
  on_sign = (batch.colour >= 0) & (batch.colour < len(pool_lib.COLOURS))
  far = jnp.abs(features @ heads["place"] - batch.place).mean(-1)
  place = jnp.sum(far * on_sign) / jnp.maximum(on_sign.sum(), 1)
  loss = named + read + other + 0.5 * place
  return loss, {
    "loss": loss,
    "colour": named_right,
    "digit": read_right,
    "partner": other_right,
    "place": place,
  }


def loss(
  config: PolicyConfig, trained: Params, batch: TowerBatch, ids: tuple
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`token_loss` of a batch; `trained` holds the policy and the heads."""
  policy = trained["policy"]
  view = View(batch.patches, batch.grid)
  features = vision.encode_views(config, policy, view)
  words = tuple(policy["embedding"][np.array(i)] for i in ids)
  return token_loss(trained["heads"], features, words, batch)
