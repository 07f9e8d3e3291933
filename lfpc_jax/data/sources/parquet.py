"""Parquet files: rows without their images, and the images when asked for.

A published file may hold two gigabytes in a single row group. So text columns
are read first, alone; image columns are read later, a few rows at a time, by a
cursor that goes forward and starts anew only when asked to go back. What must
be in memory at one time is a page, which may hold a thousand images, packed and
unpacked.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib
import threading
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lfpc_jax.data.sources import files
from lfpc_jax.data.sources.rows import LEFT_OUT, RowError
from lfpc_jax.errors import UserError

_TEXT_ROWS = 256
_IMAGE_ROWS = 4
_FAILURES = (pa.ArrowException, OSError, ValueError)


class Table:
  """A Parquet file below a root.

  Raises:
    UserError: it is no Parquet file, or leads out of the root.
  """

  def __init__(self, root: pathlib.Path, name: str):
    try:
      self.path = files.inside(root, name)
      # Neither option reads a whole column chunk ahead.
      self._file = pq.ParquetFile(
        self.path, pre_buffer=False, buffer_size=1 << 20
      )
      self.columns = tuple(self._file.schema_arrow.names)
    except (RowError, *_FAILURES) as error:
      text = " ".join(str(error).split())
      raise UserError(
        f"{root / name} is no Parquet file that can be read ({text}): fetch it"
        " again"
      ) from error
    self.root = root

  def rows(self, *without: str) -> Iterator[dict[str, Any]]:
    """The rows, less the named columns.

    Raises:
      UserError: a part of the file is damaged.
    """
    columns = [c for c in self.columns if c not in without]
    try:
      for batch in self._file.iter_batches(
        _TEXT_ROWS, columns=columns, use_threads=False
      ):
        yield from batch.to_pylist()
    except _FAILURES as error:
      text = " ".join(str(error).split())
      raise UserError(
        f"{self.path} is damaged ({text}): fetch it again"
      ) from error

  def column(self, name: str) -> Column:
    """A cursor over one column.

    Raises:
      UserError: there is no such column.
    """
    if name not in self.columns:
      raise UserError(
        f"{self.path} has no column {name!r}, but {self.columns}: fetch it"
        " again"
      )
    return Column(self, self._file, name)


class Column:
  """Cells of one column by row; cheap in rising order.

  Args:
    table: where it is from.
    file: its open file.
    name: of the column.
  """

  def __init__(self, table: Table, file: pq.ParquetFile, name: str):
    self.root = table.root
    self._file = file
    self._name = name
    self._lock = threading.Lock()
    self._failure = ""
    self._batches: Iterator[pa.RecordBatch] = iter(())
    self._batch: list[Any] = []
    self._first = 0  # row of the first cell of the batch
    self._ends = []
    end = 0
    for group in range(file.metadata.num_row_groups):
      end += file.metadata.row_group(group).num_rows
      self._ends.append(end)
    self._group = -1

  def mean_bytes(self) -> int:
    """A cell's size in the file, on average."""
    data = self._file.metadata
    total = sum(
      data.row_group(g).column(c).total_compressed_size
      for g in range(data.num_row_groups)
      for c in range(data.num_columns)
      if data.schema.column(c).path.split(".")[0] == self._name
    )
    return total // max(data.num_rows, 1)

  def __getitem__(self, row: int) -> Any:
    """The cell of a row.

    Raises:
      RowError: the file is damaged; so are then all its cells.
    """
    with self._lock:
      if self._failure:
        raise RowError(self._failure)
      try:
        return self._seek(row)
      except _FAILURES as error:
        self._failure = f"the column {self._name!r} is damaged ({error})"
        raise RowError(self._failure) from error

  def _seek(self, row: int) -> Any:
    group = next(g for g, end in enumerate(self._ends) if row < end)
    if row < self._first or group != self._group:
      self._first = self._ends[group - 1] if group else 0
      self._group, self._batch = group, []
      self._batches = self._file.iter_batches(
        _IMAGE_ROWS, [group], [self._name], use_threads=False
      )
    while row >= self._first + len(self._batch):
      self._first += len(self._batch)
      self._batch = next(self._batches).column(0).to_pylist()
    return self._batch[row - self._first]


@dataclasses.dataclass(frozen=True)
class CellImage:
  """An image in a Parquet file, or in the file that a cell names.

  Attributes:
    column: of images.
    row: its row.
    size: bytes, estimated.
    folders: where a path in the cell is looked for, below the root.
    base64_text: whether a text is base64, rather than a path.
  """

  column: Column
  row: int
  size: int
  folders: tuple[str, ...] = ()
  base64_text: bool = False

  def read(self) -> bytes:
    """See `rows.ImageFile`."""
    return self._bytes(self.column[self.row])

  def _bytes(self, cell: Any) -> bytes:
    if isinstance(cell, Mapping):
      cell = next((v for v in map(cell.get, _KEYS) if v), None)
    elif isinstance(cell, Sequence) and not isinstance(cell, str | bytes):
      return self._bytes(only(cell))
    if isinstance(cell, bytes):
      return cell
    if not isinstance(cell, str):
      raise RowError("there is no image")
    if self.base64_text:
      return decode_base64(cell)
    return files.find_image(self.column.root, cell, *self.folders).read()


_KEYS = ("bytes", "path", "image")


def only(found: Sequence[Any]) -> Any:
  """The single image of a row.

  Raises:
    RowError: there are none, or several, which leave the row out: a policy is
      shown one image.
  """
  if not found:
    raise RowError("there is no image", LEFT_OUT)
  if len(found) > 1:
    raise RowError(f"{len(found)} images", LEFT_OUT)
  return found[0]


def decode_base64(cell: str | bytes) -> bytes:
  """Bytes of base64 text, with or without a `data:` prefix.

  Raises:
    RowError: it is no base64.
  """
  text = cell if isinstance(cell, bytes) else cell.encode("ascii", "replace")
  if text[:5] == b"data:":
    text = text.partition(b",")[2]
  try:
    data = base64.b64decode(b"".join(text.split()), validate=True)
  except binascii.Error as error:
    raise RowError(f"the image is no base64 ({error})") from error
  if not data:
    raise RowError("there is no image")
  return data
