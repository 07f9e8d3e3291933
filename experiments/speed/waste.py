r"""What a training step wastes: idle devices, padding, decoding, compiling.

  python -m experiments.speed.waste --config=configs/tiny.py:stage1 \
    --set=data.dir=data --set=rollout.prompts=8 --steps=10

Trains for some steps in two processes that share a new compile cache: one
step with the cache empty, then all steps with it filled. Prints one table.

A program's device is idle from the end of the program before it to its own
call, where that is later. Ends are noted by a thread, which the judging host
may delay: the time of texts and verdicts alone has a row of its own. How much
decoding is lost is read off the rollouts: a step of decoding costs every row a
slot, also the rows whose turn has ended.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
import concurrent.futures
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table

from lfpc_jax import config as config_lib
from lfpc_jax import parallel
from lfpc_jax.rl import scoring
from lfpc_jax.rl.trainer import Prepared, Trainer
from lfpc_jax.rollout.types import Batch, EpisodeConfig, Trajectory

_PROGRAMS = ("encode", "rollout", "score", "update")
_WAVES = (2, 4)  # of prompts sorted by length, for what sorting would gain
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Clock:
  """When programs are called, and when their results are there.

  Attributes:
    spans: (program, seconds when it was called, when it had ended), in the
      order of the calls.
  """

  def __init__(self):
    """Nothing is running yet."""
    self.spans: list[tuple[str, float, float]] = []
    self._waiter = concurrent.futures.ThreadPoolExecutor(1)

  def watch(self, name: str, function: Any) -> Any:
    """The function, each of whose calls adds a span."""

    def call(*args):
      began = time.perf_counter()
      result = function(*args)
      # The last array: the update's first ones are given to the next update.
      for last in jax.tree.leaves(result)[-1:]:
        self._waiter.submit(self._wait, name, began, last)
      return result

    return call

  def _wait(self, name, began, array):
    jax.block_until_ready(array)
    self.spans.append((name, began, time.perf_counter()))

  def close(self) -> None:
    """Waits for what is still running."""
    self._waiter.shutdown()


def idle(spans: Sequence[tuple[str, float, float]]) -> dict[str, list[float]]:
  """Seconds without a program, by the two programs that they lie between."""
  found = defaultdict(list)
  for (before, _, ended), (name, called, _) in itertools.pairwise(spans):
    found[f"{before} to {name}"].append(max(0.0, called - ended))
  return dict(found)


def padding(
  batch: Batch, trajectory: Trajectory, episodes: EpisodeConfig, capacity: int
) -> dict[str, float]:
  """Shares of slots that hold nothing.

  Args:
    batch: the prompts, NumPy arrays.
    trajectory: the rollouts, NumPy arrays.
    episodes: their limits.
    capacity: visual tokens of the largest view.
  """
  visual = np.sum(batch.visual_index >= 0, axis=-1)
  texts = batch.tokens.shape[1] - capacity
  crops = np.arange(trajectory.grids.shape[2]) < trajectory.crops[..., None]
  shown = np.prod(trajectory.grids, axis=-1) * crops
  used = {
    "view slots": np.mean(batch.grid.prod(axis=-1)) / capacity,
    "prompt text slots": np.mean(batch.length - visual) / texts,
    "suffix slots": np.mean(trajectory.length) / episodes.slots,
    "crop slots": np.mean(shown) / episodes.crop_max_tokens,
  }
  return {name: float(1 - share) for name, share in used.items()}


def decoding(trajectory: Trajectory, waves: int = 1) -> dict[str, float]:
  """Row-steps of decoding: taken, written, and taken if sorted in waves.

  Args:
    trajectory: the rollouts, NumPy arrays.
    waves: slices of the prompts that were rolled out one after another.

  Returns:
    `taken`: steps x rows. `written`: tokens, what refilling each row at once
    would take. `sorted, n waves`: if the prompts, sorted by their true number
    of steps, were rolled out in n waves.

  Raises:
    ValueError: the turns do not add up to the steps that were taken.
  """
  length = trajectory.turn_end - trajectory.turn_start  # [P, G, M]
  prompts, group, turns = length.shape
  length = np.where(np.arange(turns) < trajectory.turns[..., None], length, 0)
  longest = length.max(axis=1)  # [P, M]: of a prompt's rows, turn by turn

  def steps(prompts_by_wave, number):
    parts = prompts_by_wave.reshape(number, prompts // number, turns)
    return int(parts.max(axis=1).sum())

  if steps(longest, waves) != trajectory.steps:
    raise ValueError(f"the turns do not make {trajectory.steps} steps")
  found = {
    "taken": int(trajectory.steps) * prompts * group / waves,
    "written": float(length.sum()),
  }
  order = np.argsort(longest.sum(axis=-1), kind="stable")
  for number in _WAVES:
    if prompts % number == 0:
      took = steps(longest[order], number)
      found[f"sorted, {number} waves"] = took * prompts * group / number
  return found


class Watched(Trainer):
  """A trainer that notes what each step does with its time and slots."""

  def __init__(self, config: Any, workdir: str):
    """As the trainer's own."""
    super().__init__(config, workdir)
    self.clock = Clock()
    for name in _PROGRAMS:
      setattr(self, name, self.clock.watch(name, getattr(self, name)))
    self.compiled: list[int] = []  # by step
    self.first = 0.0  # seconds since the epoch at the end of the first step
    self.rollouts: list[tuple[Prepared, Trajectory]] = []  # by step
    self._events = 0
    jax.monitoring.register_event_duration_secs_listener(self._event)

  def _event(self, name: str, *_: Any, **__: Any) -> None:
    self._events += name == _COMPILED

  def train_step(self, state, prepared, reference=None):
    """As the trainer's own; what is noted of it waits for the update."""
    before = self._events
    state, scalars = super().train_step(state, prepared, reference)
    self.compiled.append(self._events - before)
    if not self.first:
      jax.block_until_ready(scalars)
      self.first = time.time()
    self.rollouts.append((prepared, self.seen.trajectory))
    return state, scalars

  def finish(self) -> dict[str, Any]:
    """What has been noted, as plain values; of time, all but the first step.

    Returns:
      `compiled`: programs by step. `first`: seconds since the epoch at the
      first step's end. `step`: mean seconds of a step. `idle`: mean seconds of
      a step, by the programs that they lie between. `padding`, `decoding`:
      means over steps. `judge`: mean seconds of reading the texts and giving
      verdicts, while nothing else runs.
    """
    self.clock.close()
    spans = self.clock.spans
    ends = [k for k, (name, _, _) in enumerate(spans) if name == "update"]
    found = {"compiled": self.compiled, "first": self.first}
    if len(ends) > 1:
      spans, steps = spans[ends[0] :], len(ends) - 1
      found["step"] = (spans[-1][2] - spans[0][2]) / steps
      gaps = idle(spans).items()
      found["idle"] = {name: sum(times) / steps for name, times in gaps}
    rows = [(p, parallel.fetch(t)) for p, t in self.rollouts]
    found["padding"] = _mean(
      padding(p.batch, t, self.agent.episodes, self.capacity) for p, t in rows
    )
    found["decoding"] = _mean(
      decoding(t, self.config.rollout.waves) for _, t in rows
    )
    began = time.perf_counter()
    for p, t in rows:
      scoring.judge(self.agent.turns(t), p.examples)
    found["judge"] = (time.perf_counter() - began) / len(rows)
    return found


def _mean(rows: Iterable[dict[str, float]]) -> dict[str, float]:
  rows = list(rows)
  return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def child(args: argparse.Namespace, cache: str) -> None:
  """Trains, and prints what was noted as the last line."""
  config_lib.setup_jax(cache)
  sys.setswitchinterval(1e-4)  # or the clock's thread waits for the host's
  config = config_lib.load_config(args.config, args.set)
  config.train.steps = args.steps
  config.train.update(report_every=0, tensorboard=False)
  with (
    tempfile.TemporaryDirectory() as folder,
    parallel.configured(config.get("mesh")),
  ):
    trainer = Watched(config_lib.freeze(config), folder)
    trainer.run()
    found = trainer.finish()
  cpu = resource.getrusage(resource.RUSAGE_SELF)
  found["cpu"] = cpu.ru_utime + cpu.ru_stime
  print(json.dumps(found))


def in_a_process(args: argparse.Namespace, cache: str, steps: int) -> Any:
  """What `child` prints, with `first` as seconds from the process's start."""
  words = [sys.executable, "-m", "experiments.speed.waste"]
  words += [f"--config={args.config}", f"--steps={steps}", f"--cache={cache}"]
  words += [f"--set={change}" for change in args.set]
  began = time.time()
  done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
  found = json.loads(done.stdout.splitlines()[-1])
  return found | {"first": found["first"] - began}


def table(cold: dict[str, Any], warm: dict[str, Any]) -> rich.table.Table:
  """The rows of both processes."""
  rows = [
    ("first step done, empty cache", f"{cold['first']:.1f} s"),
    ("first step done, full cache", f"{warm['first']:.1f} s"),
    ("one step's process, empty cache", f"{cold['cpu']:.1f} s CPU"),
    ("all steps' process, full cache", f"{warm['cpu']:.1f} s CPU"),
    ("programs compiled by step", " ".join(map(str, warm["compiled"]))),
    ("a step", f"{warm['step']:.3f} s"),
    ("texts and verdicts alone", f"{1000 * warm['judge']:.2f} ms"),
  ]
  for name, seconds in warm["idle"].items():
    share = seconds / warm["step"]
    rows.append(
      (f"idle, {name}", f"{1000 * seconds:.2f} ms, {100 * share:.2f} %")
    )
  for name, share in warm["padding"].items():
    rows.append((f"empty {name}", f"{100 * share:.1f} %"))
  taken = warm["decoding"]["taken"]
  for name, steps in warm["decoding"].items():
    share = 100 * steps / taken
    rows.append((f"row-steps, {name}", f"{steps:.0f}, {share:.1f} %"))
  found = rich.table.Table(title="a training step's waste, means over steps")
  found.add_column("what")
  found.add_column("how much", justify="right")
  for row in rows:
    found.add_row(*row)
  return found


def main() -> None:
  """Runs both processes and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="configs/tiny.py:stage1")
  parser.add_argument(
    "--set", action="append", default=[], help="field=value of the config"
  )
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument("--cache", help=argparse.SUPPRESS)  # in a child alone
  args = parser.parse_args()
  if args.cache:
    child(args, args.cache)
    return
  if args.steps < 3:
    parser.error(f"--steps={args.steps}: at least 3, the first one compiles")
  with tempfile.TemporaryDirectory() as cache:
    cold = in_a_process(args, cache, 1)
    warm = in_a_process(args, cache, args.steps)
  # A log file has no width of its own.
  width = None if sys.stdout.isatty() else 100
  rich.console.Console(width=width).print(table(cold, warm))


if __name__ == "__main__":
  main()
