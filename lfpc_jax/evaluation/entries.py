"""What an evaluation has found so far, batch by batch, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

from lfpc_jax.evaluation.items import Item, unpack_item
from lfpc_jax.report.records import (
  RolloutRecord,
  pack_record,
  unpack_record,
)


@dataclasses.dataclass(frozen=True)
class Entry:
  """What a batch of questions gave at one budget, with all probes.

  Attributes:
    step: which batch.
    budget: visual tokens of the global view.
    rows: outcomes, each with its question's number.
    records: rollouts to look at, each with its question's number.
    seconds: of the questions without probes.
    compiled: these include the compilation of the programs.
    waited: seconds that the batch was waited for, at its first budget.
  """

  step: int
  budget: int
  rows: list[tuple[int, Item]]
  records: list[tuple[int, RolloutRecord]]
  seconds: float
  compiled: bool
  waited: float = 0.0

  @property
  def questions(self) -> int:
    """How many questions the batch has."""
    return len({number for number, _ in self.rows})


def pack(entry: Entry) -> dict[str, Any]:
  """The entry as plain values."""
  return vars(entry) | {
    "rows": [(number, dataclasses.asdict(row)) for number, row in entry.rows],
    "records": [(number, _pack(record)) for number, record in entry.records],
  }


def unpack(values: Mapping[str, Any]) -> Entry:
  """The inverse of `pack`."""
  changes = {
    "rows": [(number, unpack_item(row)) for number, row in values["rows"]],
    "records": [(number, _unpack(*x)) for number, x in values["records"]],
  }
  return Entry(**{**values, **changes})


def merge(mine: Entry, packed: Iterable[Mapping[str, Any]]) -> Entry:
  """One process's entry, with what those of all processes hold.

  Processes with the same share of the questions have found the same.
  """
  found = [unpack(values) for values in packed]
  rows = [row for entry in found for row in entry.rows]
  records = [record for entry in found for record in entry.records]
  rows = {(number, row.probe): (number, row) for number, row in rows}
  return dataclasses.replace(
    mine, rows=list(rows.values()), records=list(dict(records).items())
  )


def _pack(record: RolloutRecord) -> tuple[dict[str, Any], dict[str, str]]:
  row, images = pack_record(record)
  return row, {k: base64.b64encode(x).decode() for k, x in images.items()}


def _unpack(row: dict[str, Any], images: dict[str, str]) -> RolloutRecord:
  return unpack_record(row, {k: base64.b64decode(x) for k, x in images.items()})
