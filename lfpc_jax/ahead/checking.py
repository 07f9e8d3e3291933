"""Compiles a config's programs for a topology, and says what they need."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import sys
import time
from typing import Any

import ml_collections

from lfpc_jax import agent as agent_lib
from lfpc_jax import parallel
from lfpc_jax.ahead import chips, hlo, programs, refusals
from lfpc_jax.ahead.hlo import Collective
from lfpc_jax.ahead.layouts import Layout
from lfpc_jax.ahead.refusals import Allocation
from lfpc_jax.data import gap as gap_lib
from lfpc_jax.errors import UserError
from lfpc_jax.models import config as model_config
from lfpc_jax.rl import trainer
from lfpc_jax.rl.update import Learner


@dataclasses.dataclass
class Outcome:
  """What the compiler says of a program.

  Attributes:
    program: which one.
    seconds: that compiling took.
    memory: bytes on one device by kind; 'held' is what training keeps there
      beside the program, 'used' the sum. Of what the compiler refuses only
      some.
    collectives: of the compiled program; none where it is refused.
    fits: whether it fits into the device's memory.
    largest: allocations of what the compiler refuses, if it lists them.
  """

  program: programs.Program
  seconds: float
  memory: dict[str, float]
  collectives: list[Collective]
  fits: bool
  largest: list[Allocation] = dataclasses.field(default_factory=list)

  @property
  def used(self) -> float:
    """Bytes on one device."""
    return self.memory["used"]


@dataclasses.dataclass(frozen=True)
class Subject:
  """A config and what is made of it where there is a device to hold arrays.

  Attributes:
    config: a whole config, see configs/.
    sizes: of a published policy in place of those of its files, or None.
    agent: the policy in training.
    learner: its update.
    size: the published policy's name, or ''.
  """

  config: Any
  sizes: model_config.PolicyConfig | None
  agent: agent_lib.Agent
  learner: Learner
  size: str = ""


def subject(config: Any, size: str = "") -> Subject:
  """What a config is about.

  Args:
    config: a whole config, see configs/.
    size: '7b' and so on: a published policy's sizes in place of those of
      config.policy.path, with the shipped tokeniser; '' where that path is
      empty: what the config's name ends in, and says so.

  Raises:
    UserError: an unknown size, or a config that makes no policy.
  """
  sizes, named = None, str(config.name).rpartition(" ")[2]
  if not size and not config.policy.path and named in model_config.PUBLISHED:
    size = named
    print(f"policy.path is empty: --size={size}, of the config {config.name!r}")
  if size:
    sizes = model_config.PUBLISHED.get(size)
    if sizes is None:
      raise UserError(
        f"--size={size}: the published sizes are "
        f"{', '.join(model_config.PUBLISHED)}"
      )
    config = ml_collections.ConfigDict(config)
    config.policy.path = config.policy.path or "tiny_qwen"
  capacity = gap_lib.view_capacity(config.gap)
  agent = agent_lib.make_agent(config, capacity, sizes)
  learner = trainer.make_learner(config, agent, capacity)
  return Subject(config, sizes, agent, learner, size)


def laid_out(about: Subject, layout: Layout) -> Subject:
  """The same config in another layout."""
  config = ml_collections.ConfigDict(about.config)
  config.update_from_flattened_dict(layout.changes())
  return subject(config, about.size)


def check(
  about: Subject,
  topology: chips.Topology,
  text: bool = False,
  only: str | tuple[str, ...] = "",
) -> Iterator[tuple[Outcome, str]]:
  """Compiles the programs of training and evaluation for a topology.

  Args:
    about: the config.
    topology: the devices.
    text: whether to keep the programs' text.
    only: compile the programs whose name begins so, or in one of these ways.

  Yields:
    For each program its outcome, and its text or ''.

  Raises:
    UserError: the config, mesh or sizes make no program.
  """
  config = about.config
  with parallel.configured(config.mesh, topology.devices, absent=True):
    trainer.check_slices(config)
    todo = programs.training(
      about.agent, about.learner, config.rollout.prompts, config.rollout.waves
    )
    for budget in config.eval.budgets:
      todo += _evaluation(about, budget, only)
    for program in todo:
      if program.name.startswith(only):
        print(f"compiling {program.name}", file=sys.stderr, flush=True)
        outcome, code = compile_one(program, topology, text)
        print(
          f"{program.name}: {outcome.used / 2**30:.2f} GiB on one device, "
          f"{'fits' if outcome.fits else 'DOES NOT FIT'}, compiled in "
          f"{outcome.seconds:.0f} s",
          file=sys.stderr,
          flush=True,
        )
        yield outcome, code


def _evaluation(about: Subject, budget: int, only) -> list[programs.Program]:
  """The programs of a budget; none, and a line, where it does not divide."""
  if not any(n.startswith(only) for n in programs.evaluation_names(budget)):
    return []
  config = about.config
  judge = agent_lib.make_agent(
    config, budget, about.sizes, group=1, temperature=config.eval.temperature
  )
  try:
    return programs.evaluation(judge, config.eval.batch)
  except UserError as error:
    print(
      f"left out: the evaluation at {budget:,} tokens, of eval.batch="
      f"{config.eval.batch}: {error}"
    )
    return []


def compile_one(
  program: programs.Program, topology: chips.Topology, text: bool = False
) -> tuple[Outcome, str]:
  """Compiles one program; a full memory is an outcome, no error."""
  began = time.perf_counter()
  lowered = program.function.lower(*program.arguments)
  try:
    compiled = lowered.compile()
  except Exception as error:
    memory = _refused(program, str(error))
    if memory is None:
      raise
    seconds = time.perf_counter() - began
    largest = refusals.largest(str(error))
    outcome = Outcome(program, seconds, memory, [], False, largest)
    return outcome, str(error)
  seconds = time.perf_counter() - began
  stats = compiled.memory_analysis()
  memory = {
    "arguments": stats.argument_size_in_bytes,
    "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
    "temporary": stats.temp_size_in_bytes,
    "code": stats.generated_code_size_in_bytes,
    "held": program.held,
  }
  memory["used"] = sum(memory.values())
  code = compiled.as_text()
  fits = memory["used"] <= topology.chip.memory
  outcome = Outcome(program, seconds, memory, hlo.collectives(code), fits)
  return outcome, code if text else ""


def _refused(program: programs.Program, text: str) -> dict[str, float] | None:
  """Memory by what the compiler says of a full one; None: it says no such."""
  found = refusals.wanted(text)
  if found is None:
    return None
  size, is_all = found
  memory = {"held": program.held}
  if not is_all:
    memory["arguments"] = programs.on_device(program.arguments)
    memory["temporary"] = size
    return memory | {"used": sum(memory.values())}
  return memory | {"used": size + program.held}
