"""A page's pictures: a thumbnail for each original, and bounds for all.

A page holds its pictures, so that it opens from one file. Those of thousands of
rollouts would be more than a phone can hold: each kind has its share of bytes,
and where that is exceeded, its pictures are compressed more, then shrunk.
"""

from __future__ import annotations

from collections.abc import Mapping
import io

import PIL.Image
import PIL.ImageOps

SHARE = 16 << 20
"""Bytes that originals may take, and views, and crops."""

COARSE = 400
"""Pixels of the longer side below which a page shows the true pixels."""

_THUMBNAIL = 104  # pixels of a side: twice the list's, for dense displays
_QUALITY = 75
_GAIN = 2.5  # how much smaller that quality makes them, about
_DAMAGED = (OSError, ValueError, PIL.Image.DecompressionBombError)
_TRIES = 4  # smaller pictures have more bytes for a pixel


def thumbnail(data: bytes) -> bytes:
  """A JPEG of the middle of a JPEG, 104 x 104 pixels, for the list.

  What cannot be decoded is given back; the page shows the rest.
  """
  try:
    with PIL.Image.open(io.BytesIO(data)) as picture:
      # Decodes at a fraction of the size, which is all that is needed.
      picture.draft("RGB", (2 * _THUMBNAIL, 2 * _THUMBNAIL))
      whole = picture.convert("RGB")
  except _DAMAGED:
    return data
  return _encoded(PIL.ImageOps.fit(whole, (_THUMBNAIL, _THUMBNAIL)))


def fit(
  pictures: Mapping[str, bytes], share: int = SHARE, least: int = 0
) -> dict[str, bytes]:
  """The pictures in about `share` bytes; unchanged if they have no more.

  Args:
    pictures: JPEGs by name.
    share: bytes that all together may have.
    least: none is shrunk to fewer pixels on its longer side than this, so that
      the share may be exceeded.
  """
  found, scale, gain = dict(pictures), 1.0, _GAIN
  for _ in range(_TRIES):
    # Bytes go with the area.
    over = sum(map(len, found.values())) / share
    if over <= 1:
      break
    scale *= min(1.0, gain / over) ** 0.5
    gain = 1.0
    found = {
      name: min(data, _again(data, scale, least), key=len)
      for name, data in pictures.items()
    }
  return found


def _again(data: bytes, scale: float, least: int) -> bytes:
  """A JPEG encoded anew, its sides times `scale`; itself if damaged."""
  try:
    with PIL.Image.open(io.BytesIO(data)) as picture:
      scale = max(scale, min(1.0, least / max(picture.size)))
      sides = [max(1, round(side * scale)) for side in picture.size]
      picture.draft("RGB", sides)  # decodes no more than that needs
      return _encoded(picture.convert("RGB").resize(sides))
  except _DAMAGED:
    return data


def _encoded(picture: PIL.Image.Image) -> bytes:
  with io.BytesIO() as file:
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
