"""Probes: what an episode is given in place of the crop it asked for.

Accuracy under a probe, against accuracy without, says how much an answer
depends on the crop (LFPC, arXiv 2603.27494, section on crop dependence).
"""

from __future__ import annotations

import dataclasses
import enum

import jax
import jax.numpy as jnp

from lfpc_jax.image.views import View
from lfpc_jax.rollout.observation import Call
from lfpc_jax.rollout.types import Batch


class Probe(enum.IntEnum):
  """What replaces every crop."""

  NONE = 0  # nothing
  TRUTH = 1  # the region that holds the answer, with its context
  NOISE = 2  # random pixels
  BLANK = 3  # one grey
  OTHER = 4  # a region of the same size elsewhere in the image


def truth_box(batch: Batch) -> jax.Array:
  """The second smallest nested box, or the only one, i32[P, 4].

  The smallest is the bare detail; the next holds it with the context that
  names it, which is what a person would cut out.
  """
  second = batch.target_valid[:, 1] if batch.target_valid.shape[1] > 1 else None
  if second is None:
    return batch.targets[:, 0]
  return jnp.where(second[:, None], batch.targets[:, 1], batch.targets[:, 0])


def _elsewhere(box: jax.Array, size: jax.Array) -> jax.Array:
  """Boxes [P, G, 4] moved by half the image, wrapped around.

  A box that does not fit there goes to the far edge instead.
  """
  side = box[..., 2:] - box[..., :2]
  limit = size[:, None, ::-1]
  half = (box[..., :2] + limit // 2) % limit
  is_past_middle = box[..., :2] + box[..., 2:] > limit
  edge = jnp.where(is_past_middle, 0, limit - side)
  low = jnp.where(half + side <= limit, half, edge)
  return jnp.concatenate([low, low + side], axis=-1)


def replace_box(probe: jax.Array, batch: Batch, call: Call) -> jax.Array:
  """The box i32[P, G, 4] that is rendered instead of the call's."""
  truth = jnp.broadcast_to(truth_box(batch)[:, None], call.box.shape)
  known = jnp.any(batch.target_valid, axis=-1)[:, None, None]
  box = jnp.where((probe == Probe.TRUTH) & known, truth, call.box)
  moved = _elsewhere(call.box, batch.size)
  return jnp.where(probe == Probe.OTHER, moved, box)


def replace_pixels(probe: jax.Array, key: jax.Array, view: View) -> View:
  """The view with its pixels replaced, if the probe says so.

  Noise is uniform over all 256 levels of each channel, blank is the mean
  colour; both in the normalised units of the patches.
  """
  shape = view.patches.shape
  # Normalised values of levels 0 to 255 span about -1.8 to 2.1.
  noise = jax.random.uniform(key, shape, minval=-1.8, maxval=2.1)
  patches = jnp.where(probe == Probe.NOISE, noise, view.patches)
  patches = jnp.where(probe == Probe.BLANK, 0.0, patches)
  return dataclasses.replace(view, patches=patches)
