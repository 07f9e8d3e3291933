"""Views: what the policy sees of an image, as slots of visual tokens.

A view is a box of an original, resized to a grid of cells of 28 x 28 pixels;
a cell is one visual token. The global view is the whole box at a small
budget of tokens; a crop is a small box. Both are `render_views`.

The grid is the Qwen image processor's, and so are the patches. The capacity,
a number of slots, is static; the grid is dynamic, so that views of any size
and aspect ratio are one compiled program.
"""

from __future__ import annotations

import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp

from lfpc_jax.image import resample, soft_float

_BLOCK_CELLS = 4  # Cells on a side of the block that is resized at once.
_MAX_ASPECT = 200  # The processor refuses anything thinner.


@dataclasses.dataclass(frozen=True)
class ViewGeometry:
  """How pixels become patches; the defaults are Qwen2.5-VL's.

  Attributes:
    patch_size: pixels on a side of a patch.
    merge_size: patches on a side of a cell, which is one visual token.
    mean: subtracted from each channel in [0, 1] (CLIP's).
    std: what each channel is then divided by (CLIP's).
  """

  patch_size: int = 14
  merge_size: int = 2
  mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
  std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

  @property
  def cell(self) -> int:
    """Pixels on a side of a visual token."""
    return self.patch_size * self.merge_size

  @property
  def patch_dim(self) -> int:
    """Numbers in a patch: channel, y and x."""
    return 3 * self.patch_size**2


QWEN = ViewGeometry()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class View:
  """Patches of a view in the slots of its visual tokens.

  Attributes:
    patches: f32[..., N, 4, 588]. Slot k < rows * cols is cell (k // cols,
      k % cols); its four patches are in row-major order, each flattened from
      (channel, y, x) and normalised. Later slots are zero. The processor
      gives each patch twice, for two frames; here it is once.
    grid: i32[..., 2], (rows, cols); cells beyond the capacity N are lost.
  """

  patches: jax.Array
  grid: jax.Array


def choose_grid(
  height: int,
  width: int,
  min_tokens: int,
  max_tokens: int,
  cell: int = QWEN.cell,
) -> tuple[int, int]:
  """The (rows, cols) the Qwen processor gives an image: its `smart_resize`.

  The grid keeps the aspect ratio and has min_tokens to max_tokens cells. A
  side is at least one cell, so that an image thinner than about
  1 : max_tokens gets more cells than that.

  Args:
    height: pixels.
    width: pixels.
    min_tokens: the processor's min_pixels / cell^2.
    max_tokens: the processor's max_pixels / cell^2.
    cell: pixels on a side of a visual token.

  Raises:
    ValueError: an empty image, one thinner than 1 : 200, or bad limits.
  """
  _check_limits(min_tokens, max_tokens)
  if height < 1 or width < 1:
    raise ValueError(
      f"an image of {height} x {width} pixels (height x width) has no grid:"
      " give each side at least 1 pixel"
    )
  if max(height, width) > _MAX_ASPECT * min(height, width):
    raise ValueError(
      f"an image of {height} x {width} pixels (height x width) is thinner"
      f" than 1 : {_MAX_ASPECT}, which the image processor refuses: leave it"
      " out, or crop or pad it"
    )
  rows, cols = round(height / cell), round(width / cell)
  if rows * cols > max_tokens:
    shrink = math.sqrt(height * width / (max_tokens * cell**2))
    rows = max(1, math.floor(height / shrink / cell))
    cols = max(1, math.floor(width / shrink / cell))
  elif rows * cols < min_tokens:
    grow = math.sqrt(min_tokens * cell**2 / (height * width))
    rows = math.ceil(height * grow / cell)
    cols = math.ceil(width * grow / cell)
  return rows, cols


def choose_grid_traced(
  size: jax.Array, min_tokens: int, max_tokens: int, cell: int = QWEN.cell
) -> jax.Array:
  """`choose_grid` on the device: the same numbers for every size.

  The processor computes in float64, and for many sizes (squares, for one)
  the exact result is a whole number, so that its last bit decides the grid.
  That arithmetic is therefore reproduced bit by bit, in integers.

  Args:
    size: i32[..., 2], (height, width); height * width below 2^31. Thinner
      than 1 : 200 is not refused here, and an empty size has grid (0, 0).
    min_tokens: see `choose_grid`; static.
    max_tokens: see `choose_grid`; static.
    cell: pixels on a side of a visual token; static.

  Returns:
    i32[..., 2], (rows, cols).
  """
  _check_limits(min_tokens, max_tokens)
  side = jnp.maximum(size, 1)
  near = _round_half_even(side, cell)
  near_cells = jnp.prod(near, -1, keepdims=True)
  shrinks, grows = near_cells > max_tokens, near_cells < min_tokens
  area = jnp.prod(side, -1, keepdims=True)
  limit = jnp.where(shrinks, max_tokens, min_tokens) * cell**2
  factor = soft_float.sqrt(
    soft_float.divide(
      soft_float.from_int(jnp.where(shrinks, area, limit)),
      soft_float.from_int(jnp.where(shrinks, limit, area)),
    )
  )
  exact, cells = soft_float.from_int(side), soft_float.from_int(cell)
  fewer = soft_float.divide(soft_float.divide(exact, factor), cells)
  more = soft_float.divide(soft_float.multiply(exact, factor), cells)
  grid = jnp.where(
    shrinks,
    jnp.maximum(soft_float.floor(fewer), 1),
    jnp.where(grows, soft_float.ceil(more), near),
  )
  return jnp.where(jnp.all(size > 0, -1, keepdims=True), grid, 0)


def render_view(
  original: jax.Array,
  box: jax.Array,
  grid: jax.Array,
  capacity: int,
  geometry: ViewGeometry = QWEN,
) -> View:
  """Renders one box of one original as a view of `grid` cells.

  Equals the Qwen image processor on `PIL.Image.crop(box)`, up to one of 256
  levels in few pixels, where Pillow resizes the width first: always before
  version 13, and from then on at most sizes. The time is that of the box and
  the grid, whatever the sizes of the original and the capacity.

  Args:
    original: u8[H, W, 3].
    box: i32[4], pixels of the original, inside it.
    grid: i32[2], (rows, cols); (0, 0) renders nothing.
    capacity: number of slots N; static.
    geometry: patches; static.

  Returns:
    A `View` with patches f32[N, 4, 588].
  """
  view = _render(
    original[None],
    jnp.zeros(1, jnp.int32),
    box[None],
    grid[None],
    capacity,
    geometry,
  )
  return jax.tree.map(lambda x: x[0], view)


def render_views(
  originals: jax.Array,
  boxes: jax.Array,
  grids: jax.Array,
  capacity: int,
  geometry: ViewGeometry = QWEN,
) -> View:
  """`render_view` of one box from each of B originals, one after another.

  Args:
    originals: u8[B, H, W, 3], each in the top left of its H x W.
    boxes: i32[B, 4].
    grids: i32[B, 2].
    capacity: number of slots N; static.
    geometry: patches; static.

  Returns:
    A `View` with patches f32[B, N, 4, 588].
  """
  return _render(
    originals, jnp.arange(len(boxes)), boxes, grids, capacity, geometry
  )


def render_crops(
  originals: jax.Array,
  boxes: jax.Array,
  grids: jax.Array,
  valid: jax.Array,
  capacity: int,
  geometry: ViewGeometry = QWEN,
) -> View:
  """Renders one crop for each of the G rollouts of P prompts.

  The originals are read in place, never copied per rollout.

  Args:
    originals: u8[I, H, W, 3], each of P / I prompts in a row.
    boxes: i32[P, G, 4].
    grids: i32[P, G, 2].
    valid: bool[P, G]; a row that is not has an empty view and costs nothing.
    capacity: number of slots N; static.
    geometry: patches; static.

  Returns:
    A `View` with patches f32[P, G, N, 4, 588], and grid (0, 0) where invalid.
  """
  prompts, rollouts = valid.shape
  users = prompts * rollouts // len(originals)
  grids = jnp.where(valid[..., None], grids, 0)
  views = _render(
    originals,
    jnp.arange(prompts * rollouts) // users,
    boxes.reshape(-1, 4),
    grids.reshape(-1, 2),
    capacity,
    geometry,
  )
  return jax.tree.map(
    lambda x: x.reshape(prompts, rollouts, *x.shape[1:]), views
  )


def _render(
  originals: jax.Array,
  index: jax.Array,
  boxes: jax.Array,
  grids: jax.Array,
  capacity: int,
  geometry: ViewGeometry,
) -> View:
  """Renders views [B] of the originals `index` i32[B], one after another.

  A loop and not a vmap: each view then takes the blocks and tiles it needs,
  and no more. Patches are written in place, so that an empty view is free.
  """
  block = _BLOCK_CELLS * geometry.cell
  offsets = jnp.arange(_BLOCK_CELLS)

  def add_view(b: jax.Array, patches: jax.Array) -> jax.Array:
    rows, cols = grids[b, 0], grids[b, 1]
    blocks_y, blocks_x = (-(-side // _BLOCK_CELLS) for side in (rows, cols))

    def add_block(i: jax.Array, patches: jax.Array) -> jax.Array:
      first = jnp.stack([i // blocks_x, i % blocks_x])
      pixels = resample.resample_block(
        originals,
        index[b],
        boxes[b],
        grids[b] * geometry.cell,
        first * block,
        block,
      )
      row = (first[0] * _BLOCK_CELLS + offsets)[:, None]
      col = first[1] * _BLOCK_CELLS + offsets
      inside = (row < rows) & (col < cols)
      slot = jnp.where(inside, row * cols + col, capacity).reshape(-1)
      return patches.at[b, slot].set(_patchify(pixels, geometry), mode="drop")

    return lax.fori_loop(0, blocks_y * blocks_x, add_block, patches)

  shape = (len(boxes), capacity, geometry.merge_size**2, geometry.patch_dim)
  patches = lax.fori_loop(0, len(boxes), add_view, jnp.zeros(shape))
  return View(patches=patches, grid=grids)


def _patchify(pixels: jax.Array, geometry: ViewGeometry) -> jax.Array:
  """Pixels [h, w, 3] to normalised patches f32[cells, 4, 588]."""
  mean, std = jnp.array(geometry.mean), jnp.array(geometry.std)
  pixels = (pixels / 255.0 - mean) / std
  merge, patch = geometry.merge_size, geometry.patch_size
  rows, cols = (side // geometry.cell for side in pixels.shape[:2])
  pixels = pixels.reshape(rows, merge, patch, cols, merge, patch, 3)
  patches = pixels.transpose(0, 3, 1, 4, 6, 2, 5)
  return patches.reshape(rows * cols, merge**2, geometry.patch_dim)


def _round_half_even(number: jax.Array, divisor: int) -> jax.Array:
  """Python's round(number / divisor) of whole numbers."""
  whole, rest = number // divisor, number % divisor
  up = (2 * rest > divisor) | ((2 * rest == divisor) & (whole % 2 == 1))
  return whole + up


def _check_limits(min_tokens: int, max_tokens: int) -> None:
  if not 1 <= min_tokens <= max_tokens:
    raise ValueError(
      f"min_tokens {min_tokens} and max_tokens {max_tokens} give no grid:"
      " choose 1 <= min_tokens <= max_tokens"
    )
