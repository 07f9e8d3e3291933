"""From encoded bytes to pixels: the one decoder, and what it does to oddities.

A picture comes out as u8[H, W, 3], upright, opaque, at least 28 pixels on its
shorter side. What is odd about a file has one treatment:

  below 28 pixels   enlarged, bicubic, until the shorter side has 28; boxes are
                    mapped along (`Picture.map_boxes`)
  CMYK              converted as Pillow does, without colour profiles
  16 bits           the high byte of each sample is kept, of alpha too
  palette, alpha    colours looked up, then laid over white
  EXIF rotation     turned and mirrored upright; boxes refer to that image. An
                    EXIF block that cannot be read counts as none
  animated, pages   the first frame; so of a phone's two pictures in one JPEG
  truncated         refused, never filled up with grey; what is cut off behind
                    a whole first frame is not missed
  gigantic          refused from its header, before a pixel is decoded
  beyond its room   shrunk, bicubic, if `decode` is given a room
  a side above 32,768, thinner than 1:200, more than 16 bits, no image at all:
                    refused

A refusal is a `UserError`. Only JPEG, PNG, WebP, GIF, BMP and TIFF are tried:
other formats would run more parsers, one of them a whole interpreter, on bytes
that nobody checked.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import io

import numpy as np
from PIL import Image

from lfpc_jax.errors import UserError

Size = tuple[int, int]  # (height, width)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# One visual token's side, below which the policy's view has nothing to show.
MIN_SIDE = 28
# Qwen's image processor refuses images thinner than 1 : 200.
MAX_ASPECT = 200
# Of a side: the box geometry's limit.
MAX_SIDE = 32_768
# 8192 x 8192 and a third more: 256 MiB of pixels, Pillow's own first limit.
MAX_PIXELS = 89_478_485

_ORIENTATION = 0x0112
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_ON_SIDE = (5, 6, 7, 8)
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclasses.dataclass(frozen=True)
class Picture:
  """A decoded image.

  Attributes:
    pixels: u8[H, W, 3], not to be written to.
    upright_size: (height, width) before a small image was enlarged or a large
      one shrunk; boxes of a data set refer to this size.
    treatments: what was done to it, such as 'enlarged'; () for a plain image.
  """

  pixels: np.ndarray
  upright_size: tuple[int, int]
  treatments: tuple[str, ...] = ()

  def map_boxes(self, boxes: np.ndarray) -> np.ndarray:
    """Boxes i32[n, 4] of the upright image as boxes of `pixels`.

    Corners (x1, y1, x2, y2) move outward to whole pixels.
    """
    boxes = np.asarray(boxes, np.int64).reshape(-1, 4)
    height, width = self.pixels.shape[:2]
    new = np.array([width, height])
    old = np.array(self.upright_size[::-1])
    low, high = boxes[:, :2] * new // old, -(-boxes[:, 2:] * new // old)
    return np.concatenate([low, high], axis=1).astype(np.int32)


def decode(
  data: bytes, *, max_pixels: int = MAX_PIXELS, room: Size | None = None
) -> Picture:
  """Decodes an image, with the treatments of the module's text.

  Args:
    data: a whole file.
    max_pixels: a larger image is refused. Pillow itself refuses what has more
      than twice `MAX_PIXELS`, whatever is asked for here.
    room: (height, width) that a larger image is shrunk to, in proportion;
      None shrinks nothing.

  Raises:
    UserError: the bytes are no image or one that is refused.
  """
  with _opened(data) as image:
    _check_size(image.width, image.height, max_pixels)
    return _treat(image, room)


def read_size(data: bytes) -> Size:
  """(height, width) of what `decode` gives, mostly from the header alone.

  With a room, `fit` has it.

  Raises:
    UserError: the bytes are no image.
  """
  with _opened(data) as image:
    size = image.size
    # Pillow's size of a TIFF is that of the upright image already. Of a square
    # nothing is to be turned: some formats keep the orientation, and are slow
    # to tell it, behind the pixels.
    turns = image.format != "TIFF" and size[0] != size[1]
    if turns and _orientation(image) in _ON_SIDE:
      size = size[::-1]
    width, height = _enlarged(size) if min(size) < MIN_SIDE else size
    return height, width


def fit(size: Size, room: Size | None) -> Size:
  """(height, width) of an image in its room: shrunk in proportion, or as is.

  No side gets below `MIN_SIDE`, or below the room's if that is smaller.
  """
  if room is None or all(side <= most for side, most in zip(size, room)):
    return size
  scale = min(most / side for side, most in zip(size, room))
  return tuple(
    min(most, max(MIN_SIDE, round(side * scale)))
    for side, most in zip(size, room)
  )


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
  """An image whose header alone has been read; faults become UserErrors."""
  try:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
      yield image
  except UserError:
    raise
  # Parsers of damaged files raise whatever they meet: OSError, SyntaxError,
  # ValueError, IndexError, struct.error, DecompressionBombError, ...
  except Exception as error:
    raise UserError(_describe(data, error)) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
  size = f"an image of {height} x {width} pixels (height x width)"
  if width * height > max_pixels:
    raise UserError(
      f"{size} exceeds the limit of {max_pixels:,} pixels: scale it down, or"
      " raise max_pixels"
    )
  if min(width, height) < 1:
    raise UserError(f"{size} is empty: remove it")
  if max(width, height) > MAX_SIDE:
    raise UserError(
      f"{size} has a side above {MAX_SIDE:,}, the longest that boxes can be"
      " placed on: scale it down"
    )
  if max(width, height) > MAX_ASPECT * min(width, height):
    raise UserError(
      f"{size} is thinner than 1 : {MAX_ASPECT}: crop it or pad it"
    )


def _describe(data: bytes, error: Exception) -> str:
  if isinstance(error, Image.UnidentifiedImageError):
    return (
      f"{len(data):,} bytes are no {', '.join(FORMATS[:-1])} or"
      f" {FORMATS[-1]} image: convert or replace the file"
    )
  text = " ".join(str(error).split()) or type(error).__name__
  return f"the image cannot be decoded ({text}): replace the file"


def _treat(image: Image.Image, room: Size | None) -> Picture:
  """All treatments, in order; the image is open and not yet loaded."""
  done = []
  if getattr(image, "is_animated", False):
    done.append("first frame")
  image.load()
  turn = _UPRIGHT.get(_orientation(image))
  if turn is not None:
    image = image.transpose(turn)
    done.append("rotated")
  image = _to_rgb(image, done)
  size = (image.height, image.width)
  if min(size) < MIN_SIDE:
    image = _enlarge(image)
    done.append("enlarged")
  fitted = fit((image.height, image.width), room)
  if fitted != (image.height, image.width):
    image = image.resize(fitted[::-1], Image.Resampling.BICUBIC)
    done.append("shrunk")
  return Picture(np.asarray(image), size, tuple(done))


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(_ORIENTATION, 1)
  except Exception:  # as in `decode`: a damaged block, not a damaged image
    return 1


def _to_rgb(image: Image.Image, done: list[str]) -> Image.Image:
  if image.mode in _DEEP_GREY:
    done.append("16-bit")
    return _high_byte(image)
  if image.mode in ("F", "LAB"):
    raise UserError(
      f"an image in Pillow's mode {image.mode!r} has no 8-bit form: convert it"
    )
  if image.mode == "CMYK":
    done.append("CMYK")
  if image.has_transparency_data:
    done.append("alpha")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
  if image.mode == "P":
    done.append("palette")
  # A conversion to the same mode would copy: 256 MiB for 8192 x 8192.
  return image if image.mode == "RGB" else image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
  samples = np.asarray(image).astype(np.int64)
  if samples.min() < 0 or samples.max() > 0xFFFF:
    raise UserError(
      f"an image with samples from {samples.min()} to {samples.max()} has more"
      " than 16 bits: convert it"
    )
  return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")


def _enlarge(image: Image.Image) -> Image.Image:
  return image.resize(_enlarged(image.size), Image.Resampling.BICUBIC)


def _enlarged(size: tuple[int, int]) -> tuple[int, int]:
  scale = MIN_SIDE / min(size)
  return tuple(max(MIN_SIDE, round(side * scale)) for side in size)
