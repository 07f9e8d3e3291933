"""The training loop: rollout, judge, score, update, log, save."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
import optax

from lfpc_jax import agent as agent_lib
from lfpc_jax import checkpoints, files, metrics, parallel
from lfpc_jax import config as config_lib
from lfpc_jax.data import batches, described, fits, gap_file, loader
from lfpc_jax.data import gap as gap_lib
from lfpc_jax.data.examples import Example
from lfpc_jax.data.sampler import BatchSampler
from lfpc_jax.errors import UserError
from lfpc_jax.models import lora
from lfpc_jax.models.config import check_dtype
from lfpc_jax.models.parameters import Params, params_digest
from lfpc_jax.rl import (
  gradient_norm,
  placement,
  precision,
  same_run,
  scoring,
  shapes,
)
from lfpc_jax.rl.alarms import AlarmConfig, Alarms
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rl.skipped import SkippedSteps
from lfpc_jax.rl.types import Lesson, TrainState, UpdateConfig
from lfpc_jax.rl.update import Learner
from lfpc_jax.rl.watching import Seen, Watch
from lfpc_jax.rollout import encoding, episode
from lfpc_jax.rollout.types import Batch
from lfpc_jax.stopping import StopSignal


class Prepared(NamedTuple):
  """A step's examples and what the policy is shown of them.

  Of many processes, each has those of its own prompts.
  """

  examples: Sequence[Example]
  batch: Batch  # NumPy arrays


def make_optimiser(config: Any) -> optax.GradientTransformation:
  """AdamW behind a clipped gradient norm, constant after a warm-up."""
  dtype = check_dtype("optimizer.dtype", config.dtype)
  _check_optimiser(config)
  rate = config.learning_rate
  if config.warmup_steps:
    rate = optax.linear_schedule(0.0, rate, config.warmup_steps)
  steps = optax.chain(
    gradient_norm.clip(config.clip_norm),
    optax.adamw(
      rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay
    ),
  )
  return precision.keep_in(steps, dtype)


def _check_optimiser(config: Any) -> None:
  """Refuses numbers that no optimiser can have; NaN is none of them."""
  for name in ("learning_rate", "warmup_steps", "weight_decay"):
    if not 0 <= config[name] < float("inf"):
      raise UserError(f"optimizer.{name}={config[name]}: must be >= 0")
  for name in ("b1", "b2"):
    if not 0 <= config[name] < 1:
      raise UserError(f"optimizer.{name}={config[name]}: must be in [0, 1)")
  if not config.clip_norm > 0:
    raise UserError(f"optimizer.clip_norm={config.clip_norm}: must be > 0")


def _check_counts(config: Any) -> None:
  """Refuses a run of no steps at all, or of steps without a prompt."""
  if config.train.steps < 0:
    raise UserError(f"train.steps={config.train.steps}: must be >= 0")
  if config.rollout.prompts < 1:
    raise UserError(f"rollout.prompts={config.rollout.prompts}: must be >= 1")


def make_learner(config: Any, agent: agent_lib.Agent, capacity: int) -> Learner:
  """The update as a config has it; `capacity` is the largest view's."""
  return Learner(
    agent.policy,
    agent.episodes,
    UpdateConfig(**config.rl),
    make_optimiser(config.optimizer),
    capacity,
    tuple(config.policy.freeze),
  )


def _digest(params: Params) -> str:
  """Of a policy less its adapters, whose draws depend on the device."""
  rest = {name: x for name, x in params.items() if name != lora.PART}
  return params_digest(rest)


def check_config(config: Any) -> None:
  """Refuses what no run can have; touches neither data nor a device.

  Raises:
    UserError: names the field.
  """
  _check_counts(config)
  gap_lib.view_capacity(config.gap)
  if config.gap.mode == "random":
    gap_lib.budgets(config.gap, config.seed, 0, 1)
  agent_lib.episode_config(config.rollout)
  RewardConfig(**config.reward)
  UpdateConfig(**config.rl)
  AlarmConfig(**config.alarms)
  make_optimiser(config.optimizer)
  check_slices(config, parts=1)


def check_slices(config: Any, parts: int | None = None) -> None:
  """Refuses slices that do not divide, or not over the devices.

  Args:
    config: a whole config.
    parts: that the prompts are split into; None takes the mesh's.

  Raises:
    UserError: names the fields.
  """
  parts = parts or parallel.parts("prompt")
  for whole, field, lanes in (
    ("rollout.prompts", "rollout.waves", parts),
    ("rollout.prompts", "rl.micro_batches", parts),
    ("rollout.group", "rl.rollout_slices", 1),
  ):
    total, number = (
      config[section][name]
      for section, name in (whole.split("."), field.split("."))
    )
    if number < 1 or total % number:
      raise UserError(f"{whole}={total} is no multiple of {field}={number}")
    if total // number % lanes:
      raise UserError(
        f"{whole}={total} in {field}={number} are {total // number} prompts "
        f"at one time, no multiple of the {parts} parts that the mesh has of "
        f"them: lower {field}, or change mesh.sizes"
      )


class Trainer:
  """One run of reinforcement learning in a working directory."""

  def __init__(self, config: ml_collections.FrozenConfigDict, workdir: str):
    """Reads data, policy and latest checkpoint; compiles nothing yet."""
    _check_counts(config)
    self.config = config
    self.workdir = pathlib.Path(workdir)
    source = loader.open_data(config.data, config.data.split)
    # By key: `config.data.items` is the mapping's method.
    self.source = loader.first(source, config.data["items"], "data.items")
    self.gap = gap_lib.open_gap(config, len(self.source))
    self.source = self.gap.examples(self.source)
    self.capacity = self.gap.capacity
    self.agent = agent_lib.make_agent(config, self.capacity)
    self.reward = RewardConfig(**config.reward)
    self.rules = UpdateConfig(**config.rl)
    check_slices(config)
    self.share = parallel.batch_share(config.rollout.prompts)
    self.learner = make_learner(config, self.agent, self.capacity)
    self.encode = jax.jit(self._encode)
    self.rollout = jax.jit(
      episode.Rollout(
        self.agent.policy,
        self.agent.episodes,
        self.capacity,
        config.rollout.waves,
      )
    )
    self.score = jax.jit(
      functools.partial(scoring.score, self.reward, self.rules)
    )
    # A step must leave the state where it was, or the next compiles anew.
    places = placement.state_shardings(self.learner, self.agent.precision)
    self.update = jax.jit(
      self.learner.update,
      donate_argnums=0,
      out_shardings=None if places is None else (places, None),
    )
    shapes.check_training(
      self.agent,
      self.learner,
      config.rollout.prompts,
      self.encode,
      self.rollout,
      self.update,
    )
    self.thresholds = AlarmConfig(**config.alarms)
    self.seen: Seen | None = None  # the latest step's rollouts

  def prepare(self, step: int, examples: Sequence[Example]) -> Prepared:
    """Packs a step's examples at the budgets of its gap."""
    ids = [example.id for example in examples]
    budgets = self.gap.budgets(step, ids, self.share)
    batch = self.agent.packer.pack(examples, budgets)
    return Prepared(batches.in_place(examples, batch.originals), batch)

  def initial_state(self) -> TrainState:
    """The state before the first step, committed as a restored one is."""
    params = agent_lib.load_params(self.agent, self.config.policy.checkpoint)
    return agent_lib.committed(self.learner.init(params, self.config.seed))

  def _encode(self, params: Params, batch: Batch) -> jax.Array | None:
    """The views' visual tokens, if rollout and update may share them.

    A tower that is not trained encodes each view once; a trained one encodes
    it in the rollout and, with its gradient, in the update.
    """
    if "vision" not in lora.frozen_parts(params, self.config.policy.freeze):
      return None
    policy, waves = self.agent.policy, self.config.rollout.waves
    return encoding.encode_views(policy, params, batch, self.capacity, waves)

  def train_step(
    self, state: TrainState, prepared: Prepared, reference: Any = None
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: P x G rollouts and the update on them.

    Returns:
      The new state and the step's metrics, still on the device.

    Raises:
      jax.errors.JaxRuntimeError: something was copied between host and device
        without `device_put` or `device_get`: each such copy waits.
    """
    with (
      jax.transfer_guard_host_to_device("disallow"),
      jax.transfer_guard_device_to_host("disallow"),
    ):
      return self._train_step(state, prepared, reference)

  def _train_step(self, state, prepared, reference):
    batch = agent_lib.device_batch(prepared.batch)
    visual = self.encode(state.params, batch)
    batch = dataclasses.replace(batch, visual=visual)
    key = jax.random.fold_in(state.key, state.step)
    trajectory = self.rollout(state.params, batch, self.agent.texts, key)
    verdicts = scoring.judge(self.agent.turns(trajectory), prepared.examples)
    correct, formed = scoring.verdict_arrays(verdicts)
    advantages, mask, scalars = self.score(
      batch, trajectory, *agent_lib.device_batch((correct, formed))
    )
    lesson = Lesson(batch, trajectory, advantages, mask)
    self.seen = Seen(*prepared, trajectory, verdicts, advantages)
    state, more = self.update(state, lesson, reference)
    return state, scalars | more

  def run(self) -> TrainState | None:
    """Trains to the last step, or until a signal asks to stop.

    Returns:
      The last state, or None if a signal ended the run early.
    """
    config, steps = self.config, self.config.train.steps
    when = config.checkpoint
    directory = when.dir or self.workdir / checkpoints.SUBFOLDER
    same_run.check_place(self.workdir, when.dir)
    with (
      files.locked(self.workdir, enabled=jax.process_index() == 0),
      checkpoints.Checkpointer(directory, when.every, when.keep) as saved,
    ):
      state = self.initial_state()
      reference = state.params if self.rules.kl else None
      extra = {
        "config": json.loads(config_lib.config_json(config)),
        "beginning": _digest(state.params),
        "data": gap_file.data_identity(config.data, len(self.source)),
      }
      if saved.latest_step is not None:
        # The config first: another one may make a state of other shapes.
        same_run.check(self.workdir, checkpoints.read_extra(directory), extra)
        if saved.latest_step > steps:
          raise UserError(
            f"{self.workdir} holds a run of {saved.latest_step} steps, more "
            f"than train.steps={steps}: raise it, or give another --workdir"
          )
        target = checkpoints.abstract(state)
        del state  # or memory must hold two
        state, _ = saved.restore(target)
      if jax.process_index() == 0:
        config_lib.write_config(config, self.workdir)
      start = int(state.step)
      if start >= steps:
        return state
      if reference is not None:
        reference = jax.tree.map(lambda x: x.copy(), reference)
      return self._loop(state, start, steps, saved, extra, reference)

  def _sampler(self) -> BatchSampler:
    return BatchSampler(
      self.config.seed,
      self.config.rollout.prompts,
      len(self.source),
      self.share.index,
      self.share.count,
    )

  def _check_room(self, sampler: BatchSampler, start: int) -> str:
    """Refuses what would end the run later; says what is shrunk."""
    steps = range(start, self.config.train.steps)
    numbers = {step: sampler(step).tolist() for step in steps}
    budgets = functools.partial(self.gap.budgets, share=self.share)
    found = fits.find(self.source, self.agent.packer, numbers, budgets)
    return fits.settle(parallel.gather([found]))

  def _loop(self, state, start, steps, saved, extra, reference):
    config, sampler = self.config, self._sampler()
    shrunk = self._check_room(sampler, start)
    delayed = metrics.DelayedScalars()
    with (
      StopSignal() as stop,
      metrics.MetricsWriter(self.workdir, start) as writer,
      metrics.Progress(config.name, steps, start=start) as progress,
      Watch(config, self.workdir, self.agent, self.reward, start) as watch,
      loader.BatchLoader(
        self.source,
        sampler,
        first_step=start,
        num_steps=steps - start,
        transform=self.prepare,
      ) as ahead,
    ):
      notes = described.notes(config.data, config.data.split)
      for line in filter(None, (*notes, shrunk)):
        progress.log(line)
      # The writer, process 0's, has left the rows before a resume.
      resumes = start and jax.process_index() == 0
      known = metrics.read_metrics(self.workdir) if resumes else ()
      alarms = Alarms(self.thresholds, known)
      skipped = SkippedSteps(self.workdir, config.train.max_skipped)
      held: dict[int, Seen] = {}  # until a step's row is known

      def log(row):
        if row is not None:
          flags, warning = alarms.check(*row)
          writer.write(row[0], row[1] | flags)
          watch.scalars(row[0], row[1] | flags)
          if warning:
            progress.log(warning)
          if line := skipped.check(*row, held.pop(row[0], None)):
            progress.log(line)
          shown = {k: row[1][k] for k in ("reward", "accuracy", "tool_rate")}
          progress.update(row[0] + 1, "rollout and update", **shown)

      for step, prepared in ahead:
        state, scalars = self.train_step(state, prepared, reference)
        scalars = scalars | {"data_wait_seconds": ahead.waited}
        held[step] = self.seen
        log(delayed.push(step, scalars))
        stopping = stop.requested()
        last = step + 1 == steps
        if stopping or last or (step + 1) % saved.every == 0:
          # No checkpoint without its rows: a resume starts after them.
          log(delayed.flush())
        saved.save(step + 1, state, extra, force=stopping or last)
        if line := watch.rollouts(step, self.seen, stopping or last):
          progress.log(line)
        self.seen = None
        if stopping:
          saved.wait()
          progress.log(
            f"stopped by {stop.name} after step {step + 1} of {steps}; the "
            "same command goes on from there"
          )
          return None
    return state
