r"""Resizing a crop: by tiles of one size, and by those that fit its box.

  python -m experiments.speed.resizing

Prints milliseconds of CPU for one block of 112 x 112 pixels, the crop of 16
visual tokens, cut from square boxes of an original of 1,024 pixels a side.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import measure
from lfpc_jax.image import resample

_SPANS = (60, 100, 150, 200, 321, 500, 900)  # sides of the box in pixels
_WAYS = ((320,), (128,), resample.TILES)
_BLOCK, _SIDE, _BLOCKS = 112, 1024, 16


def milliseconds(tiles: tuple[int, ...]) -> list[float]:
  """CPU time of a block for each span, the least of some rounds."""
  resample.TILES = tiles
  shape = (1, _SIDE, _SIDE, 3)
  pixels = jnp.asarray(
    np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  )
  size, start = jnp.array([_BLOCK, _BLOCK]), jnp.zeros(2, jnp.int32)

  @jax.jit
  def blocks(originals, box):
    def add(number, total):
      moved = box + number % 2  # so that no block is computed only once
      block = resample.resample_block(originals, 0, moved, size, start, _BLOCK)
      return total + jnp.sum(block)

    return jax.lax.fori_loop(0, _BLOCKS, add, 0.0)

  def block_of(span: int) -> float:
    box = jnp.array([3, 5, 3 + span, 5 + span])
    return measure.least_cpu(lambda: blocks(pixels, box)) / _BLOCKS

  return [1e3 * block_of(span) for span in _SPANS]


def main() -> None:
  """Prints the table."""
  columns = [milliseconds(tiles) for tiles in _WAYS]
  rows = [
    [span, *(f"{ms:.2f}" for ms in row)]
    for span, *row in zip(_SPANS, *columns, strict=True)
  ]
  head = ["side of the box", *(" or ".join(map(str, t)) for t in _WAYS)]
  print(measure.table(head, rows))


if __name__ == "__main__":
  main()
