"""Box geometry against exact fractions and cases worked by hand."""

from fractions import Fraction
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.image import boxes
from lfpc_jax.image.boxes import BoxStatus

# Compiled: one program is quicker to build than its operations one by one.
shown_to_original = jax.jit(boxes.shown_to_original)
place_box = jax.jit(boxes.place_box)
iou = jax.jit(boxes.iou)
coverage = jax.jit(boxes.coverage)
l1_distance = jax.jit(boxes.l1_distance)


def exact_original(box, shown, original):
  """Outward rounding with rational numbers; sizes are (height, width)."""
  edges = []
  for axis, (value, round_out) in enumerate(
    zip(box, (math.floor, math.floor, math.ceil, math.ceil))
  ):
    side, target = shown[1 - axis % 2], original[1 - axis % 2]
    clamped = min(max(Fraction(float(value)), Fraction(0)), Fraction(side))
    edges.append(round_out(clamped * target / side))
  return edges


def random_boxes(rng, shown):
  """Boxes of float32 values: whole, decimal, tiny and at the border."""
  count = len(shown)
  value = rng.uniform(-0.05, 1.05, (count, 4)) * shown[:, [1, 0, 1, 0]]
  kind = rng.integers(0, 6, (count, 4))
  value = np.select(
    [kind == 0, kind == 1, kind == 2, kind == 3],
    [
      np.round(value),
      np.round(value, 1),
      np.round(value, 3),
      10.0 ** rng.uniform(-20, 2, (count, 4)),
    ],
    value,
  )
  return value.astype(np.float32)


def test_shown_to_original_is_exact_for_float32_coordinates():
  rng = np.random.default_rng(0)
  shown = rng.integers(1, 16385, (20_000, 2)).astype(np.int32)
  original = rng.integers(1, 16385, (20_000, 2)).astype(np.int32)
  box = random_boxes(rng, shown)
  got = shown_to_original(box, shown, original)
  want = [
    exact_original(*row) for row in zip(box, shown.tolist(), original.tolist())
  ]
  np.testing.assert_array_equal(got, want)


def test_shown_to_original_is_exact_on_whole_multiples():
  """A box on cell borders must gain no pixel, and at 32,768 must not wrap."""
  rng = np.random.default_rng(1)
  shown = 28 * rng.integers(1, 600, (2_000, 2)).astype(np.int32)
  original = np.minimum(shown * rng.integers(1, 40, (2_000, 1)), 32_768).astype(
    np.int32
  )
  box = (28 * rng.integers(0, 600, (2_000, 4))).astype(np.float32)
  got = shown_to_original(box, shown, original)
  want = [
    exact_original(*row) for row in zip(box, shown.tolist(), original.tolist())
  ]
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  "box, original, want",
  [
    # The image is shown as 280 x 560 (height x width).
    ([0, 0, 560, 280], (280, 560), [0, 0, 560, 280]),
    ([0, 0, 560, 280], (2800, 5600), [0, 0, 5600, 2800]),
    ([10, 20, 30, 40], (2800, 5600), [100, 200, 300, 400]),
    ([10.05, 20, 30.05, 40], (2800, 5600), [100, 200, 301, 400]),
    ([10.1, 20.1, 30.1, 40.1], (140, 280), [5, 10, 16, 21]),
    ([-7, -7, 1000, 1000], (300, 700), [0, 0, 700, 300]),
  ],
)
def test_shown_to_original_by_hand(box, original, want):
  got = shown_to_original(
    jnp.array(box, jnp.float32), jnp.array([280, 560]), jnp.array(original)
  )
  assert got.tolist() == want


NAN, INF = float("nan"), float("inf")
PLACED = [
  # Shown as 280 x 560, original 560 x 1120 (height x width).
  ("plain", [10, 20, 110, 120], [20, 40, 220, 240], BoxStatus.VALID),
  ("outward", [10.3, 20.3, 110.3, 120.3], [20, 40, 221, 241], BoxStatus.VALID),
  ("clamped", [-50, -50, 50, 50], [0, 0, 100, 100], BoxStatus.VALID),
  ("whole", [-1e30, -1e30, 1e30, 1e30], [0, 0, 1120, 560], BoxStatus.VALID),
  # 20 x 20 original pixels around (110, 110) become 28 x 28.
  ("grown", [50, 50, 60, 60], [96, 96, 124, 124], BoxStatus.VALID),
  # 2 pixels in the corner grow, and shift back inside the image.
  ("corner", [559, 279, 560, 280], [1092, 532, 1120, 560], BoxStatus.VALID),
  ("origin", [0, 0, 1, 1], [0, 0, 28, 28], BoxStatus.VALID),
  # One pixel high, 1120 wide: grown to 28, it is 40 to 1.
  ("line", [0, 100, 560, 100.5], [0, 186, 1120, 214], BoxStatus.VALID),
  ("nan", [NAN, 0, 10, 10], [0, 0, 0, 0], BoxStatus.NOT_FINITE),
  ("infinite", [0, 0, INF, 10], [0, 0, 0, 0], BoxStatus.NOT_FINITE),
  ("swapped", [50, 50, 40, 60], [0, 0, 0, 0], BoxStatus.EMPTY),
  ("point", [50, 50, 50, 60], [0, 0, 0, 0], BoxStatus.EMPTY),
  ("outside", [600, 10, 700, 60], [0, 0, 0, 0], BoxStatus.EMPTY),
  ("above", [10, -60, 50, -10], [0, 0, 0, 0], BoxStatus.EMPTY),
]


@pytest.mark.parametrize(
  "box, want, status",
  [row[1:] for row in PLACED],
  ids=[row[0] for row in PLACED],
)
def test_place_box_by_hand(box, want, status):
  got, got_status = place_box(
    jnp.array(box, jnp.float32), jnp.array([280, 560]), jnp.array([560, 1120])
  )
  assert BoxStatus(int(got_status)) == status
  assert got.tolist() == want


@pytest.mark.parametrize(
  "width, status", [(2800, BoxStatus.VALID), (2801, BoxStatus.TOO_THIN)]
)
def test_place_box_refuses_more_than_100_to_1_after_growing(width, status):
  size = jnp.array([100, 4000])
  box = jnp.array([0, 50, width, 51], jnp.float32)
  assert int(place_box(box, size, size)[1]) == status
  tall = box[jnp.array([1, 0, 3, 2])]
  assert int(place_box(tall, size[::-1], size[::-1])[1]) == status


def test_place_box_in_an_image_smaller_than_the_shortest_side():
  size = jnp.array([10, 20])
  crop, status = place_box(jnp.array([3.0, 3, 4, 4]), size, size)
  assert int(status) == BoxStatus.VALID
  assert crop.tolist() == [0, 0, 20, 10]


def test_place_box_gives_a_crop_inside_the_original_around_the_box():
  rng = np.random.default_rng(2)
  shown = rng.integers(28, 3000, (5_000, 2)).astype(np.int32)
  original = rng.integers(28, 9000, (5_000, 2)).astype(np.int32)
  box = random_boxes(rng, shown)
  crop, status = place_box(box, shown, original)
  inner = np.asarray(shown_to_original(box, shown, original))
  crop, valid = np.asarray(crop), np.asarray(status) == BoxStatus.VALID
  assert valid.sum() > 500 and (~valid).sum() > 500
  assert (crop[~valid] == 0).all()
  crop, inner, original = crop[valid], inner[valid], original[valid]
  assert (crop[:, :2] >= 0).all()
  assert (crop[:, 2:] <= original[:, ::-1]).all()
  assert (crop[:, 2:] - crop[:, :2] >= 28).all()
  assert (crop[:, :2] <= inner[:, :2]).all()
  assert (crop[:, 2:] >= inner[:, 2:]).all()


def test_overlaps_by_hand():
  a, b = jnp.array([0, 0, 10, 10]), jnp.array([5, 0, 15, 20])
  assert float(boxes.intersection(a, b)) == 50
  assert float(iou(a, b)) == pytest.approx(50 / 250)
  assert float(coverage(a, b)) == pytest.approx(50 / 200)
  assert float(coverage(b, a)) == pytest.approx(50 / 100)
  assert float(boxes.area_fraction(a, jnp.array([20, 40]))) == 0.125


def test_overlaps_of_disjoint_empty_and_equal_boxes():
  a, far = jnp.array([0, 0, 10, 10]), jnp.array([10, 0, 20, 10])
  empty = jnp.array([5, 5, 5, 9])
  assert float(iou(a, far)) == 0
  assert float(iou(empty, empty)) == 0
  assert float(coverage(a, empty)) == 0
  assert float(iou(a, a)) == 1
  odd = jnp.array([3, 7, 8190, 8191])
  assert float(iou(odd, odd)) == 1
  assert float(coverage(jnp.array([0, 0, 8192, 8192]), odd)) == 1


def test_iou_against_counted_pixels():
  rng = np.random.default_rng(3)
  pairs = np.sort(rng.integers(0, 21, (200, 2, 2, 2)), axis=2)
  pairs = pairs.reshape(200, 2, 4)  # (x1, y1, x2, y2)
  grid_y, grid_x = np.mgrid[:20, :20]

  def mask(box):
    return (
      (grid_x >= box[0])
      & (grid_x < box[2])
      & (grid_y >= box[1])
      & (grid_y < box[3])
    )

  def counted(a, b):
    union = (mask(a) | mask(b)).sum()
    return (mask(a) & mask(b)).sum() / union if union else 0.0

  want = [counted(a, b) for a, b in pairs]
  np.testing.assert_allclose(iou(pairs[:, 0], pairs[:, 1]), want, atol=1e-6)


def test_l1_distance_divides_x_by_the_width_and_y_by_the_height():
  a = jnp.array([[0, 0, 100, 50], [10, 10, 20, 20]])
  b = jnp.array([[20, 10, 100, 50], [10, 10, 20, 20]])
  size = jnp.array([50, 200])
  got = l1_distance(a, b, size)
  np.testing.assert_allclose(got, [(20 / 200 + 10 / 50) / 4, 0], rtol=1e-6)


def test_boxes_broadcast_over_leading_axes():
  box = jnp.ones((3, 5, 4)) * jnp.array([0.0, 0, 100, 100])
  size = jnp.full((3, 1, 2), 100, jnp.int32)
  crop, status = place_box(box, size, size)
  assert crop.shape == (3, 5, 4) and status.shape == (3, 5)
  assert iou(crop, crop[:, :1]).shape == (3, 5)
  assert l1_distance(box, box[:, :1], size).shape == (3, 5)
