"""Batches of questions whose originals are of about one size.

A batch pads its originals to one capacity, and each capacity is a program of
its own. So a benchmark of mixed sizes is cut into a handful of buckets: of
each side the largest, half of it, and a quarter.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import concurrent.futures
import dataclasses
from typing import Protocol

_HALVINGS = 3  # sides of a capacity; at most nine buckets
_THREADS = 4

Size = tuple[int, int]  # (height, width)


class Sized(Protocol):
  """Examples that know their images' sizes without decoding them."""

  def __len__(self) -> int: ...

  def size(self, index: int) -> Size:
    """(height, width) of an example's original."""


@dataclasses.dataclass(frozen=True)
class Part:
  """The questions of one batch.

  Attributes:
    numbers: which of all questions, rising; 1 to the batch's size of them.
    capacity: (height, width) that their originals are padded to.
  """

  numbers: tuple[int, ...]
  capacity: Size

  def filled(self, batch: int) -> tuple[int, ...]:
    """The numbers, the first ones again up to the batch's size."""
    return tuple(self.numbers[k % len(self.numbers)] for k in range(batch))


def read_sizes(source: Sized) -> list[Size]:
  """The size of each example's original, in order."""
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
    return list(threads.map(source.size, range(len(source))))


def cut(sizes: Sequence[Size], largest: Size, batch: int) -> list[Part]:
  """Cuts questions into batches of one capacity each.

  The capacity that holds all is first, so that what the devices have no room
  for fails at once. A bucket that fills no batch is joined to that one: a
  program more would cost more than the padding.

  Args:
    sizes: of the originals.
    largest: the capacity that none may exceed; one that does is put into the
      largest bucket, and refused when it is packed.
    batch: questions at a time.
  """
  capacities = [_capacity(size, largest) for size in sizes]
  whole = tuple(max(sides) for sides in zip(*capacities))
  members = collections.Counter(capacities)
  buckets: dict[Size, list[int]] = {whole: []}
  for number, capacity in enumerate(capacities):
    full = members[capacity] >= batch
    buckets.setdefault(capacity if full else whole, []).append(number)
  return [
    Part(tuple(numbers[k : k + batch]), capacity)
    for capacity, numbers in buckets.items()
    for k in range(0, len(numbers), batch)
  ]


def _capacity(size: Size, largest: Size) -> Size:
  return tuple(map(_side, size, largest))


def _side(side: int, largest: int) -> int:
  """The smallest of largest, largest / 2, .. that holds a side."""
  halves = (-(-largest // 2**k) for k in reversed(range(_HALVINGS)))
  return next((half for half in halves if half >= side), largest)
