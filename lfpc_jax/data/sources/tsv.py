"""Tab-separated files with an image in base64 in each row.

Written by pandas: a field with a quote, a tab or a line break is quoted, and
quotes in it are doubled. A file may have gigabytes, so the image stays where
it is; what is kept of it is its place and a digest.
"""

from __future__ import annotations

from collections.abc import Iterator
import csv
import dataclasses
import hashlib
import io
import pathlib
from typing import BinaryIO

from lfpc_jax.data.sources import files, parquet
from lfpc_jax.data.sources.rows import RowError
from lfpc_jax.errors import UserError

_MAX_ROW_BYTES = 1 << 28
_MARK = b"<image>"
_IMAGE = "image"  # its column
_MAX_LINES = 32  # of one row: its quoted text may hold line breaks


@dataclasses.dataclass(frozen=True)
class SpanImage:
  """An image as base64 text inside a larger file."""

  path: pathlib.Path
  start: int
  size: int

  def read(self) -> bytes:
    """See `rows.ImageFile`."""
    try:
      with self.path.open("rb") as file:
        file.seek(self.start)
        return parquet.decode_base64(file.read(self.size))
    except OSError as error:
      raise RowError(f"{self.path}: {error.strerror}") from error


@dataclasses.dataclass(frozen=True)
class TsvRow:
  """One row.

  Attributes:
    fields: all columns but the image's.
    image: where it is.
    digest: of the image's text; equal for equal images.
  """

  fields: dict[str, str]
  image: SpanImage
  digest: str


def read(root: pathlib.Path, name: str) -> Iterator[TsvRow | RowError]:
  """The rows of a file, or what is wrong with them.

  Raises:
    UserError: the file cannot be read, leads out of the root, or has no
      column for images.
  """
  csv.field_size_limit(_MAX_ROW_BYTES)
  try:
    path = files.inside(root, name)
    with path.open("rb") as file:
      header = _header(path, file)
      while True:
        start = file.tell()
        first = file.readline(_MAX_ROW_BYTES)
        if not first:
          return
        if not first.strip():
          continue
        try:
          yield _row(path, file, start, first, header)
        except RowError as error:
          yield error
  except (RowError, OSError) as error:
    raise UserError(f"cannot read {root / name}: {error}") from error


def _header(path: pathlib.Path, file: BinaryIO) -> list[str]:
  names = _parse(file.readline(1 << 20).removeprefix(b"\xef\xbb\xbf"))
  if _IMAGE not in names or len(set(names)) < len(names):
    raise UserError(
      f"{path} has the columns {names[:20]!r:.200}, and not one"
      f" {_IMAGE!r} among different names: fetch it again"
    )
  return names


def _row(
  path: pathlib.Path,
  file: BinaryIO,
  start: int,
  first: bytes,
  header: list[str],
) -> TsvRow:
  """Reads a row that begins with a line, and the lines that belong to it."""
  after_first = file.tell()
  line, data = first, first
  for _ in range(_MAX_LINES):
    if data.count(b'"') % 2 == 0 or not line or len(data) > _MAX_ROW_BYTES:
      break
    line = file.readline(_MAX_ROW_BYTES)
    data += line
  try:
    fields, text = _cells(data, header)
  except RowError:
    # A stray quote must not swallow the rows behind it.
    file.seek(after_first)
    raise
  place = data.find(text)
  if not text or place < 0:
    raise RowError("there is no image")
  image = SpanImage(path, start + place, len(text))
  return TsvRow(fields, image, hashlib.sha256(text).hexdigest()[:16])


def _cells(data: bytes, header: list[str]) -> tuple[dict[str, str], bytes]:
  """The cells of a row by column, and apart from them the image's text.

  The image is nearly the whole row and needs no parser: it is taken out where
  it is the longest piece between tabs, and a short mark parsed in its stead.
  """
  line = data.rstrip(b"\r\n")
  longest = max(line.split(b"\t"), key=len)
  for text in (b"" if b'"' in longest else longest, b""):
    shown = line.replace(text, _MARK, 1) if text else line
    cells = _parse(shown)
    if len(cells) != len(header):
      raise RowError(f"{len(cells)} columns instead of {len(header)}")
    fields = dict(zip(header, cells))
    cell = fields.pop(_IMAGE).encode()
    if not text:
      return fields, cell
    if cell == _MARK:
      return fields, text
  raise AssertionError("the second pass returns")


def _parse(data: bytes) -> list[str]:
  try:
    text = data.decode()
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
  except (UnicodeDecodeError, csv.Error) as error:
    raise RowError(f"is no tab-separated text ({error})") from error
  if len(rows) != 1:
    raise RowError(f"{len(rows)} rows where one should be")
  return rows[0]
