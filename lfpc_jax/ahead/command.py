"""The compile_check command: compiles, measures, prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
import dataclasses
import pathlib
import re
import sys
import time
from typing import Any

import jax
import ml_collections
import rich.console
import rich.table

from lfpc_jax import agent as agent_lib
from lfpc_jax import parallel
from lfpc_jax.ahead import chips, hlo, programs
from lfpc_jax.ahead.hlo import Collective
from lfpc_jax.data import gap as gap_lib
from lfpc_jax.errors import UserError
from lfpc_jax.models import config as model_config
from lfpc_jax.rl import trainer

# The compiler says it in two ways.
_FULL = re.compile(
  r"(?:Used |temporaries \()([\d.]+)([KMGT])(?: of|\) exceeds)", re.IGNORECASE
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass
class Outcome:
  """What the compiler says of a program.

  Attributes:
    program: which one.
    seconds: that compiling took.
    memory: bytes on one device by kind; only 'used' where it does not fit.
    collectives: of the compiled program; none where it does not fit.
    fits: whether it fits into the device's memory.
  """

  program: programs.Program
  seconds: float
  memory: dict[str, float]
  collectives: list[Collective]
  fits: bool

  @property
  def used(self) -> float:
    """Bytes on one device."""
    return self.memory["used"]


def check(
  config: Any,
  topology: chips.Topology,
  size: str = "",
  text: bool = False,
  only: str = "",
) -> Iterator[tuple[Outcome, str]]:
  """Compiles the programs of training and evaluation for a topology.

  Args:
    config: a whole config, see configs/.
    topology: the devices.
    size: '7b' and so on: a published policy's sizes in place of those of
      config.policy.path, with the shipped tokeniser.
    text: whether to keep the programs' text.
    only: compile the programs whose name begins so.

  Yields:
    For each program its outcome, and its text or ''.

  Raises:
    UserError: the config, mesh or sizes make no program.
  """
  sizes = None
  if size:
    sizes = model_config.PUBLISHED.get(size)
    if sizes is None:
      raise UserError(
        f"--size={size}: the published sizes are "
        f"{', '.join(model_config.PUBLISHED)}"
      )
    config = ml_collections.ConfigDict(config)
    config.policy.path = config.policy.path or "tiny_qwen"
  # Arrays of the agent are made here, where there is a device to hold them.
  capacity = gap_lib.view_capacity(config.gap)
  agent = agent_lib.make_agent(config, capacity, sizes)
  learner = trainer.make_learner(config, agent, capacity)
  judges = [
    agent_lib.make_agent(
      config, budget, sizes, group=1, temperature=config.eval.temperature
    )
    for budget in config.eval.budgets
  ]
  with parallel.configured(config.mesh, topology.devices, absent=True):
    trainer.check_slices(config)
    todo = programs.training(
      agent, learner, config.rollout.prompts, config.rollout.waves
    )
    for judge in judges:
      todo += programs.evaluation(judge, config.eval.batch)
    for program in todo:
      if program.name.startswith(only):
        print(f"compiling {program.name}", file=sys.stderr, flush=True)
        yield compile_one(program, topology, text)


def compile_one(
  program: programs.Program, topology: chips.Topology, text: bool = False
) -> tuple[Outcome, str]:
  """Compiles one program; a full memory is an outcome, no error."""
  began = time.perf_counter()
  lowered = program.function.lower(*program.arguments)
  try:
    compiled = lowered.compile()
  except Exception as error:
    full = _FULL.search(str(error))
    if full is None:
      raise
    used = float(full.group(1)) * _UNITS[full.group(2).upper()]
    seconds = time.perf_counter() - began
    return Outcome(program, seconds, {"used": used}, [], False), str(error)
  seconds = time.perf_counter() - began
  stats = compiled.memory_analysis()
  memory = {
    "arguments": stats.argument_size_in_bytes,
    "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
    "temporary": stats.temp_size_in_bytes,
    "code": stats.generated_code_size_in_bytes,
  }
  memory["used"] = sum(memory.values())
  code = compiled.as_text()
  fits = memory["used"] <= topology.chip.memory
  outcome = Outcome(program, seconds, memory, hlo.collectives(code), fits)
  return outcome, code if text else ""


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
  for name in ("temporary", "PFLOP", "at best", "bound by", "compiled in"):
    table.add_column(name, justify="right")
  for outcome in outcomes:
    parts = [
      f"{outcome.memory[kind] / 2**30:.2f}" if kind in outcome.memory else "-"
      for kind in ("used", "arguments", "results", "temporary")
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
  for outcome, text in check(config, topology, size, bool(dump), only):
    outcomes.append(outcome)
    print(
      f"{outcome.program.name}: {outcome.used / 2**30:.2f} GiB on one device, "
      f"{'fits' if outcome.fits else 'DOES NOT FIT'}, compiled in "
      f"{outcome.seconds:.0f} s",
      file=sys.stderr,
      flush=True,
    )
    if dump:
      _write(dump, outcome.program.name, text)
  # A log file has no width of its own.
  width = None if sys.stdout.isatty() else 140
  console = rich.console.Console(width=width)
  console.print(memory_table(outcomes, topology))
  if any(outcome.collectives for outcome in outcomes):
    console.print(collective_table(outcomes))
  return all(outcome.fits for outcome in outcomes)


def _write(folder: str, name: str, text: str) -> None:
  directory = pathlib.Path(folder)
  directory.mkdir(parents=True, exist_ok=True)
  name = name.replace(" ", "_").replace(",", "")
  (directory / f"{name}.txt").write_text(text)
