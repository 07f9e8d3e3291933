"""Pictures of an episode for people: what was shown, and where it was cut."""

from __future__ import annotations

from collections.abc import Sequence
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLOURS = ("#ff2d55", "#ffb000", "#00c8ff", "#7cff4f", "#d28bff")


def shown(
  image: np.ndarray, box: Sequence[int], grid: Sequence[int], cell: int
) -> Image.Image:
  """A region of the original as the policy sees it, up to 2 of 256 levels.

  Args:
    image: the original, u8[H, W, 3].
    box: the region, in its pixels.
    grid: (rows, columns) of visual tokens.
    cell: pixels on a side of a visual token.
  """
  size = int(grid[1]) * cell, int(grid[0]) * cell
  region = Image.fromarray(image).crop(tuple(int(edge) for edge in box))
  return region.resize(size, Image.Resampling.BICUBIC)


def with_boxes(
  image: np.ndarray, boxes: Sequence[Sequence[int]]
) -> Image.Image:
  """The original with boxes drawn around their pixels, numbered from 1.

  Args:
    image: u8[H, W, 3]; it is not changed.
    boxes: (x1, y1, x2, y2) in its pixels, half-open.
  """
  picture = Image.fromarray(image).copy()
  draw = ImageDraw.Draw(picture)
  width = max(2, min(picture.size) // 200)
  font = ImageFont.load_default(size=max(12, min(picture.size) // 28))
  for number, (x1, y1, x2, y2) in enumerate(boxes, 1):
    colour = _COLOURS[(number - 1) % len(_COLOURS)]
    # The line lies outside the box, so that it hides nothing of the crop,
    # but never outside the picture.
    around = (
      max(0, x1 - width),
      max(0, y1 - width),
      min(picture.width, x2 + width) - 1,
      min(picture.height, y2 + width) - 1,
    )
    draw.rectangle(around, outline=colour, width=width)
    _label(draw, str(number), (x1, y1, x2, y2), width, font, colour)
  return picture


def _label(draw, text, box, width, font, colour) -> None:
  """A number above the box's left corner, or below it at the upper edge."""
  left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
  high, wide = bottom - top + 4, right - left + 6
  x = max(0, min(box[0] - width, draw.im.size[0] - wide))
  y = box[1] - width - high
  if y < 0:
    y = min(box[3] + width, draw.im.size[1] - high)
  draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
  draw.text((x + 3 - left, y + 2 - top), text, fill="black", font=font)


def png_bytes(image: Image.Image) -> bytes:
  """Encodes a picture without loss."""
  with io.BytesIO() as file:
    image.save(file, "PNG")
    return file.getvalue()
