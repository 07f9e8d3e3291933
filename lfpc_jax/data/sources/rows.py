"""What a reader yields: rows, and faults where a row cannot be used."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, Protocol

import numpy as np

from lfpc_jax.data import images
from lfpc_jax.errors import UserError
from lfpc_jax.rl import answers

# What to do about a broken row.
ON_ERROR = ("skip", "stop")

BROKEN = "broken"
LEFT_OUT = "left out"


class RowError(Exception):
  """A row cannot be used: `str` says why.

  Args:
    reason: what is wrong, with the value.
    kind: BROKEN, or LEFT_OUT for a sound row that does not fit, as a video.
  """

  def __init__(self, reason: str, kind: str = BROKEN):
    super().__init__(" ".join(reason.split()))
    self.kind = kind

  def at(self, where: str) -> Fault:
    """The fault of the row there."""
    return Fault(where, str(self), self.kind)


@dataclasses.dataclass(frozen=True)
class Fault:
  """A row that was not taken.

  Attributes:
    where: file and row.
    reason: what is wrong with it.
    kind: BROKEN or LEFT_OUT.
  """

  where: str
  reason: str
  kind: str = BROKEN


class ImageFile(Protocol):
  """Where an image's bytes are; nothing is read before `read`."""

  size: int
  """Bytes, or an estimate of them."""

  def read(self) -> bytes:
    """The encoded image.

    Raises:
      RowError: it is not there or cannot be read.
    """


@dataclasses.dataclass(frozen=True)
class Row:
  """A question about an image that has not been read yet.

  Attributes:
    id: unique within its split.
    where: file and row, for messages.
    image: its bytes, lazily.
    question: without options and without any instruction on the format.
    answer: the truth; with options, a letter or one of them.
    category: the kind of question.
    options: the choices in their stored order, or ().
    boxes: nested regions that hold the answer, the smallest first, as
      (x1, y1, x2, y2) in pixels of the upright image; or ().
    group: equal for questions that are scored together, as HR-Bench's four
      rotations; '' for none.
    variant: which one of its group it is.
    image_id: equal for rows that show the same image; '' where unknown.
  """

  id: str
  where: str
  image: ImageFile
  question: str
  answer: str
  category: str
  options: tuple[str, ...] = ()
  boxes: tuple[tuple[float, float, float, float], ...] = ()
  group: str = ""
  variant: str = ""
  image_id: str = ""

  def __post_init__(self):
    """Checks what can be checked without the image.

    Raises:
      RowError: the answer is none of the options, or boxes are not nested.
    """
    if self.options:
      try:
        answers.answer_index(self.answer, self.options)
      except UserError as error:
        raise RowError(str(error)) from error
    for inner, outer in zip(self.boxes, self.boxes[1:]):
      if not _inside(inner, outer):
        raise RowError(f"box {inner} is not inside the next one, {outer}")

  def load(
    self, *, max_pixels: int = images.MAX_PIXELS
  ) -> tuple[bytes, images.Picture, np.ndarray]:
    """Reads and decodes the image and fits the boxes to it.

    Returns:
      The image's bytes, the picture, and the boxes i32[n, 4] in pixels of the
      upright image: corners moved outward to whole pixels, then clipped.

    Raises:
      RowError: the image cannot be read or decoded, or a box is outside it.
    """
    data = self.image.read()
    try:
      picture = images.decode(data, max_pixels=max_pixels)
    except UserError as error:
      raise RowError(str(error)) from error
    return data, picture, _fit(self.boxes, picture.upright_size)


def attempt(
  where: str, make: Callable[..., Row], found: Any, *rest: Any
) -> Row | Fault:
  """The row `make(where, found, *rest)`, or why there is none.

  Args:
    where: file and row.
    make: raises a RowError, or a UserError about a file of this row alone.
    found: what the row is made of, or the error that was found in its stead.
    *rest: what else `make` takes.
  """
  try:
    if isinstance(found, RowError):
      raise found
    return make(where, found, *rest)
  except RowError as error:
    return error.at(where)
  except UserError as error:
    return RowError(str(error)).at(where)


def _inside(inner: Sequence[float], outer: Sequence[float]) -> bool:
  low = all(a >= b for a, b in zip(inner[:2], outer[:2]))
  return low and all(a <= b for a, b in zip(inner[2:], outer[2:]))


def _fit(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
  """Boxes i32[n, 4], clipped to an image of (height, width)."""
  exact = np.asarray(boxes, np.float64).reshape(-1, 4)
  limits = np.array([size[1], size[0], size[1], size[0]], np.float64)
  outward = np.concatenate(
    [np.floor(exact[:, :2]), np.ceil(exact[:, 2:])], axis=1
  )
  fitted = np.clip(outward, 0, limits).astype(np.int32)
  empty = (fitted[:, :2] >= fitted[:, 2:]).any(axis=1)
  if empty.any():
    box = tuple(exact[empty][0].tolist())
    raise RowError(
      f"box {box} lies outside its image of {size[0]} x {size[1]} pixels"
      " (height x width)"
    )
  return fitted


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set in its published layout.

  Attributes:
    name: as in `config.data.name`.
    instructions: what to fetch, and where to put it.
    splits: the splits whose files are below a root.
    read: rows and faults of a split, in stored order.
    published: the number of rows of a split, where it is known.
    md5: a file's published digest, where it is known.
  """

  name: str
  instructions: str
  splits: Callable[[pathlib.Path], tuple[str, ...]]
  read: Callable[[pathlib.Path, str], Iterator[Row | Fault]]
  published: Mapping[str, int] = dataclasses.field(default_factory=dict)
  md5: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def find_splits(self, root: pathlib.Path) -> tuple[str, ...]:
    """The splits below a root.

    Raises:
      UserError: there is no such folder, or no file of this data set in it.
    """
    if not root.is_dir():
      raise UserError(
        f"--dir={root}: no such folder. To get {self.name}: {self.instructions}"
      )
    found = self.splits(root)
    if not found:
      raise UserError(
        f"--dir={root} holds no file of {self.name}. {self.instructions}"
      )
    return found


class Ledger:
  """Keeps account of the rows that were not taken.

  Args:
    on_error: 'skip' lists a broken row, 'stop' raises at the first one.
  """

  def __init__(self, on_error: str = "skip"):
    if on_error not in ON_ERROR:
      raise UserError(f"on_error={on_error!r}: choose one of {ON_ERROR}")
    self.faults: list[Fault] = []
    self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
    self._on_error = on_error

  def add(self, fault: Fault, split: str = "") -> None:
    """Notes a fault of a split.

    Raises:
      UserError: the row is broken and `on_error` is 'stop'.
    """
    if fault.kind == BROKEN and self._on_error == "stop":
      raise UserError(
        f"{fault.where}: {fault.reason}. Correct the row, or skip and list"
        " such rows with on_error=skip"
      )
    self.faults.append(fault)
    self._counts[split, fault.kind] += 1

  def count(self, kind: str, split: str | None = None) -> int:
    """Number of faults of a kind, in one split or in all."""
    return sum(
      number
      for (where, what), number in self._counts.items()
      if what == kind and split in (None, where)
    )


def read_rows(
  source: Source, root: pathlib.Path, split: str, ledger: Ledger
) -> Iterator[Row]:
  """The usable rows of a split; the others go into the ledger.

  Images are not read. A row whose id came before is broken.
  """
  seen: set[str] = set()
  for row in source.read(root, split):
    if isinstance(row, Row) and row.id in seen:
      row = Fault(row.where, f"the id {row.id!r} came before")
    if isinstance(row, Fault):
      ledger.add(row, split)
      continue
    seen.add(row.id)
    yield row
