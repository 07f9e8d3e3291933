"""What a config's data section comes to: how it was built, how it is asked.

Rows that were broken or left out when a set was built, and the order that its
options are shown in, are part of every score: they stand in its manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from lfpc_jax.data import manual, registry


@dataclasses.dataclass(frozen=True)
class Described:
  """One data set of a config.

  Attributes:
    name, split: which.
    order: of the options, 'stored' or 'shuffled'.
    seed: of 'shuffled'; None where they are stored.
    first_is_right: the order gives the right option away: always the first.
    rows: that were built; None for scenes, which are drawn.
    published: rows of the published split, where that is known.
    broken, left_out: rows that the build did not take.
    wanted: questions that `data.mix` asks for; 0 for all.
  """

  name: str
  split: str
  order: str
  seed: int | None
  first_is_right: bool
  rows: int | None = None
  published: int | None = None
  broken: int = 0
  left_out: int = 0
  wanted: int = 0

  @property
  def missing(self) -> str:
    """A sentence about rows that are not there, or ''."""
    few = None not in (self.rows, self.published) and self.rows < self.published
    if not (few or self.broken or self.left_out):
      return ""
    of = f" of {self.published:,} published" if self.published else ""
    return (
      f"{self.name}, split {self.split}, has {self.rows:,}{of} rows: its build "
      f"found {self.broken:,} broken and left out {self.left_out:,}."
    )

  @property
  def short(self) -> str:
    """A sentence about a mix that cannot be had, or ''."""
    if self.rows is None or self.rows >= self.wanted:
      return ""
    return (
      f"data.mix asks for {self.wanted:,} questions of {self.name}, split "
      f"{self.split}: all {self.rows:,} are taken."
    )

  @property
  def asked(self) -> str:
    """A sentence about the order of the options."""
    if self.order == "shuffled":
      return f"Options are shuffled by seed {self.seed}."
    if self.first_is_right:
      return "Options are in their stored order: the right one is always A."
    return "Options are in their stored order."


def describe(data: Mapping[str, Any], split: str) -> list[Described]:
  """Each data set of a config's data section, built already.

  Args:
    data: see `registry.open_data`.
    split: the same.

  Raises:
    UserError: a data set cannot be read, or see `registry.parts`.
  """
  found = []
  sets = registry.parts(data["name"], split)
  for (name, part), wanted in zip(sets, registry.mix(data, len(sets))):
    order = registry.effective_order(data["option_order"], name, part)
    shuffled = order == "shuffled"
    found.append(
      Described(
        name=name,
        split=part,
        order=order,
        seed=data["option_seed"] if shuffled else None,
        first_is_right=registry.gives_away(name, part) and not shuffled,
        wanted=wanted,
        **({} if name == "scenes" else _built(data["dir"], name, part)),
      )
    )
  return found


def notes(data: Mapping[str, Any], split: str) -> list[str]:
  """Sentences about what is not there, as `describe` raises."""
  sets = describe(data, split)
  return [x for one in sets for x in (one.missing, one.short) if x]


def _built(data_dir: str, name: str, split: str) -> dict[str, int | None]:
  """What the build of a published data set says of a split."""
  source = registry.SOURCES[name]
  info = manual.open_builder(data_dir, source).info
  metadata = info.metadata or {}
  # A set of an earlier build knows the sums over its splits alone.
  counts = metadata.get("splits", {}).get(split, metadata)
  return {
    "rows": info.splits[split].num_examples,
    "published": source.published.get(split),
    "broken": counts.get("broken", 0),
    "left_out": counts.get("left_out", 0),
  }
