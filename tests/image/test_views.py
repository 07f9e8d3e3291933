"""Views against the Qwen image processor of transformers, and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

from lfpc_jax.image import soft_float, views

CELL = 28
smart_resize = image_processing_pil_qwen2_vl.smart_resize
processor = image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil()
choose_grid_traced = jax.jit(views.choose_grid_traced, static_argnums=(1, 2))
render_view = jax.jit(views.render_view, static_argnums=3)
render_views = jax.jit(views.render_views, static_argnums=3)
render_crops = jax.jit(views.render_crops, static_argnums=4)

# One of 256 levels in the units of the patches, for the narrowest channel.
ONE_LEVEL = 1 / 255 / min(views.QWEN.std) + 1e-5


def published_grid(height, width, min_tokens, max_tokens):
  shown = smart_resize(
    height, width, CELL, min_tokens * CELL**2, max_tokens * CELL**2
  )
  return tuple(side // CELL for side in shown)


def published_patches(image, grid, height_first=False):
  """The processor's patches f32[cells, 4, 588] of an image at `grid`.

  The image is resized here, one axis at a time. Pillow from version 13 on
  chooses the order of the two by the sizes; before it, and so when the
  published models were trained, it always began with the width, as the views
  do.
  """
  height, width = (int(side) * CELL for side in grid)
  between = (image.shape[1], height) if height_first else (width, len(image))
  image = Image.fromarray(image)
  for size in (between, (width, height)):
    image = image.resize(size, Image.Resampling.BICUBIC)
  values = processor(image, do_resize=False, return_tensors="np")
  return _cells(values["pixel_values"])


def whole_patches(image, min_tokens, max_tokens):
  """The same by the processor alone, which chooses the grid and resizes."""
  whole = type(processor)(
    min_pixels=min_tokens * CELL**2, max_pixels=max_tokens * CELL**2
  )
  return _cells(
    whole(Image.fromarray(image), return_tensors="np")["pixel_values"]
  )


def _cells(patches):
  patches = patches.reshape(len(patches), 3, 2, -1)
  np.testing.assert_array_equal(patches[:, :, 0], patches[:, :, 1])
  return patches[:, :, 0].reshape(len(patches) // 4, 4, -1)


def check_patches(view, image, capacity):
  """Compares one view with the processor; returns the share that differs."""
  rows, cols = np.asarray(view.grid)
  want = published_patches(image, (rows, cols))
  got = np.asarray(view.patches)
  assert got.shape == (capacity, 4, 588)
  cells = min(rows * cols, capacity)
  difference = np.abs(got[:cells] - want[:cells])
  # Each axis rounds to 8 bits: what ties in the first can be two levels in
  # the end, where few pixels become many.
  assert difference.max() <= 2 * ONE_LEVEL
  assert (difference > ONE_LEVEL).mean() < 1e-4
  assert (got[cells:] == 0).all()
  return (difference > 1e-5).mean()


def random_sizes(rng, count):
  """Sizes (height, width) up to 8192, half of them far from square."""
  size = np.exp(rng.uniform(0, np.log(8192), (count, 2)))
  near = size[:, :1] * rng.uniform(0.5, 2, (count, 2))
  size = np.where(rng.random((count, 1)) < 0.5, size, near)
  size = np.clip(np.round(size), 1, 8192).astype(np.int32)
  return size[size.max(1) <= 200 * size.min(1)]


LIMITS = [(4, 16), (4, 1024), (4, 16_384), (16, 16), (256, 1280), (4, 5)]


@pytest.mark.parametrize("min_tokens, max_tokens", LIMITS)
def test_grid_is_the_processors(min_tokens, max_tokens):
  rng = np.random.default_rng(0)
  sizes = random_sizes(rng, 3000).tolist() + [
    [1, 1],
    [1, 200],
    [200, 1],
    [14, 42],
    [42, 14],
    [8192, 8192],
  ]
  for height, width in sizes:
    got = views.choose_grid(height, width, min_tokens, max_tokens)
    assert got == published_grid(height, width, min_tokens, max_tokens)


@pytest.mark.parametrize("min_tokens, max_tokens", LIMITS)
def test_grid_on_the_device_is_the_processors(min_tokens, max_tokens):
  """Squares and 1 : 4 have whole results, which only float64's error moves."""
  rng = np.random.default_rng(1)
  side = np.arange(1, 8193)
  sizes = np.concatenate(
    [
      np.stack([side, side], 1),
      np.stack([side[:2048], 4 * side[:2048]], 1),
      np.stack([9 * side[:910], side[:910]], 1),
      rng.integers(1, 200, (4000, 2)),
      random_sizes(rng, 8000),
    ]
  )
  sizes = sizes[sizes.max(1) <= 200 * sizes.min(1)].astype(np.int32)
  got = np.asarray(choose_grid_traced(sizes, min_tokens, max_tokens))
  want = [
    published_grid(*size, min_tokens, max_tokens) for size in sizes.tolist()
  ]
  np.testing.assert_array_equal(got, want)


def test_float64_error_does_decide_some_grids():
  """Guards the test above: exact arithmetic gives other grids."""
  side = range(463, 8193)  # From 17 x 17 cells on, all above 16 x 16.
  rows = [published_grid(s, s, 4, 256)[0] for s in side]
  assert set(rows) == {15, 16}  # Exactly it would be 16 for all.


def test_grid_of_an_empty_size_is_empty_on_the_device():
  sizes = jnp.array([[0, 0], [0, 50], [50, 0], [56, 84]])
  got = choose_grid_traced(sizes, 4, 16)
  assert got.tolist() == [[0, 0], [0, 0], [0, 0], [2, 3]]


@pytest.mark.parametrize(
  "size, limits, message",
  [
    ((0, 10), (4, 16), "0 x 10 pixels"),
    ((10, -1), (4, 16), "10 x -1 pixels"),
    ((1, 201), (4, 16), "1 x 201 pixels"),
    ((4020, 20), (4, 16), "thinner than 1 : 200"),
    ((50, 50), (0, 16), "min_tokens 0"),
    ((50, 50), (17, 16), "max_tokens 16"),
  ],
)
def test_choose_grid_refuses(size, limits, message):
  with pytest.raises(ValueError, match=message):
    views.choose_grid(*size, *limits)


def _refused(choose, *size):
  try:
    choose(*size)
  except ValueError:
    return True
  return False


def test_the_aspect_limit_is_the_processors():
  """Both refuse the same sizes about 1 : 200, lying and standing."""
  short = [1, 2, 3, 7, 28, 40]
  sizes = [(s, 200 * s + d) for s in short for d in (-1, 0, 1, s)]
  sizes += [(40, 8000), (40, 8001), (41, 8192), (40, 8192)]
  sizes += [size[::-1] for size in sizes]
  ours = [_refused(views.choose_grid, *size, 4, 1024) for size in sizes]
  theirs = [_refused(published_grid, *size, 4, 1024) for size in sizes]
  assert ours == theirs
  assert set(ours) == {True, False}


def test_soft_float_is_float64():
  rng = np.random.default_rng(2)
  a = np.exp2(rng.uniform(0, 31, 20_000)).astype(np.int32)
  b = np.exp2(rng.uniform(0, 31, 20_000)).astype(np.int32)

  @jax.jit
  def compute(a, b):
    a, b = soft_float.from_int(a), soft_float.from_int(b)
    quotient = soft_float.divide(a, b)
    root = soft_float.sqrt(quotient)
    return (
      quotient,
      root,
      soft_float.multiply(a, root),
      soft_float.multiply(root, quotient),
    )

  quotient = a.astype(np.float64) / b
  root = np.sqrt(quotient)
  want = quotient, root, a * root, root * quotient
  for got, value in zip(compute(a, b), want):
    number = np.uint64(1 << 32) * np.asarray(got.high) + np.asarray(got.low)
    assert (number >> np.uint64(52) == 1).all()
    np.testing.assert_array_equal(
      np.ldexp(number.astype(np.float64), np.asarray(got.exponent)), value
    )
  got = jax.jit(
    lambda a, b: [
      f(soft_float.divide(soft_float.from_int(a), soft_float.from_int(b)))
      for f in (soft_float.floor, soft_float.ceil)
    ]
  )(a, b)
  np.testing.assert_array_equal(got[0], a // b)
  np.testing.assert_array_equal(got[1], -(-a.astype(np.int64) // b))


def compare_with_processor(sizes, largest, capacity, seed):
  """Renders random images of one canvas; one program for all of them."""
  rng = np.random.default_rng(seed)
  canvas = rng.integers(0, 256, (largest, largest, 3), np.uint8)
  original = jnp.asarray(canvas)
  shares, others, before = [], [], render_view._cache_size()
  for height, width in sizes:
    grid = published_grid(height, width, 4, capacity)
    view = render_view(
      original,
      np.array([0, 0, width, height], np.int32),
      np.array(grid, np.int32),
      capacity,
    )
    image = canvas[:height, :width]
    shares.append(check_patches(view, image, capacity))
    # The order of the two axes is all in which Pillow's own resize differs.
    real = whole_patches(image, 4, capacity)
    if not np.array_equal(real, published_patches(image, grid)):
      want = published_patches(image, grid, height_first=True)
      np.testing.assert_array_equal(real, want)
      cells = min(len(real), capacity)
      levels = np.abs(np.asarray(view.patches)[:cells] - real[:cells])
      others.append((levels.mean() / ONE_LEVEL, levels.max() / ONE_LEVEL))
  assert np.mean(shares) < 1e-3
  mean, most = np.max(others or [(0, 0)], axis=0)
  print(
    f"{len(others)} of {len(shares)} sizes resized the height first: up to "
    f"{mean:.2f} of 256 levels apart in the mean, {most:.0f} at one pixel"
  )
  assert mean < 1  # of random pixels; photographs differ less
  assert render_view._cache_size() == before + 1


def extreme_sizes(largest):
  """The smallest, the largest and the thinnest."""
  thin = min(largest, 200 * (largest // 200))
  extremes = [[1, 1], [1, 150], [150, 1], [largest, largest]]
  return [*extremes, [largest // 200, thin], [thin, largest // 200]]


def test_patches_are_the_processors():
  sizes = random_sizes(np.random.default_rng(3), 400)
  sizes = sizes[sizes.max(1) <= 900][:40].tolist()
  compare_with_processor(extreme_sizes(900) + sizes, 900, 48, 3)


# Images share a canvas of their own magnitude: what a view costs is decided by
# the canvas.
CANVASES = (256, 512, 1024, 2048, 4096, 8192)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("canvas", CANVASES)
def test_patches_are_the_processors_for_500_sizes_up_to_8192(canvas):
  sizes = random_sizes(np.random.default_rng(4), 2000)[:500]
  assert len(sizes) == 500
  below = canvas // 2 if canvas > CANVASES[0] else 0
  own = sizes[(sizes.max(1) > below) & (sizes.max(1) <= canvas)]
  compare_with_processor(extreme_sizes(canvas) + own.tolist(), canvas, 256, 4)


def test_whole_processor_agrees_where_it_resizes_the_width_first():
  """With its own grid and resize, patches and grid come out the same."""
  rng = np.random.default_rng(5)
  image = rng.integers(0, 256, (300, 410, 3), np.uint8)
  wide = type(processor)(min_pixels=4 * CELL**2, max_pixels=40 * CELL**2)
  want = wide(Image.fromarray(image), return_tensors="np")
  grid = views.choose_grid(300, 410, 4, 40)
  assert (2 * np.array(grid)).tolist() == want["image_grid_thw"][0, 1:].tolist()
  view = render_view(
    image, np.array([0, 0, 410, 300], np.int32), np.array(grid, np.int32), 40
  )
  patches = want["pixel_values"].reshape(-1, 4, 3, 2, 196)[:, :, :, 0]
  got = np.asarray(view.patches)[: len(patches)]
  assert np.abs(got - patches.reshape(-1, 4, 588)).max() <= ONE_LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1500, 2100), (512, 512), (300, 410)])
def test_the_processor_on_torchvision_is_near(size):
  """transformers takes it where torchvision is installed; it rounds otherwise.

  `-s` prints by how much.
  """
  pytest.importorskip("torchvision")
  from transformers.models.qwen2_vl import image_processing_qwen2_vl

  limits = dict(min_pixels=4 * CELL**2, max_pixels=1024 * CELL**2)
  other = image_processing_qwen2_vl.Qwen2VLImageProcessor(**limits)
  rng = np.random.default_rng(12)
  image = rng.integers(0, 256, (*size, 3), np.uint8)
  theirs = other(Image.fromarray(image), return_tensors="pt")["pixel_values"]
  theirs = _cells(theirs.numpy())
  grid = views.choose_grid(*size, 4, 1024)
  view = render_view(
    image, np.array([0, 0, *size[::-1]]), np.array(grid, np.int32), 1024
  )
  apart = np.abs(np.asarray(view.patches)[: len(theirs)] - theirs) / ONE_LEVEL
  print(
    f"{apart.mean():.4f} of 256 levels apart in the mean, {apart.max():.1f}"
  )
  assert apart.mean() < 0.1


def test_slots_and_patches_are_in_the_processors_order():
  """A picture that says where it is: red by row of patches, green by column."""
  rows, cols = 2, 3
  picture = np.zeros((56, 84, 3), np.uint8)
  picture[..., 0] = np.arange(56)[:, None] // 14
  picture[..., 1] = np.arange(84) // 14
  picture[..., 2] = np.arange(56)[:, None] % 14 * 14 + np.arange(84) % 14
  view = render_view(
    picture,
    np.array([0, 0, 84, 56], np.int32),
    np.array([rows, cols], np.int32),
    8,
  )
  patches = np.asarray(view.patches).reshape(8, 4, 3, 14, 14)
  levels = patches.transpose(0, 1, 3, 4, 2) * views.QWEN.std + views.QWEN.mean
  levels = np.round(levels * 255)
  for slot in range(6):
    for k in range(4):
      patch = levels[slot, k]
      assert (patch[..., 0] == 2 * (slot // cols) + k // 2).all()
      assert (patch[..., 1] == 2 * (slot % cols) + k % 2).all()
      np.testing.assert_array_equal(
        patch[..., 2], np.arange(196).reshape(14, 14)
      )
  assert (patches[6:] == 0).all()


def random_crops(rng, count, height, width):
  low = rng.integers(0, [width - 40, height - 40], (count, 2))
  high = np.minimum(low + rng.integers(28, 200, (count, 2)), [width, height])
  return np.concatenate([low, high], -1).astype(np.int32)


def test_crops_equal_pillow_and_the_processor():
  rng = np.random.default_rng(6)
  originals = rng.integers(0, 256, (3, 300, 400, 3), np.uint8)
  boxes = random_crops(rng, 12, 300, 400).reshape(3, 4, 4)
  sizes = (boxes[..., 2:] - boxes[..., :2])[..., ::-1]
  grids = np.asarray(choose_grid_traced(sizes, 4, 16))
  valid = np.ones((3, 4), bool)
  valid[0, 1] = valid[2] = False
  view = render_crops(originals, boxes, grids, valid, 16)
  assert view.patches.shape == (3, 4, 16, 4, 588)
  for p, g in np.ndindex(3, 4):
    one = jax.tree.map(lambda x: x[p, g], view)
    if valid[p, g]:
      x1, y1, x2, y2 = boxes[p, g]
      assert one.grid.tolist() == list(published_grid(y2 - y1, x2 - x1, 4, 16))
      check_patches(one, originals[p, y1:y2, x1:x2], 16)
    else:
      assert one.grid.tolist() == [0, 0]
      assert (np.asarray(one.patches) == 0).all()


def test_large_crops_at_the_edges_equal_pillow_and_the_processor():
  rng = np.random.default_rng(10)
  height, width = 700, 1100
  originals = rng.integers(0, 256, (1, height, width, 3), np.uint8)
  low = rng.integers(0, [width - 28, height - 28], (40, 2))
  high = rng.integers(low + 28, [width + 1, height + 1])
  boxes = np.concatenate([low, high], -1)
  boxes[:10, 0] = 0
  boxes[5:15, 1] = 0
  boxes[15:25, 2] = width
  boxes[20:30, 3] = height
  boxes[0] = 0, 0, width, height
  boxes[1] = 0, 0, width, 28
  boxes = boxes[None].astype(np.int32)
  sizes = (boxes[..., 2:] - boxes[..., :2])[..., ::-1]
  grids = np.asarray(choose_grid_traced(sizes, 4, 1024))
  assert grids.prod(-1).max() > 900
  view = render_crops(
    originals, boxes, grids, np.ones(boxes.shape[:2], bool), 1024
  )
  for g, (x1, y1, x2, y2) in enumerate(boxes[0]):
    one = jax.tree.map(lambda x: x[0, g], view)
    assert one.grid.tolist() == list(published_grid(y2 - y1, x2 - x1, 4, 1024))
    check_patches(one, originals[0, y1:y2, x1:x2], 1024)


@pytest.mark.slow
def test_a_view_of_16384_tokens_is_the_processors():
  compare_with_processor([(3000, 4000), (4096, 2900)], 4096, 16_384, 11)


def test_views_of_a_batch_are_the_single_views():
  rng = np.random.default_rng(7)
  originals = rng.integers(0, 256, (4, 200, 150, 3), np.uint8)
  boxes = random_crops(rng, 4, 200, 150)
  grids = np.array([[4, 4], [1, 16], [0, 0], [5, 2]], np.int32)
  views_of_all = render_views(originals, boxes, grids, 16)
  for b in range(4):
    one = render_view(originals[b], boxes[b], grids[b], 16)
    np.testing.assert_array_equal(views_of_all.patches[b], one.patches)
    np.testing.assert_array_equal(views_of_all.grid[b], one.grid)


def test_cells_beyond_the_capacity_are_dropped():
  rng = np.random.default_rng(8)
  image = rng.integers(0, 256, (60, 600, 3), np.uint8)
  box, grid = np.array([0, 0, 600, 60], np.int32), np.array([1, 21], np.int32)
  whole = render_view(image, box, grid, 24).patches
  np.testing.assert_array_equal(
    render_view(image, box, grid, 10).patches, whole[:10]
  )


def test_new_boxes_grids_and_flags_compile_nothing():
  rng = np.random.default_rng(9)
  originals = rng.integers(0, 256, (2, 120, 130, 3), np.uint8)
  render_crops(*crops_of(rng, originals), 8)
  before = render_crops._cache_size()
  for _ in range(3):
    render_crops(*crops_of(rng, originals), 8)
  assert render_crops._cache_size() == before


def crops_of(rng, originals):
  boxes = random_crops(rng, 6, *originals.shape[1:3]).reshape(2, 3, 4)
  grids = rng.integers(1, 4, (2, 3, 2)).astype(np.int32)
  return originals, boxes, grids, rng.random((2, 3)) < 0.5
