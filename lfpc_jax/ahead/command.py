"""The compile_check command: compiles, measures, prints."""

from __future__ import annotations

from collections import defaultdict
import pathlib
import re
import sys
from typing import Any

import jax
import rich.console
import rich.table

from lfpc_jax.ahead import checking, chips
from lfpc_jax.ahead.checking import Outcome


def bounds(outcome: Outcome, topology: chips.Topology) -> dict[str, float]:
  """Seconds that each resource alone would need; the largest one binds.

  Compute and weights by formula; collectives by the bytes of their results
  over all links of a chip, those in loops of unknown length once a step.
  """
  chip, number = topology.chip, len(topology.devices)
  work = outcome.program.work
  moved = sum(c.bytes * c.times for c in outcome.collectives)
  return {
    "compute": work.flops / (number * chip.flops),
    "memory": work.reads / (number * chip.bandwidth),
    "network": moved / chip.links,
  }


def memory_table(outcomes: list[Outcome], topology) -> rich.table.Table:
  """A row for each program: what it needs of one device."""
  limit = topology.chip.memory / 2**30
  table = rich.table.Table(
    title=f"{topology.name}: {len(topology.devices)} devices of "
    f"{limit:g} GiB; GiB on one device"
  )
  for name in ("program", "fits", "used", "arguments", "results"):
    table.add_column(name, justify="left" if name == "program" else "right")
  for name in (
    "temporary",
    "held",
    "PFLOP",
    "at best",
    "bound by",
    "compiled in",
  ):
    table.add_column(name, justify="right")
  for outcome in outcomes:
    parts = [
      f"{outcome.memory[kind] / 2**30:.2f}" if kind in outcome.memory else "-"
      for kind in ("used", "arguments", "results", "temporary", "held")
    ]
    times = bounds(outcome, topology)
    worst = max(times, key=times.get)
    table.add_row(
      outcome.program.name,
      "yes" if outcome.fits else "NO",
      *parts,
      f"{outcome.program.work.flops / 1e15:.4g}",
      f"{times[worst]:.3g} s",
      worst,
      f"{outcome.seconds:.0f} s",
    )
  return table


def collective_table(outcomes: list[Outcome]) -> rich.table.Table:
  """A row for each program and kind of collective."""
  table = rich.table.Table(
    title="collectives, on one device; in loops that end when the data says "
    "so, of one step"
  )
  table.add_column("program")
  for name in ("kind", "number", "MiB", "in open loops, MiB", "largest"):
    table.add_column(name, justify="right")
  for outcome in outcomes:
    kinds = defaultdict(list)
    for found in outcome.collectives:
      kinds[found.kind].append(found)
    for kind, group in kinds.items():
      sums = [
        sum(c.bytes * c.times for c in group if c.open_loop == is_open)
        for is_open in (False, True)
      ]
      largest = max(group, key=lambda c: c.bytes)
      table.add_row(
        outcome.program.name,
        kind,
        str(sum(c.times for c in group)),
        *(f"{total / 2**20:,.1f}" for total in sums),
        re.sub(r"\{[^{}]*\}", "", largest.shape)[:40],
      )
  return table


def run(
  config: Any,
  name: str,
  slices: int = 1,
  size: str = "",
  dump: str | None = None,
  only: str = "",
) -> bool:
  """The command; tells whether everything fits."""
  topology = chips.find(name, slices)
  # What is compiled without a device cannot be read back from the cache.
  jax.config.update("jax_enable_compilation_cache", False)
  outcomes = []
  for outcome, text in checking.check(
    checking.subject(config, size), topology, bool(dump), only
  ):
    outcomes.append(outcome)
    if dump:
      _write(dump, outcome.program.name, text)
  show(outcomes, topology)
  return all(outcome.fits for outcome in outcomes)


def show(outcomes: list[Outcome], topology: chips.Topology) -> None:
  """Prints both tables."""
  # A log file has no width of its own.
  width = None if sys.stdout.isatty() else 140
  console = rich.console.Console(width=width)
  console.print(memory_table(outcomes, topology))
  if any(outcome.collectives for outcome in outcomes):
    console.print(collective_table(outcomes))


def _write(folder: str, name: str, text: str) -> None:
  directory = pathlib.Path(folder)
  directory.mkdir(parents=True, exist_ok=True)
  name = name.replace(" ", "_").replace(",", "")
  (directory / f"{name}.txt").write_text(text)
