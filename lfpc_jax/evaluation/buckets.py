"""Batches of questions whose originals are of about one size.

A batch pads its originals to one capacity, and each capacity is a program of
its own. So a benchmark of mixed sizes is cut into a handful of buckets: of
each side the largest, half of it, and a quarter. Questions about one picture,
such as HR-Bench's four rotations, are put side by side, so that the picture is
decoded, moved to the devices and encoded once for them.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import concurrent.futures
import dataclasses
from typing import Protocol

from lfpc_jax.data.examples import Example

_HALVINGS = 3  # sides of a capacity; at most nine buckets
_THREADS = 4

Size = tuple[int, int]  # (height, width)


class Sized(Protocol):
  """Examples that know their images' sizes without decoding them."""

  def __len__(self) -> int: ...

  def size(self, index: int) -> Size:
    """(height, width) of an example's original."""

  def words(self, index: int) -> Example:
    """An example without its image."""


@dataclasses.dataclass(frozen=True)
class Part:
  """The questions of one batch.

  Attributes:
    numbers: which of all questions; 1 to the batch's size of them.
    capacity: (height, width) that their originals are padded to.
    share: so many of them in a row have one original.
  """

  numbers: tuple[int, ...]
  capacity: Size
  share: int = 1

  def filled(self, batch: int) -> tuple[int, ...]:
    """The numbers, the first ones again up to the batch's size."""
    return tuple(self.numbers[k % len(self.numbers)] for k in range(batch))


def read_sizes(source: Sized) -> list[Size]:
  """The size of each example's original, in order."""
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
    return list(threads.map(source.size, range(len(source))))


def read_images(source: Sized) -> list[str]:
  """What tells each example's original from the others; '' where unknown."""
  found = map(source.words, range(len(source)))
  return [e.image_id and f"{e.source}/{e.image_id}" for e in found]


def cut(
  sizes: Sequence[Size],
  largest: Size,
  batch: int,
  images: Sequence[str] = (),
  parts: int = 1,
) -> list[Part]:
  """Cuts questions into batches of one capacity each.

  The capacity that holds all is first, so that what the devices have no room
  for fails at once. A bucket that fills no batch is joined to that one: a
  program more would cost more than the padding.

  Args:
    sizes: of the originals.
    largest: the capacity that none may exceed; one that does is put into the
      largest bucket, and refused when it is packed.
    batch: questions at a time.
    images: equal for questions about one picture, '' where unknown; () if
      none are known to share one.
    parts: that the devices split a batch into; questions about one picture
      stay in one of them.
  """
  capacities = [_capacity(size, largest) for size in sizes]
  whole = tuple(max(sides) for sides in zip(*capacities))
  members = collections.Counter(capacities)
  buckets: dict[Size, list[int]] = {whole: []}
  for number, capacity in enumerate(capacities):
    full = members[capacity] >= batch
    buckets.setdefault(capacity if full else whole, []).append(number)
  return [
    Part(tuple(numbers[k : k + batch]), capacity, share)
    for capacity, bucket in buckets.items()
    for share, numbers in _by_share(bucket, images, batch, parts)
    for k in range(0, len(numbers), batch)
  ]


def unshared(images: Sequence[str], batch: int, parts: int = 1) -> str:
  """A line about pictures that a batch of this size cannot share, or ''.

  Args:
    images: as in `cut`.
    batch: the same.
    parts: the same.
  """
  users = collections.Counter(filter(None, images))
  shares = collections.Counter(n for n in users.values() if n > 1)
  ((share, pictures),) = shares.most_common(1) or [(1, 0)]
  if not batch % share and not batch // share % parts:
    return ""
  many = f" on {parts} parts of the mesh" if parts > 1 else ""
  return (
    f"{pictures:,} pictures have {share} questions each, and eval.batch="
    f"{batch}{many} cannot keep them together: each picture is decoded and "
    f"encoded {share} times; give a multiple of {share * parts}"
  )


def _by_share(
  numbers: Sequence[int], images: Sequence[str], batch: int, parts: int
) -> list[tuple[int, list[int]]]:
  """Those that share pictures, side by side, and the others.

  All that share do so by the same number, and they fill a batch or are all.
  """
  pictures: dict[str, list[int]] = {}
  for number in numbers:
    name = images[number] if images else ""
    pictures.setdefault(name or f"/{number}", []).append(number)
  rows = collections.Counter()
  for users in pictures.values():
    share = len(users)
    if share > 1 and batch % share == 0 and batch // share % parts == 0:
      rows[share] += share
  ((share, shared),) = rows.most_common(1) or [(1, 0)]
  if share == 1 or shared < min(batch, len(numbers)):
    return [(1, list(numbers))]
  alike = [
    x for users in pictures.values() if len(users) == share for x in users
  ]
  rest = sorted(set(numbers) - set(alike))
  return [(share, alike)] + ([(1, rest)] if rest else [])


def _capacity(size: Size, largest: Size) -> Size:
  return tuple(map(_side, size, largest))


def _side(side: int, largest: int) -> int:
  """The smallest of largest, largest / 2, .. that holds a side."""
  halves = (-(-largest // 2**k) for k in reversed(range(_HALVINGS)))
  return next((half for half in halves if half >= side), largest)
