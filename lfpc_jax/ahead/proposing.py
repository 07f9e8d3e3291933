"""compile_check --propose: what a config needs of a TPU generation."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import sys
from typing import Any

import jax
import rich.console
import rich.table

from lfpc_jax.ahead import checking, chips, command, layouts, search, times
from lfpc_jax.ahead.checking import Outcome, Subject
from lfpc_jax.ahead.layouts import Layout, Step
from lfpc_jax.ahead.search import Proposal
from lfpc_jax.errors import UserError

_TRIES = 12  # compiles that may be refused before a person should look


@dataclasses.dataclass(frozen=True)
class Confirmed:
  """A proposal that the compiler accepts.

  Attributes:
    proposal: the last one.
    outcomes: of its programs.
    refused: programs that did not fit on the way, with the slice's name and
      the bytes they wanted.
  """

  proposal: Proposal
  outcomes: list[Outcome]
  refused: list[tuple[str, Layout, str, float]]


def confirm(about: Subject, step: Step, topology: str) -> Confirmed:
  """Compiles the smallest slice's layout, until one fits.

  What a program was refused with scales the estimates of the next proposals.

  Args:
    about: the config.
    step: what it says of a step.
    topology: such as 'v5e', or 'v5e:4x4' for that slice alone.

  Raises:
    UserError: no slice is large enough, or too many were refused.
  """
  # What is compiled without a device cannot be read back from the cache.
  jax.config.update("jax_enable_compilation_cache", False)
  scale, known, refused = {}, {}, []
  for _ in range(_TRIES):
    found = search.smallest(search.proposals(step, topology, scale))
    if found is None:
      raise UserError(_no_room(topology))
    devices = chips.find(found.topology)
    print(f"trying {found.topology} {found.layout.flags()}", file=sys.stderr)
    changed = checking.laid_out(about, found.layout)
    for name in search.PROGRAMS:
      key = (name, found.topology, _part(name, found.layout))
      if key not in known:
        done = list(checking.check(changed, devices, only=name))
        known[key] = done[0][0] if done else None
      if known[key] is not None and not known[key].fits:
        refused.append((found.topology, found.layout, name, known[key].used))
        plain = search.used(step, found.layout, name)
        scale[name] = max(scale.get(name, 1.0), known[key].used / plain)
        break
    else:
      outcomes = [
        known[name, found.topology, _part(name, found.layout)]
        for name in search.PROGRAMS
      ]
      return Confirmed(found, [x for x in outcomes if x], refused)
  raise UserError(f"the compiler refused {_TRIES} proposals for {topology}")


def _no_room(topology: str) -> str:
  which = (
    f"{topology} does not hold"
    if ":" in topology
    else (f"no slice of {topology} holds")
  )
  return f"{which} this step"


def _part(name: str, layout: Layout) -> Layout:
  """What of a layout a program depends on."""
  if name == "update":
    return dataclasses.replace(layout, waves=1, gathered=True)
  return dataclasses.replace(layout, micro_batches=1, rollout_slices=1)


def table(found: Iterable[Proposal]) -> rich.table.Table:
  """A row for each slice."""
  shown = rich.table.Table(
    title="by formula: GiB on one device, seconds of a step at best"
  )
  columns = ("slice", "fits", "mesh", "waves", "micro-batches", "slices")
  for name in (*columns, *search.PROGRAMS, "rollout, s", "update, s"):
    shown.add_column(name, justify="right")
  for x in found:
    layout = x.layout
    shown.add_row(
      x.topology,
      "yes" if x.fits else "NO",
      f"{layout.fsdp} x {layout.tensor}" + (" *" * (not layout.gathered)),
      str(layout.waves),
      str(layout.micro_batches),
      str(layout.rollout_slices),
      *(f"{x.memory[name] / 2**30:.2f}" for name in search.PROGRAMS),
      *(
        "{1:.3g} {0}".format(*times.slowest(x.times[name]))
        for name in ("rollout", "update")
      ),
    )
  return shown


def run(
  config: Any,
  topology: str,
  size: str = "",
  compiles: bool = False,
  slices: int = 1,
) -> bool:
  """The command; tells whether a slice holds a step.

  Args:
    config: a whole config.
    topology: a generation, or a slice of one, which is then the only one.
    size: see `checking.subject`.
    compiles: whether to confirm the proposal by compiling it.
    slices: refused where it is not 1.

  Raises:
    UserError: there is no such topology, or nothing is proposed for this.
  """
  if slices != 1:
    raise UserError(
      f"--slices={slices}: a layout is proposed for one slice; take it for "
      "each, multiply mesh.sizes and mesh.slices along fsdp, and compile that "
      "without --propose"
    )
  chips.standard_slices(topology)
  about = checking.subject(config, size)
  step = layouts.make_step(about.config, about.agent, about.learner)
  found = search.proposals(step, topology)
  width = None if sys.stdout.isatty() else 140
  console = rich.console.Console(width=width)
  console.print(table(found))
  if any(not x.layout.gathered for x in found):
    console.print("* a rollout brings its parameters together for each token")
  best = search.smallest(found)
  if best is None:
    console.print(_no_room(topology))
    return False
  how = "by formula, not compiled"
  if compiles:
    done = confirm(about, step, topology)
    best, how = done.proposal, "compiled"
    command.show(done.outcomes, chips.find(best.topology))
    for slice_name, layout, program, used in done.refused:
      console.print(
        f"refused: {program} on {slice_name}, {used / 2**30:.2f} GiB, "
        f"{layout.flags()}"
      )
  what = "fits" if ":" in topology else "the smallest slice that fits"
  console.print(f"{what} ({how}):", soft_wrap=True)
  console.print(
    f"--topology={best.topology} {best.layout.flags()}", soft_wrap=True
  )
  return True
