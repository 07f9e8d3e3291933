"""Pillow's bicubic resize of a box of an image, with sizes that are dynamic.

A block of the output is two matrix products, as wide as the block and as deep
as the part of the box that the block sees:

  rows   = round8(tile @ weights_x)      horizontal pass, summed over x tiles
  block  = round8(weights_y @ rows)      vertical pass, summed over y tiles

Output o of an axis is centred on the box coordinate c = (o + 1/2) in / out;
pixel i weighs bicubic((i + 1/2 - c) / max(in / out, 1)), and the weights of
one output are divided by their sum over the pixels inside the box: a crop
knows nothing outside its box. Both passes round to 8 bits, as Pillow does.

The horizontal pass is always the first, as in Pillow up to version 12. Later
versions begin with the vertical one where the height loses more than twice
as many pixels as the width; the two differ where the first pass clips.

Shapes are static (block, tile) and the numbers of tiles are dynamic, so that
a small crop of a huge original costs what the crop costs. Of a few sizes of
tiles a block takes that whose tiles have the fewest pixels together.
"""

from __future__ import annotations

import functools

import jax
from jax import lax
import jax.numpy as jnp

# Sides of the squares of source pixels that one step of the loops may read.
TILES = (128, 256, 384)

_WEIGHT_ONE = 2.0**22  # Pillow's weights are whole multiples of 1 / this.
_HIGHEST = lax.Precision.HIGHEST


def crop_and_resize(
  original: jax.Array, box: jax.Array, out_size: tuple[int, int]
) -> jax.Array:
  """Cuts a box out of an image and resizes it, bicubic with antialiasing.

  Args:
    original: u8[H, W, 3].
    box: i32[4], pixels of the original, not empty and inside it.
    out_size: (height, width) of the result; static.

  Returns:
    f32[height, width, 3], whole numbers in [0, 255]: what
    `PIL.Image.crop(box).resize(.., BICUBIC)` gives, up to 1 level, and up to
    2 where both passes fall beside a half.
  """
  block = 112
  rows, cols = (-(-side // block) for side in out_size)
  out = jnp.array(out_size, jnp.int32)

  def one_block(index: jax.Array) -> jax.Array:
    start = jnp.stack([index // cols, index % cols]) * block
    return resample_block(original[None], 0, box, out, start, block)

  blocks = lax.map(one_block, jnp.arange(rows * cols))
  blocks = blocks.reshape(rows, cols, block, block, 3).swapaxes(1, 2)
  image = blocks.reshape(rows * block, cols * block, 3)
  return image[: out_size[0], : out_size[1]]


def resample_block(
  originals: jax.Array,
  index: jax.Array | int,
  box: jax.Array,
  out_size: jax.Array,
  start: jax.Array,
  block: int,
) -> jax.Array:
  """One square block of a resized box; all but the block's side is dynamic.

  Args:
    originals: u8[B, H, W, 3]. A stack and an index, so that a loop over
      images copies none of them.
    index: i32[], the image.
    box: i32[4], pixels of that image, not empty and inside it. Per axis,
      2 * (box + largest tile) * output must be below 2^31: 16,384 pixels
      become at most 64,035.
    out_size: i32[2], the height and width of the whole resized box.
    start: i32[2], the (y, x) of the block's first pixel in the resized box.
    block: side of the block in pixels.

  Returns:
    f32[block, block, 3], whole numbers in [0, 255]. Pixels beyond `out_size`
    repeat the last one.
  """
  y = _Span(box[1], box[3], out_size[0], start[0], block, originals.shape[1])
  x = _Span(box[0], box[2], out_size[1], start[1], block, originals.shape[2])
  longest = max(originals.shape[1:3])
  sizes = [t for n, t in enumerate(TILES) if not n or TILES[n - 1] < longest]
  sizes.reverse()  # of two that read as much, the larger takes fewer steps
  read = [y.pixels_read(size) * x.pixels_read(size) for size in sizes]
  choices = [
    functools.partial(_sum_tiles, originals, index, y, x, size)
    for size in sizes
  ]
  return lax.switch(jnp.argmin(jnp.stack(read)), choices)


def _sum_tiles(originals, index, y: _Span, x: _Span, size: int) -> jax.Array:
  """`resample_block` by tiles of one size."""
  y, x = _Axis(y, size), _Axis(x, size)
  block = y.span.block

  def rows_of_tile(top: jax.Array) -> jax.Array:
    """The horizontal pass f32[y.tile, 3, block] of the rows from `top`."""

    def step(i: jax.Array, total: jax.Array) -> jax.Array:
      left, weights = x.weights(i)
      tile = lax.dynamic_slice(
        originals, (index, top, left, 0), (1, y.tile, x.tile, 3)
      )[0]
      return total + jnp.einsum(
        "yxc,ox->yco", tile.astype(jnp.float32), weights, precision=_HIGHEST
      )

    return _round8(
      lax.fori_loop(0, x.num_tiles, step, jnp.zeros((y.tile, 3, block)))
    )

  def step(i: jax.Array, total: jax.Array) -> jax.Array:
    top, weights = y.weights(i)
    return total + jnp.einsum(
      "oy,ycx->ocx", weights, rows_of_tile(top), precision=_HIGHEST
    )

  pixels = lax.fori_loop(0, y.num_tiles, step, jnp.zeros((block, 3, block)))
  return _round8(pixels).transpose(0, 2, 1)


def bicubic(x: jax.Array) -> jax.Array:
  """Pillow's bicubic kernel (a = -1/2) at x; zero from |x| = 2 on.

  In factors, which float32 computes well where the kernel is small.
  """
  x = jnp.abs(x)
  near = (1 - x) * (1 + x - 1.5 * x * x)
  far = 0.5 * (1 - x) * (2 - x) ** 2
  return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


class _Span:
  """What a block sees of one axis of the box.

  Attributes:
    block: outputs; static.
    side: pixels of the original's axis; static.
    low: where the box begins, i32[].
    size: pixels of the box, i32[].
    out_size: outputs of the whole box, i32[].
    outputs: the block's outputs, i32[block].
    first: the first pixel that weighs anything, i32[].
    last: one beyond the last, i32[].
  """

  def __init__(self, low, high, out_size, start, block: int, side: int):
    """For outputs [start, start + block) of [low, high) out of `side`."""
    self.block, self.side = block, side
    self.low, self.size, self.out_size = low, high - low, out_size
    self.outputs = jnp.minimum(start + jnp.arange(block), out_size - 1)
    centre = (2 * self.outputs + 1) * self.size // (2 * out_size)
    reach = jnp.maximum(-(-2 * self.size // out_size), 2)
    self.first = jnp.maximum(low + centre[0] - reach, low)
    self.last = jnp.minimum(low + centre[-1] + reach + 1, high)

  def num_tiles(self, size: int) -> jax.Array:
    """How many tiles of at most `size` pixels the block sees, i32[]."""
    return -((self.first - self.last) // min(size, self.side))

  def pixels_read(self, size: int) -> jax.Array:
    """How many pixels these tiles have, i32[]."""
    return self.num_tiles(size) * min(size, self.side)


class _Axis:
  """A span, tile by tile.

  Attributes:
    span: what there is to see.
    tile: pixels of a tile; static.
    num_tiles: i32[], how many tiles the block sees.
  """

  def __init__(self, span: _Span, size: int):
    self.span, self.tile = span, min(size, span.side)
    self.num_tiles = span.num_tiles(size)
    self._limit = span.side - self.tile  # The last place where a tile fits.
    self._sum = lax.fori_loop(
      0,
      self.num_tiles,
      lambda i, total: total + jnp.sum(self._kernel(i)[1], 1),
      jnp.zeros(span.block),
    )

  def weights(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where tile i begins, i32[], and its weights f32[block, tile].

    Rounded to Pillow's 22 bits, which decide when a pixel is just between
    two levels.
    """
    place, kernel = self._kernel(i)
    weights = kernel / self._sum[:, None]
    return place, jnp.round(weights * _WEIGHT_ONE) / _WEIGHT_ONE

  def _kernel(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `weights`, before their division by the sum over all tiles."""
    span = self.span
    begin = span.first + i * self.tile
    # A tile moved back reads some pixels again: these have weight 0.
    place = jnp.minimum(begin, self._limit)
    pixels = place + jnp.arange(self.tile)
    # Whole numbers up to the division: a float32 that counts thousands of
    # pixels would be off by a thousandth of a pixel, which shows.
    distance = (2 * (pixels - span.low) + 1) * span.out_size - (
      (2 * span.outputs + 1) * span.size
    )[:, None]
    kernel = bicubic(distance / (2 * jnp.maximum(span.size, span.out_size)))
    inside = (pixels >= begin) & (pixels < span.last)
    return place, jnp.where(inside, kernel, 0.0)


def _round8(values: jax.Array) -> jax.Array:
  """Rounds half up and clips to 8 bits, as Pillow does after each pass."""
  return jnp.clip(jnp.floor(values + 0.5), 0.0, 255.0)
