r"""What the miniature's programs cost by XLA's own analysis; no clock.

  python -m tests.speed.record

measures with the jax that runs it and writes its part of record.json anew.
Sizes are those of configs/tiny.py:smoke on originals of 128 pixels a side; a
loop's body counts once, whatever number of times it runs. CPUs of other kinds
count alike, compilers of other versions do not: each has a record of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import itertools
import json
import os
import pathlib
import tempfile
from typing import Any

import jax
import pytest

from lfpc_jax import agent as agent_lib
from lfpc_jax.evaluation import command
from lfpc_jax.evaluation.runner import Runner
from lfpc_jax.rl.trainer import Trainer
from tests import small_scenes
from tests.steady import read_metrics

FILE = pathlib.Path(__file__).with_name("record.json")
COMMAND = "python -m tests.speed.record"
CHANGES = (
  # Views of two sizes: a new size must not compile anew.
  "gap.mode=random",
  "gap.draw=prompt",
  "gap.tokens=4",
  "gap.levels=4,16",
  "gap.full_tokens=16",
  "optimizer.warmup_steps=0",  # so that step 0 changes something
  "train.report_every=0",  # the last step's page has programs of its own
  "eval.items=4",
  "eval.budgets=16,",
  "eval.probes=()",
  "eval.records=0",
)
# How much more than in the record is no growth.
TOLERANCE = {
  "flops": 0.02,
  "bytes accessed": 0.1,
  "arguments": 0.01,
  "results": 0.01,
  "temporary": 0.1,
}
_TRAINING = ("encode", "rollout", "score", "update")
_COMPILED = "/jax/core/compile/backend_compile_duration"
_compilations: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, *_, **__: event == _COMPILED and _compilations.append(event)
)


class Seen:
  """A jitted function that keeps what its first call has compiled."""

  def __init__(self, function: Any):
    self.function = function
    self.compiled: Any = None

  def __call__(self, *args: Any) -> Any:
    """Calls the function; both ways share one compilation."""
    if self.compiled is None:
      self.compiled = self.function.lower(*args).compile()
    return self.function(*args)

  def costs(self) -> dict[str, int]:
    """Operations and bytes."""
    return costs(self.compiled)


def costs(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Operations and bytes of a program, by kind."""
  count, memory = compiled.cost_analysis(), compiled.memory_analysis()
  return {
    "flops": int(count["flops"]),
    "bytes accessed": int(count["bytes accessed"]),
    "arguments": memory.argument_size_in_bytes,
    "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    "temporary": memory.temp_size_in_bytes,
  }


def watch(trainer: Trainer) -> Trainer:
  """The same trainer, its programs as `Seen`."""
  for name in _TRAINING:
    setattr(trainer, name, Seen(getattr(trainer, name)))
  return trainer


def run(
  trainer: Trainer,
  workdir: os.PathLike[str],
  before_step: Callable[[int], object] = lambda step: None,
) -> tuple[Any, list[dict[str, Any]]]:
  """A run in a directory: its last state and its rows.

  `before_step` is called with each step's number.
  """
  trainer.workdir = pathlib.Path(workdir)
  step = trainer.train_step

  def train_step(state, *args):
    before_step(int(state.step))
    return step(state, *args)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trainer, "train_step", train_step)
    state = trainer.run()
  return state, read_metrics(workdir)


def first_run(
  trainer: Trainer, workdir: os.PathLike[str]
) -> tuple[Any, list[dict[str, Any]], list[int]]:
  """As `run`, and the programs that each step compiled, small ones too."""
  jax.clear_caches()  # what others have compiled would not be counted
  counts: list[int] = []
  state, rows = run(
    trainer, workdir, lambda step: counts.append(len(_compilations))
  )
  counts.append(len(_compilations))
  return state, rows, [b - a for a, b in itertools.pairwise(counts)]


def training(trainer: Trainer, compiled: Sequence[int]) -> dict[str, Any]:
  """What the record holds of a watched trainer that has run.

  Args:
    trainer: what `watch` gave.
    compiled: what `first_run` gave.
  """
  programs = {name: getattr(trainer, name).costs() for name in _TRAINING}
  return {"programs": programs, "compiled by step": list(compiled)}


def evaluation(config: Any) -> dict[str, Any]:
  """The same of one batch of questions, asked twice."""
  jax.clear_caches()
  runner, (budget,) = Runner(config), config.eval.budgets
  programs = {"prefill": runner._prefills, "rollout": runner._rollouts}
  for by_budget in programs.values():
    by_budget[budget] = Seen(by_budget[budget])
  params = agent_lib.load_params(runner.agent, "")
  questions, counts = command.open_questions(config), []
  for _ in range(2):
    before = len(_compilations)
    runner.run("miniature", params, questions)
    counts.append(len(_compilations) - before)
  found = {name: by[budget].costs() for name, by in programs.items()}
  return {"programs": found, "compiled by step": counts}


def growth(record: Mapping[str, Any], found: Mapping[str, Any]) -> str:
  """What is above the record, or below half of it; '' if nothing is.

  So little is either a program that is not measured any more, or a gain that
  the record should hold.

  Args:
    record: of `training` or `evaluation`, as it is stored.
    found: the same, now.
  """
  lines = []
  for program in sorted(record["programs"] | found["programs"]):
    kept, now = (x["programs"].get(program, {}) for x in (record, found))
    for kind, tolerance in TOLERANCE.items():
      old, new = kept.get(kind, 0), now.get(kind, 0)
      if new > old * (1 + tolerance) or new < old / 2:
        lines.append(f"{program}: {kind} {old:,} -> {new:,}")
  old, new = (x["compiled by step"] for x in (record, found))
  if old != new:
    lines.append(f"programs compiled by step: {old} -> {new}")
  if lines:
    lines.append(f"If it has to be so: {COMMAND}")
  return "\n".join(lines)


def version() -> str:
  """The minor version of jax, whose compilers count alike."""
  return ".".join(jax.__version__.split(".")[:2])


def read(part: str) -> dict[str, Any]:
  """This jax version's record; a test without one is skipped.

  Args:
    part: 'training' or 'evaluation'.
  """
  known = json.loads(FILE.read_text())
  if version() not in known:
    pytest.skip(f"no record of jax {version()}: {COMMAND} adds it")
  return known[version()][part]


def main() -> None:
  """Writes this jax version's part of the record; prints what has grown."""
  known = json.loads(FILE.read_text()) if FILE.exists() else {}
  with (
    tempfile.TemporaryDirectory() as folder,
    small_scenes.quick_configs(f"{folder}/data", *CHANGES) as config,
  ):
    trainer = watch(Trainer(config(), folder))
    found = {"training": training(trainer, first_run(trainer, folder)[2])}
    found["evaluation"] = evaluation(config())
  for part, record in known.get(version(), {}).items():
    print(growth(record, found[part]) or f"{part}: as before")
  known = dict(sorted((known | {version(): found}).items()))
  FILE.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
  main()
