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

from lfpc_jax import parallel
from lfpc_jax.ahead import checking, chips, layouts, search
from lfpc_jax.ahead.checking import Outcome, Subject
from lfpc_jax.errors import UserError
from lfpc_jax.rl import trainer


def bounds(outcome: Outcome, topology: chips.Topology) -> dict[str, float]:
  """Seconds that each resource alone would need; the largest one binds.

  Compute and weights by formula; collectives by the bytes of their results
  over all links of a chip, those in loops of unknown length once a step; what
  goes to other slices at the rate of `chips.BETWEEN_SLICES`.
  """
  chip, number = topology.chip, len(topology.devices)
  work = outcome.program.work
  moved, sent = (
    sum(c.bytes * c.times for c in outcome.collectives if c.leaves == leaves)
    for leaves in (False, True)
  )
  return {
    "compute": work.flops / (number * chip.flops),
    "memory": work.reads / (number * chip.bandwidth),
    "network": moved / chip.links,
    "slices": sent / chips.BETWEEN_SLICES,
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
    "code",
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
      for kind in (
        "used",
        "arguments",
        "results",
        "temporary",
        "code",
        "held",
      )
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


def refusal_table(outcomes: list[Outcome]) -> rich.table.Table:
  """A row for each of the largest allocations that the compiler lists."""
  table = rich.table.Table(title="largest allocations of what is refused")
  for name in ("program", "GiB", "shape", "made by"):
    table.add_column(name, justify="right" if name == "GiB" else "left")
  for outcome in outcomes:
    for one in outcome.largest:
      table.add_row(
        outcome.program.name,
        f"{one.bytes / 2**30:.2f}",
        re.sub(r"\{[^{}]*\}", "", one.shape),
        one.operator,
      )
  return table


def divided(about: Subject, topology: chips.Topology) -> Subject:
  """The config as it is, or laid out anew where its slices do not divide.

  Raises:
    UserError: they do not, and there is no proposal for such devices.
  """
  config = about.config
  with parallel.configured(config.mesh, topology.devices, absent=True):
    try:
      trainer.check_slices(config)
      return about
    except UserError as error:
      reason = str(error)
  found = None
  if topology.slices == 1 and tuple(config.mesh.axes) == layouts.AXES:
    step = layouts.make_step(config, about.agent, about.learner)
    number = len(topology.devices)
    found = search.on_slice(step, topology.name, topology.chip, number)
  if found is None:
    raise UserError(f"{reason}; --propose says what divides over a slice")
  print(f"{reason}. Compiled as --propose has it: {found.layout.flags()}")
  return checking.laid_out(about, found.layout)


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
  about = divided(checking.subject(config, size), topology)
  # What is compiled without a device cannot be read back from the cache.
  jax.config.update("jax_enable_compilation_cache", False)
  outcomes = []
  for outcome, text in checking.check(about, topology, bool(dump), only):
    outcomes.append(outcome)
    if dump:
      _write(dump, outcome.program.name, text)
  show(outcomes, topology)
  return all(outcome.fits for outcome in outcomes)


def show(outcomes: list[Outcome], topology: chips.Topology) -> None:
  """Prints the tables."""
  # A log file has no width of its own.
  width = None if sys.stdout.isatty() else 140
  console = rich.console.Console(width=width)
  console.print(memory_table(outcomes, topology))
  if any(outcome.collectives for outcome in outcomes):
    console.print(collective_table(outcomes))
  if any(outcome.largest for outcome in outcomes):
    console.print(refusal_table(outcomes))
  if topology.slices > 1:
    console.print(
      f"{topology.slices} slices: what one device sends to the others is taken "
      f"to go at {chips.BETWEEN_SLICES / 1e9:g} GB/s",
      soft_wrap=True,
    )


def _write(folder: str, name: str, text: str) -> None:
  directory = pathlib.Path(folder)
  directory.mkdir(parents=True, exist_ok=True)
  name = name.replace(" ", "_").replace(",", "")
  (directory / f"{name}.txt").write_text(text)
