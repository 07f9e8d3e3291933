"""Box geometry: shown image to original image, validity, overlap, distance.

A box is `[..., 4] = (x1, y1, x2, y2)` in pixel edges, half-open; a size is
`[..., 2] = (height, width)`. Everything is batched, pure and compiled.

The policy writes boxes in pixels of the image as it is shown; crops are cut
from the original. `place_box` is the only way from one to the other.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

# A fraction is cut in three digits of 13 bits: a digit times a side of up to
# 2^15 pixels, with its carry, stays inside int32.
_DIGIT_BITS = 13
_DIGIT = 1 << _DIGIT_BITS


class BoxStatus(enum.IntEnum):
  """Why a box of the policy is a crop, or is not."""

  VALID = 0
  NOT_FINITE = 1
  EMPTY = 2
  TOO_THIN = 3


def shown_to_original(
  box: jax.Array, shown_size: jax.Array, original_size: jax.Array
) -> jax.Array:
  """Maps a box of the shown image to the pixels of the original it touches.

  The first corner is rounded down and the second up, each from the exact
  value of the float32 coordinate times original / shown: an exact multiple
  never gains a pixel. Coordinates outside the shown image are clamped to it,
  NaN counts as 0, and so does a subnormal number.

  Args:
    box: f32[..., 4], shown pixels.
    shown_size: i32[..., 2], at least 1; shown * original below 2^31 per axis.
    original_size: i32[..., 2], at most 32,768.

  Returns:
    i32[..., 4], original pixels, inside the original.
  """
  shown, original = _per_edge(shown_size), _per_edge(original_size)
  edges = _clamp(box, shown)
  whole = jnp.floor(edges)
  product = whole.astype(jnp.int32) * original
  part, inexact = _times_fraction(edges - whole, original)
  down = (product % shown + part) // shown
  # ceil(n / d) is (n + d - 1) // d, also after n itself was rounded up.
  up = (product % shown + part + inexact + shown - 1) // shown
  is_second_corner = jnp.arange(4) >= 2
  return product // shown + jnp.where(is_second_corner, up, down)


def place_box(
  box: jax.Array,
  shown_size: jax.Array,
  original_size: jax.Array,
  *,
  min_side: int = 28,
  max_aspect: float = 100.0,
) -> tuple[jax.Array, jax.Array]:
  """Turns a box that the policy wrote into the crop of the original.

  The box is clamped to the shown image, mapped with outward rounding, and a
  side below `min_side` is grown about its centre and shifted back inside the
  image. LFPC (arXiv 2603.27494) leaves open what a valid box is; both limits
  are choices of this project.

  Args:
    box: f32[..., 4], shown pixels, as written.
    shown_size: i32[..., 2], at least 1.
    original_size: i32[..., 2], at least 1; limits as in `shown_to_original`.
    min_side: shortest side of a crop in original pixels; an image that is
      smaller gives its whole side.
    max_aspect: largest ratio of the long to the short side of the crop.

  Returns:
    The crop i32[..., 4] in original pixels, zeros if invalid, and its
    `BoxStatus` i32[...].
  """
  shown, original = _per_edge(shown_size), _per_edge(original_size)
  clamped = _clamp(box, shown)
  placed = shown_to_original(clamped, shown_size, original_size)
  low, high = _grow(
    placed[..., :2], placed[..., 2:], original[..., :2], min_side
  )
  side = high - low
  thin = jnp.max(side, -1) > max_aspect * jnp.min(side, -1)
  empty = jnp.any(clamped[..., 2:] <= clamped[..., :2], -1)
  status = jnp.select(
    [~jnp.all(jnp.isfinite(box), -1), empty, thin],
    [int(BoxStatus.NOT_FINITE), int(BoxStatus.EMPTY), int(BoxStatus.TOO_THIN)],
    int(BoxStatus.VALID),
  ).astype(jnp.int32)
  crop = jnp.concatenate([low, high], -1)
  valid = status == BoxStatus.VALID
  return jnp.where(valid[..., None], crop, 0), status


def area(box: jax.Array) -> jax.Array:
  """Area f32[...] of boxes [..., 4]; 0 where a corner is out of order."""
  sides = (box[..., 2:] - box[..., :2]).astype(jnp.float32)
  return jnp.prod(jnp.maximum(sides, 0), -1)


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
  """Area f32[...] that the boxes a and b, [..., 4], have in common."""
  low = jnp.maximum(a[..., :2], b[..., :2])
  high = jnp.minimum(a[..., 2:], b[..., 2:])
  return area(jnp.concatenate([low, high], -1))


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
  """Intersection over union, f32[...] in [0, 1]; 0 for two empty boxes."""
  common = intersection(a, b)
  return _ratio(common, area(a) + area(b) - common)


def coverage(box: jax.Array, inner: jax.Array) -> jax.Array:
  """Share of `inner` inside `box`, |box ∩ inner| / |inner|, f32[...].

  LFPC, stage 2: `overlap` of a crop and the smallest sufficient region. 0
  where `inner` is empty.
  """
  return _ratio(intersection(box, inner), area(inner))


def l1_distance(a: jax.Array, b: jax.Array, size: jax.Array) -> jax.Array:
  """Mean distance of the four edges as a share of the image, f32[...].

  LFPC, stage 2: `d_L1`; x counts by the width, y by the height.

  Args:
    a: boxes [..., 4], pixels of the image.
    b: boxes [..., 4], the same pixels.
    size: i32[..., 2], the image.
  """
  difference = jnp.abs(a - b).astype(jnp.float32)
  return jnp.mean(difference / _per_edge(size).astype(jnp.float32), -1)


def area_fraction(box: jax.Array, size: jax.Array) -> jax.Array:
  """Area of boxes [..., 4] as a share of images of `size` i32[..., 2]."""
  return area(box) / jnp.prod(size.astype(jnp.float32), -1)


def _per_edge(size: jax.Array) -> jax.Array:
  """(height, width) to (width, height, width, height): the size per edge."""
  return jnp.asarray(size)[..., jnp.array([1, 0, 1, 0])]


def _clamp(box: jax.Array, shown: jax.Array) -> jax.Array:
  box = jnp.where(jnp.isnan(box), 0.0, box.astype(jnp.float32))
  return jnp.clip(box, 0.0, shown.astype(jnp.float32))


def _times_fraction(
  fraction: jax.Array, side: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """floor(fraction * side), exactly, and 1 where that lost something.

  Long multiplication, because float32 would round the product. A fraction
  has bits below the third digit only if it is so small that its product with
  a side is below 1: they count as lost, and cannot carry.
  """
  digits = []
  for _ in range(3):
    digit = jnp.floor(fraction * _DIGIT)
    fraction = fraction * _DIGIT - digit  # Exact: a shift and a cut.
    digits.append(digit.astype(jnp.int32))
  lost = fraction > 0
  carry = jnp.zeros_like(side)
  for digit in reversed(digits):
    total = digit * side + carry
    lost |= total % _DIGIT != 0
    carry = total // _DIGIT
  return carry, lost.astype(jnp.int32)


def _grow(
  low: jax.Array, high: jax.Array, limit: jax.Array, min_side: int
) -> tuple[jax.Array, jax.Array]:
  """Grows [low, high) to min_side about its centre, inside [0, limit)."""
  side = jnp.minimum(jnp.maximum(high - low, min_side), limit)
  start = jnp.clip((low + high - side) // 2, 0, limit - side)
  return start, start + side


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
  return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0.0)
