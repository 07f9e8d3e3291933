"""The smallest slice that holds a step, and the layout that it takes there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses

from lfpc_jax.ahead import chips, memory, times
from lfpc_jax.ahead.chips import Chip
from lfpc_jax.ahead.layouts import Layout, Step, divides, parts

PROGRAMS = ("encode", "rollout", "update")


@dataclasses.dataclass(frozen=True)
class Proposal:
  """A layout on a slice, by formula.

  Attributes:
    topology: 'v5e:4x4'.
    layout: over its devices.
    memory: bytes on one device, for each of `PROGRAMS`.
    times: see `times.of_step`.
    fits: whether all of them fit; if not, this is the nearest to it.
  """

  topology: str
  layout: Layout
  memory: Mapping[str, float]
  times: Mapping[str, Mapping[str, float]]
  fits: bool

  @property
  def seconds(self) -> float:
    """Of rollout and update, at best."""
    return sum(times.slowest(found)[1] for found in self.times.values())


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]


def _layouts(step: Step, devices: int) -> Iterator[Layout]:
  """Ways to split a step over devices, not yet cut in time."""
  for tensor in _divisors(devices):
    for gathered in (True, False):
      layout = Layout(devices // tensor, tensor, gathered=gathered)
      if divides(step, layout):
        yield layout
      if layout.fsdp == 1:
        break  # nothing to bring together


def used(
  step: Step,
  layout: Layout,
  program: str,
  scale: Mapping[str, float] | None = None,
) -> float:
  """Bytes of a program on one device, with what training keeps beside it.

  Args:
    step: of training.
    layout: of it.
    program: one of `PROGRAMS`.
    scale: by which a program's estimate is to be multiplied.
  """
  found = getattr(memory, program)(step, layout)
  return sum(found.values()) * (scale or {}).get(program, 1.0)


def cut(
  step: Step,
  layout: Layout,
  limit: float,
  scale: Mapping[str, float] | None = None,
) -> Layout:
  """The layout in the fewest slices that fit, or else in the most there are.

  Args:
    step: of training.
    layout: how it is split over devices.
    limit: bytes of one device.
    scale: see `used`.
  """
  most = step.prompts // parts(step, layout, "prompt")

  def fits(changed, *programs):
    return all(used(step, changed, p, scale) <= limit for p in programs)

  for waves in _divisors(most):
    layout = dataclasses.replace(layout, waves=waves)
    if fits(layout, "encode", "rollout"):
      break
  pairs = [(n, 1) for n in _divisors(most)]
  # Fewer rollouts at one time cost a pass over the prompts: prompts first.
  pairs += [(most, n) for n in _divisors(step.episodes.group)[1:]]
  for prompts, rollouts in pairs:
    layout = dataclasses.replace(
      layout, micro_batches=prompts, rollout_slices=rollouts
    )
    if fits(layout, "update"):
      break
  return layout


def on_slice(
  step: Step,
  name: str,
  chip: Chip,
  devices: int,
  scale: Mapping[str, float] | None = None,
) -> Proposal | None:
  """The fastest layout that fits a slice, or the nearest to fit if none does.

  Args:
    step: of training.
    name: of the slice.
    chip: figures of one device.
    devices: how many.
    scale: see `used`.

  Returns:
    None if nothing divides over so many devices.
  """
  found = []
  for split in _layouts(step, devices):
    layout = cut(step, split, chip.memory, scale)
    needed = {p: used(step, layout, p, scale) for p in PROGRAMS}
    fits = max(needed.values()) <= chip.memory
    spent = times.of_step(step, layout, chip)
    found.append(Proposal(name, layout, needed, spent, fits))
  if not found:
    return None
  fitting = [x for x in found if x.fits]
  if fitting:
    return min(fitting, key=lambda x: x.seconds)
  return min(found, key=lambda x: max(x.memory.values()))


def proposals(
  step: Step, topology: str, scale: Mapping[str, float] | None = None
) -> list[Proposal]:
  """One for each standard slice of a generation, the smallest first.

  Args:
    step: of training.
    topology: such as 'v5e', or 'v5e:4x4' for that slice alone.
    scale: see `used`.
  """
  found = []
  for name, devices in chips.standard_slices(topology):
    chip = chips.device_of(name.partition(":")[0])
    proposal = on_slice(step, name, chip, devices, scale)
    if proposal is not None:
      found.append(proposal)
  return found


def smallest(found: list[Proposal]) -> Proposal | None:
  """The first that fits."""
  return next((x for x in found if x.fits), None)
