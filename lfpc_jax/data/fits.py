"""Before a run begins: is there room for each of its pictures and prompts?

What finds no room in its arrays would end the run at the step that meets it,
hours later. A picture's size stands in its header, so nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import concurrent.futures
import dataclasses
import itertools
from typing import NamedTuple, Protocol

import numpy as np

from lfpc_jax.data.batches import Packer
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError

_THREADS = 4


class Outlined(Protocol):
  """Examples that know their words and sizes; see `loader.PromptSource`."""

  def words(self, index: int) -> Example:
    """An example without its image."""

  def size(self, index: int) -> tuple[int, int]:
    """(height, width) of an example's image."""


class Findings(NamedTuple):
  """What `find` says, by examples' numbers; processes can exchange it.

  Attributes:
    seen: those that were looked at.
    shrunk: those whose image is smaller than published.
    faults: (number, what is wrong) of those that have no room; the number is
      -1 for one that could not be read.
  """

  seen: Sequence[int]
  shrunk: Sequence[int]
  faults: Sequence[tuple[int, str]]


def outlines(source: Outlined, numbers: Iterable[int]) -> dict[int, Example]:
  """Examples whose images have their sizes, are black, and take no memory."""

  def outline(number: int) -> Example:
    black = np.broadcast_to(np.uint8(0), (*source.size(number), 3))
    return dataclasses.replace(source.words(number), image=black)

  numbers = sorted(set(map(int, numbers)))
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
    return dict(zip(numbers, threads.map(outline, numbers)))


def find(
  source: Outlined,
  packer: Packer,
  steps: Mapping[int, Sequence[int]],
  budgets: Callable[[int, Sequence[str]], Sequence[int]],
) -> Findings:
  """Which examples have no room; raises nothing, so that `settle` is reached.

  Args:
    source: the examples.
    packer: what will pack them.
    steps: the numbers of each step's examples.
    budgets: of views, by a step and its examples' ids.
  """
  asked: dict[tuple[int, int], None] = {}
  try:
    known = outlines(source, itertools.chain(*steps.values()))
    for step, numbers in steps.items():
      ids = [known[number].id for number in numbers]
      asked |= dict.fromkeys(zip(numbers, budgets(step, ids), strict=True))
  except UserError as error:
    return Findings([], [], [(-1, str(error))])
  faults: dict[int, str] = {}
  for number, budget in asked:
    try:
      packer.check(known[number], budget)
    except UserError as error:
      name, text = f"example {known[number].id}", str(error)
      faults.setdefault(number, text if name in text else f"{name}: {text}")
  shrunk = [number for number, example in known.items() if example.shrunk]
  return Findings(list(known), shrunk, sorted(faults.items()))


def settle(found: Iterable[Sequence]) -> str:
  """A line about images that are shrunk, or ''.

  Args:
    found: the findings of one process or of several, which may have looked at
      the same examples.

  Raises:
    UserError: an example has no room; it says how many have none.
  """
  parts = [Findings(*part) for part in found]
  total = len(set().union(*(part.seen for part in parts)))
  faults = dict(fault for part in parts for fault in part.faults)
  if faults:
    more = f"; {len(faults)} of {total:,} examples have no room"
    raise UserError(faults[min(faults)] + more * (len(faults) > 1))
  shrunk = len(set().union(*(part.shrunk for part in parts)))
  if not shrunk:
    return ""
  return (
    f"{shrunk:,} of {total:,} images are larger than data.image_capacity and "
    "shrunk to it"
  )
