"""What an evaluation found, from its batches to its files."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

from lfpc_jax import files
from lfpc_jax.evaluation import items as items_lib
from lfpc_jax.evaluation import probe_results
from lfpc_jax.evaluation.entries import Entry
from lfpc_jax.evaluation.items import Item
from lfpc_jax.report.records import RolloutRecord, save_records
from lfpc_jax.rollout.probes import Probe


@dataclasses.dataclass
class Evaluation:
  """What an evaluation found.

  Attributes:
    rows: one for each budget, probe and question, in this order.
    records: rollouts to look at, without probes.
    seconds: per question without probes, by budget; batches that compile are
      left out unless all do.
    compile_seconds: of those batches beyond the others, by budget.
    data_wait_seconds: that batches were waited for, all together; in no other
      time.
  """

  rows: list[Item]
  records: list[RolloutRecord]
  seconds: dict[int, float]
  compile_seconds: dict[int, float]
  data_wait_seconds: float = 0.0

  def save(self, folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Writes items, probes, records (.jsonl) and, last, evaluation.json."""
    folder.mkdir(parents=True, exist_ok=True)
    # What says that the folder is whole must not outlive what it speaks of.
    (folder / "evaluation.json").unlink(missing_ok=True)
    items_lib.save_items(folder / "items.jsonl", self.rows)
    found = probe_results.measure(manifest["policy"], self.rows)
    probe_results.save(folder / "probes.jsonl", found)
    save_records(folder / "records.jsonl", self.records)
    content = manifest | {
      "seconds_per_question": self.seconds,
      "compile_seconds": self.compile_seconds,
      "data_wait_seconds": self.data_wait_seconds,
    }
    text = json.dumps(content, indent=2) + "\n"
    files.atomic_write(folder / "evaluation.json", text.encode())


def join(
  budgets: Sequence[int], probes: Sequence[Probe], entries: Sequence[Entry]
) -> Evaluation:
  """All that was found: by budget, by probe, by question."""
  names = [probe.name.lower() for probe in probes]
  rows = {
    (budgets.index(row.budget), names.index(row.probe), number): row
    for entry in entries
    for number, row in entry.rows
  }
  records = {
    (budgets.index(entry.budget), number): record
    for entry in entries
    for number, record in entry.records
  }
  seconds, compile_seconds = {}, {}
  for budget in budgets:
    seconds[budget], compile_seconds[budget] = _times(
      [entry for entry in entries if entry.budget == budget]
    )
  return Evaluation(
    [rows[place] for place in sorted(rows)],
    [records[place] for place in sorted(records)],
    seconds,
    compile_seconds,
    sum(entry.waited for entry in entries),
  )


def _times(entries: Sequence[Entry]) -> tuple[float, float]:
  """Seconds per question of one budget, and those that compilation took."""
  steady = [entry for entry in entries if not entry.compiled] or entries
  per_question = sum(e.seconds for e in steady) / sum(
    e.questions for e in steady
  )
  compiling = sum(
    max(0.0, e.seconds - per_question * e.questions)
    for e in entries
    if e.compiled
  )
  return per_question, compiling
