"""What is in a split of a data set, and what is wrong with it."""

from __future__ import annotations

import collections
from collections.abc import Iterable
import dataclasses
import pathlib
import string

import numpy as np

from lfpc_jax.data import images
from lfpc_jax.data.sources import rows as rows_lib
from lfpc_jax.image import views
from lfpc_jax.rl import answers

# Upper bounds of megapixels, and how such images are named.
_SIZES = (
  (0.25, "up to 0.25"),
  (1.0, "0.25 to 1"),
  (4.0, "1 to 4"),
  (16.0, "4 to 16"),
  (64.0, "16 to 64"),
  (float("inf"), "above 64"),
)
_FULL_TOKENS = 10**9  # more than any image has: no limit
_MANY = 8  # choice questions, before their letters are judged


@dataclasses.dataclass
class Survey:
  """Counts over the rows of a split.

  Attributes:
    source, split: of which data set.
    rows: usable ones.
    faults: the others.
    categories: rows by category.
    options: rows by number of options; 0 is an open question.
    boxes: rows by number of boxes.
    letters: choice questions by the right option's stored letter.
    replies: rows by answer, as text.
    sizes: images by the name of their size.
    treatments: images by what the decoder did to them.
    tokens: visual tokens of each image at full size.
    smallest, largest: (height, width), of fewest and of most pixels.
    box_shares: the smallest box's share of its image.
    groups: rows by group.
    equal: rows of which two options are the same.
    problems: what is wrong beyond single rows.
  """

  source: rows_lib.Source
  split: str
  rows: int = 0
  faults: list[rows_lib.Fault] = dataclasses.field(default_factory=list)
  categories: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  options: collections.Counter[int] = dataclasses.field(
    default_factory=collections.Counter
  )
  boxes: collections.Counter[int] = dataclasses.field(
    default_factory=collections.Counter
  )
  letters: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  replies: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  sizes: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  treatments: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  tokens: list[int] = dataclasses.field(default_factory=list)
  smallest: tuple[int, int] | None = None
  largest: tuple[int, int] | None = None
  box_shares: list[float] = dataclasses.field(default_factory=list)
  groups: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  equal: int = 0
  problems: list[str] = dataclasses.field(default_factory=list)

  def count(self, kind: str) -> int:
    """Number of faults of a kind."""
    return sum(fault.kind == kind for fault in self.faults)

  @property
  def total(self) -> int:
    """Rows that are there, usable or not."""
    return self.rows + len(self.faults)

  @property
  def published(self) -> int | None:
    """Rows that are published; None where that is not known."""
    return self.source.published.get(self.split)


def survey(
  source: rows_lib.Source,
  root: pathlib.Path,
  split: str,
  ledger: rows_lib.Ledger,
  *,
  decode: bool = True,
  max_pixels: int = images.MAX_PIXELS,
) -> Survey:
  """Reads a split from end to end.

  Args:
    source: the reader.
    root: the folder with the files.
    split: one of the source's splits there.
    ledger: takes the faults; its own may hold those of other splits.
    decode: whether images are decoded; sizes and broken images stay unknown
      otherwise.
    max_pixels: larger images are broken.

  Raises:
    UserError: a file cannot be read, or a row is broken and the ledger stops.
  """
  found = Survey(source, split)
  first = len(ledger.faults)
  asked: collections.Counter[tuple[str, ...]] = collections.Counter()
  unmatched, letters = 0, 0
  for row in rows_lib.read_rows(source, root, split, ledger):
    if decode:
      try:
        _, picture, boxes = row.load(max_pixels=max_pixels)
      except rows_lib.RowError as error:
        ledger.add(error.at(row.where), split)
        continue
      _count_picture(found, picture, boxes)
    _count_row(found, row)
    asked[row.question, row.image_id or row.id, *sorted(row.options)] += 1
    unmatched += not answers.matches(row.answer, row.answer, row.options)
    letters += not row.options and row.answer in set("ABCDEFGH")
  found.faults = ledger.faults[first:]
  found.problems = list(_problems(found, asked, unmatched, letters))
  return found


def _count_row(found: Survey, row: rows_lib.Row) -> None:
  found.rows += 1
  found.categories[row.category] += 1
  found.options[len(row.options)] += 1
  found.boxes[len(row.boxes)] += 1
  found.equal += len(set(row.options)) < len(row.options)
  if row.group:
    found.groups[row.group] += 1
  reply = row.answer
  if row.options:
    index = answers.answer_index(row.answer, row.options)
    found.letters[string.ascii_uppercase[index]] += 1
    reply = row.options[index]
  found.replies[reply] += 1


def _count_picture(
  found: Survey, picture: images.Picture, boxes: np.ndarray
) -> None:
  height, width = size = picture.upright_size
  area = height * width
  found.sizes[size_name(area)] += 1
  found.treatments.update(picture.treatments or ("none",))
  rows, cols = views.choose_grid(*picture.pixels.shape[:2], 1, _FULL_TOKENS)
  found.tokens.append(rows * cols)
  if found.smallest is None or area < found.smallest[0] * found.smallest[1]:
    found.smallest = size
  if found.largest is None or area > found.largest[0] * found.largest[1]:
    found.largest = size
  if len(boxes):
    x1, y1, x2, y2 = boxes[0].tolist()
    found.box_shares.append((x2 - x1) * (y2 - y1) / area)


def size_name(pixels: int) -> str:
  """The name of a size in `Survey.sizes`, in megapixels."""
  return next(name for limit, name in _SIZES if pixels <= limit * 1e6)


def size_names() -> tuple[str, ...]:
  """All of them, in rising order."""
  return tuple(name for _, name in _SIZES)


def _problems(
  found: Survey,
  asked: collections.Counter[tuple[str, ...]],
  unmatched: int,
  letters: int,
) -> Iterable[str]:
  if found.published not in (None, found.total):
    yield f"{found.total} rows, where {found.published} are published"
  choices = sum(found.letters.values())
  if choices >= _MANY and len(found.letters) == 1:
    yield (
      f"the right option is always {min(found.letters)}: shuffle them with"
      " data.option_order=shuffled"
    )
  odd = {g: n for g, n in found.groups.items() if n != 4}
  if odd:
    yield (
      f"{len(odd)} questions have not their four rotations, such as"
      f" {min(odd)} with {odd[min(odd)]}"
    )
  # A question's rotations show the same options, so a group counts once.
  often = 4 if found.groups else 1
  twice = sum(n > often for n in asked.values())
  if twice:
    yield f"{twice} questions are asked more than once of the same image"
  if unmatched:
    yield (
      f"{unmatched} answers are too long or have no letter or digit: no reply"
      " can match them"
    )
  if found.equal:
    yield (
      f"{found.equal} questions have two equal options: their text is no "
      "answer, a letter is"
    )
  if letters:
    yield (
      f"{letters} open questions have a letter for an answer: their options"
      " may stand in the question's text"
    )
