"""Published data sets by the name that `config.data.name` gives."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import os
import types
from typing import Any

from lfpc_jax.data import images, loader, manual, option_order
from lfpc_jax.data.examples import Example
from lfpc_jax.data.sources import (
  chain_of_focus,
  deep_eyes,
  folder,
  hr_bench,
  pixel_reasoner,
  visual_probe,
  vstar,
)
from lfpc_jax.errors import UserError

SOURCES = types.MappingProxyType(
  {
    source.name: source
    for source in (
      vstar.SOURCE,
      hr_bench.SOURCE_4K,
      hr_bench.SOURCE_8K,
      visual_probe.SOURCE,
      pixel_reasoner.SOURCE,
      chain_of_focus.SOURCE,
      deep_eyes.SOURCE,
      folder.SOURCE,
    )
  }
)

# What to do about images larger than data.image_capacity.
OVERSIZE = ("stop", "shrink")

# Splits whose right option is always stored at the same place.
_GIVEN_AWAY = frozenset({("vstar", "test")})


class Arranged(Sequence[Example]):
  """A source with the options of its questions in an order.

  Args:
    source: the examples.
    order: see `option_order.arrange`.
    seed: the same.
  """

  def __init__(self, source: loader.PromptSource, order: str, seed: int):
    self._source, self._order, self._seed = source, order, seed

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    return option_order.arrange(self._source[index], self._order, self._seed)

  def words(self, index: int) -> Example:
    """See `loader.PromptSource.words`."""
    example = self._source.words(index)
    return option_order.arrange(example, self._order, self._seed)

  def size(self, index: int) -> tuple[int, int]:
    """See `loader.PromptSource.size`."""
    return self._source.size(index)

  def image_digest(self, index: int) -> str:
    """See `loader.PromptSource.image_digest`."""
    return self._source.image_digest(index)


class Joined(Sequence[Example]):
  """Several sources, one after the other; ids begin with the source's name.

  Args:
    sources: at least one.
  """

  def __init__(self, sources: Sequence[Any]):
    self._sources = tuple(sources)
    self._ends = tuple(itertools.accumulate(map(len, self._sources)))

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> Example:
    source, place = self._find(index)
    return _with_name(source[place])

  def words(self, index: int) -> Example:
    """See `loader.PromptSource.words`."""
    source, place = self._find(index)
    return _with_name(source.words(place))

  def size(self, index: int) -> tuple[int, int]:
    """See `loader.PromptSource.size`."""
    source, place = self._find(index)
    return source.size(place)

  def image_digest(self, index: int) -> str:
    """See `loader.PromptSource.image_digest`."""
    source, place = self._find(index)
    return source.image_digest(place)

  def _find(self, index: int) -> tuple[Any, int]:
    if not 0 <= index < len(self):
      raise IndexError(f"Example {index} of {len(self)}.")
    part = bisect.bisect_right(self._ends, index)
    return self._sources[part], index - (self._ends[part - 1] if part else 0)


def _with_name(example: Example) -> Example:
  return dataclasses.replace(example, id=f"{example.source}/{example.id}")


def open_source(
  name: str,
  data_dir: str | os.PathLike[str],
  split: str,
  room: images.Size | None = None,
) -> loader.PromptSource:
  """Opens a split of a data set that has been built.

  Options keep their stored order. `room`: see `loader.PromptSource`.

  Raises:
    UserError: an unknown data set, one that has not been built, or a split
      that it has not.
  """
  if name not in SOURCES:
    raise UserError(
      f"data.name={name!r}: choose 'scenes' or one of {tuple(SOURCES)}"
    )
  builder = manual.open_builder(data_dir, SOURCES[name])
  remedy = (
    f"`{manual.build_command(data_dir, name)} --dir=DIR`."
    f" {SOURCES[name].instructions}"
  )
  return loader.open_built(builder, split, name, remedy, room)


def open_data(data: Mapping[str, Any], split: str) -> Sequence[Example]:
  """Opens what a config's data section names.

  Args:
    data: `name`, 'scenes' or one of `SOURCES`, or several joined by '+';
      `dir`, where data sets live; `difficulty`, of scenes; `option_order`,
      'stored', 'shuffled' by `option_seed`, or '' for the data set's own
      rule: V*Bench's own files are shuffled, as their right option is always
      the first, and all others keep their order; `oversize`, one of
      `OVERSIZE`, of images larger than `image_capacity`; `mix`, how many
      questions of each data set are drawn by `mix_seed`, 0 for all of it, or
      () for all of all. A set with fewer gives all that it has.
    split: of each data set; or one for each, joined by '+'.

  Raises:
    UserError: an unknown data set, one that has not been built, a split that
      it has not, an unknown order, another unknown word, or a mix of other
      sets.
  """
  order, seed = data["option_order"], data["option_seed"]
  if order and order not in option_order.ORDERS:
    raise UserError(
      f"data.option_order={order!r}: choose one of {option_order.ORDERS}, or"
      " leave it empty"
    )
  oversize = data.get("oversize", "stop")
  if oversize not in OVERSIZE:
    raise UserError(f"data.oversize={oversize!r}: choose one of {OVERSIZE}")
  room = tuple(data["image_capacity"]) if oversize == "shrink" else None
  opened = []
  sets = parts(data["name"], split)
  for (name, part), number in zip(sets, mix(data, len(sets))):
    if name == "scenes":
      source = loader.open_scenes(data["dir"], data["difficulty"], part, room)
    else:
      source = open_source(name, data["dir"], part, room)
    if number:
      source = loader.draw(source, number, data["mix_seed"])
    opened.append(Arranged(source, effective_order(order, name, part), seed))
  return opened[0] if len(opened) == 1 else Joined(opened)


def mix(data: Mapping[str, Any], sets: int) -> tuple[int, ...]:
  """How many questions of each of so many data sets are wanted; 0 for all.

  Raises:
    UserError: not one number for each, or a negative one.
  """
  numbers = tuple(data.get("mix", ())) or (0,) * sets
  if len(numbers) != sets or min(numbers) < 0:
    raise UserError(
      f"data.mix={numbers}: give one number >= 0 for each of the {sets} data "
      f"sets of data.name={data['name']!r}, 0 for all of it; or () for all"
    )
  return numbers


def parts(names: str, split: str) -> list[tuple[str, str]]:
  """The data sets of a `data.name`, each with its split.

  Raises:
    UserError: neither one split for all nor one for each.
  """
  found, splits = names.split("+"), split.split("+")
  if len(splits) == 1:
    splits = splits * len(found)
  if len(splits) != len(found):
    raise UserError(
      f"split {split!r} has {len(splits)} parts for the {len(found)} data sets"
      f" of data.name={names!r}: give one for all or one for each"
    )
  return list(zip(found, splits))


def gives_away(name: str, split: str) -> bool:
  """Whether the right option is always stored at the same place."""
  return (name, split) in _GIVEN_AWAY


def effective_order(order: str, name: str, split: str) -> str:
  """The order that options are shown in, by `data.option_order`.

  'stored' or 'shuffled'; where it is '', by the data set's own rule.
  """
  return order or ("shuffled" if gives_away(name, split) else "stored")
