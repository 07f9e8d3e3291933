"""Probes: what an episode is given in place of the crop it asked for.

Accuracy under a probe, against accuracy without, says how much an answer
depends on the crop (LFPC, arXiv 2603.27494, section on crop dependence).
"""

from __future__ import annotations

import dataclasses
import enum

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.image import boxes
from lfpc_jax.image.views import View
from lfpc_jax.rollout.observation import Call
from lfpc_jax.rollout.types import Batch


class Probe(enum.IntEnum):
  """What replaces every crop."""

  NONE = 0  # nothing
  TRUTH = 1  # the region that holds the answer, with its context
  NOISE = 2  # random pixels
  BLANK = 3  # one grey
  OTHER = 4  # a region of the same size, apart from the truth


def truth_box(batch: Batch) -> jax.Array:
  """The second smallest nested box, or the only one, i32[P, 4].

  The smallest is the bare detail; the next holds it with the context that
  names it, which is what a person would cut out.
  """
  second = batch.target_valid[:, 1] if batch.target_valid.shape[1] > 1 else None
  if second is None:
    return batch.targets[:, 0]
  return jnp.where(second[:, None], batch.targets[:, 1], batch.targets[:, 0])


def _candidates() -> np.ndarray:
  """Where another region may lie, as shares of the free way, f32[K, 2].

  Points that fill the square evenly (multiples of the plastic number's
  inverse powers), then the corners: wherever a region apart from the truth
  fits at all, it fits in a corner.
  """
  k = np.arange(1, 25)[:, None]
  inside = k * np.array([0.7548776662, 0.5698402910]) % 1
  corners = [[0, 0], [1, 0], [0, 1], [1, 1]]
  return np.concatenate([inside, corners]).astype(np.float32)


_PLACES = _candidates()
_CORNERS = 4


def _elsewhere(
  box: jax.Array, truth: jax.Array, known: jax.Array, size: jax.Array
) -> jax.Array:
  """Boxes [P, G, 4] of the same size that do not touch the truth.

  They do not touch the call's own box either where that can be; among the
  places left, which one depends on the box, so that not all go to one spot.
  Where every place touches the truth, the one that shows least of it.

  Args:
    box: i32[P, G, 4].
    truth: i32[P, 1, 4].
    known: whether there is a truth, bool[P, 1].
    size: (height, width) of the originals, i32[P, 2].
  """
  side = box[..., 2:] - box[..., :2]
  way = (size[:, None, ::-1] - side)[:, :, None]
  low = jnp.floor(_PLACES * (way + 1)).astype(jnp.int32)
  low = jnp.minimum(low, way)  # [P, G, K, 2]
  places = jnp.concatenate([low, low + side[:, :, None]], axis=-1)
  shown = boxes.coverage(places, truth[:, :, None]) * known[..., None]
  own = boxes.iou(places, box[:, :, None])
  inside = len(_PLACES) - _CORNERS
  start = jnp.sum(box, axis=-1, keepdims=True) % inside
  number = jnp.arange(len(_PLACES))
  turn = jnp.where(number < inside, (number - start) % inside, number)
  worse = 1000.0 * (shown > 0) + 1000.0 * shown + own + 1e-6 * turn
  best = jnp.argmin(worse, axis=-1)[..., None, None]
  return jnp.take_along_axis(places, best, axis=2)[:, :, 0]


def has_room_elsewhere(batch: Batch, box: jax.Array) -> jax.Array:
  """Whether a region of the box's size can lie apart from the truth.

  Args:
    batch: the prompts.
    box: i32[P, G, C, 4].

  Returns:
    bool[P, G, C]; true where no truth is known.
  """
  truth = truth_box(batch)[:, None, None]
  limit = batch.size[:, None, None, ::-1]
  room = jnp.maximum(truth[..., :2], limit - truth[..., 2:])
  fits = jnp.any(box[..., 2:] - box[..., :2] <= room, axis=-1)
  return fits | ~jnp.any(batch.target_valid, axis=-1)[:, None, None]


def replace_box(probe: jax.Array, batch: Batch, call: Call) -> jax.Array:
  """The box i32[P, G, 4] that is rendered instead of the call's."""
  truth = truth_box(batch)[:, None]
  known = jnp.any(batch.target_valid, axis=-1)[:, None]
  is_truth = (probe == Probe.TRUTH) & known[..., None]
  box = jnp.where(is_truth, truth, call.box)
  moved = _elsewhere(call.box, truth, known, batch.size)
  return jnp.where(probe == Probe.OTHER, moved, box)


def replace_pixels(probe: jax.Array, key: jax.Array, view: View) -> View:
  """The view with its pixels replaced, if the probe says so.

  Noise is uniform from about black to about white, without a step between
  levels; blank is the mean colour. Both in the patches' normalised units.
  """
  shape = view.patches.shape
  # Normalised values of levels 0 to 255 span about -1.8 to 2.1.
  noise = jax.random.uniform(key, shape, minval=-1.8, maxval=2.1)
  patches = jnp.where(probe == Probe.NOISE, noise, view.patches)
  patches = jnp.where(probe == Probe.BLANK, 0.0, patches)
  return dataclasses.replace(view, patches=patches)
