"""Runs a policy over held-out questions, with and without probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import agent as agent_lib
from lfpc_jax import parallel
from lfpc_jax.data import batches as batches_lib
from lfpc_jax.data import fits, loader
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import buckets, likelihood, outcome
from lfpc_jax.evaluation import items as items_lib
from lfpc_jax.evaluation import records as records_lib
from lfpc_jax.evaluation.buckets import Part
from lfpc_jax.evaluation.entries import Entry, merge, pack
from lfpc_jax.models.parameters import Params
from lfpc_jax.rl import scoring, shapes
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rollout import encoding, episode
from lfpc_jax.rollout.probes import Probe
from lfpc_jax.rollout.types import Batch


class Packed(NamedTuple):
  """A batch of questions on the host, NumPy arrays.

  Attributes:
    examples: of this process.
    originals: their images, u8[I, Ho, Wo, 3], kept once for all budgets.
    batches: the prompts by budget, without originals.
    options: prompts and options by budget; {} if no likelihood is asked for.
  """

  examples: Sequence[Example]
  originals: np.ndarray
  batches: dict[int, Batch]
  options: dict[int, tuple[Batch, likelihood.Options]]


class _Step(NamedTuple):
  """A batch of questions, its originals on the devices."""

  name: str  # the policy's
  params: Params
  number: int
  part: Part
  packed: Packed
  originals: jax.Array
  seconds: float  # that moving them took


def parse_probes(names: Sequence[str]) -> list[Probe]:
  """Probes by name, 'none' first.

  Raises:
    UserError: an unknown name.
  """
  known = {probe.name.lower(): probe for probe in Probe}
  for name in names:
    if name not in known:
      raise UserError(
        f"eval.probes has {name!r}; the probes are {', '.join(known)}"
      )
  return [Probe.NONE] + [known[n] for n in names if n != "none"]


def _check_counts(section: Any) -> None:
  """Refuses an evaluation of nothing."""
  if section.batch < 1:
    raise UserError(f"eval.batch={section.batch}: must be >= 1")
  if not section.budgets or min(section.budgets) < 1:
    raise UserError(
      f"eval.budgets={section.budgets}: give visual tokens, one or more of "
      "them and each >= 1"
    )


class Runner:
  """Compiles a few programs for each budget and capacity of originals.

  The policy's weights do not matter: several policies can share a runner.
  """

  def __init__(self, config: Any):
    """Reads the policy's files and the config's eval section."""
    _check_counts(config.eval)
    self.config = config
    self.probes = parse_probes(config.eval.probes)
    self.reward = RewardConfig(**config.reward)
    self._agents = {
      budget: agent_lib.make_agent(
        config, budget, group=1, temperature=config.eval.temperature
      )
      for budget in config.eval.budgets
    }
    self._views = {
      budget: jax.jit(
        functools.partial(encoding.encode_views, agent.policy, capacity=budget)
      )
      for budget, agent in self._agents.items()
    }
    self._scorers = {
      budget: likelihood.OptionScorer(agent, budget)
      for budget, agent in self._agents.items()
      if config.eval.likelihood
    }
    self._prefills = {
      budget: jax.jit(
        functools.partial(encoding.encode_prompt, agent.policy, capacity=budget)
      )
      for budget, agent in self._agents.items()
    }
    self._rollouts = {
      budget: jax.jit(episode.Rollout(agent.policy, agent.episodes, budget))
      for budget, agent in self._agents.items()
    }
    self._box_terms = jax.jit(items_lib.box_terms)
    self.share = parallel.batch_share(config.eval.batch)
    for budget, agent in self._agents.items():
      shapes.check_evaluation(
        agent, config.eval.batch, self._prefills[budget], self._rollouts[budget]
      )
    self._compiled: set[tuple[int, buckets.Size, int]] = set()

  @property
  def agent(self) -> agent_lib.Agent:
    """The policy's files, the same for all budgets."""
    return next(iter(self._agents.values()))

  def cut(self, examples: buckets.Sized) -> list[Part]:
    """The batches of questions that `run` works through."""
    return buckets.cut(
      buckets.read_sizes(examples),
      self.agent.packer.image_capacity,
      self.config.eval.batch,
      buckets.read_images(examples),
      parallel.parts("prompt"),
    )

  def unshared(self, examples: buckets.Sized) -> str:
    """A line about pictures that `eval.batch` cannot share, or ''."""
    images, parts = buckets.read_images(examples), parallel.parts("prompt")
    return buckets.unshared(images, self.config.eval.batch, parts)

  def check(self, examples: fits.Outlined) -> str:
    """A line about images that are shrunk, or ''.

    Raises:
      UserError: an image or a prompt exceeds its capacity, so that the
        evaluation could not end; or the truth is to be shown and there is
        none.
    """
    every = range(len(examples))
    if Probe.TRUTH in self.probes and not any(
      len(examples.words(k).boxes) for k in every
    ):
      rest = [p.name.lower() for p in self.probes[1:] if p is not Probe.TRUTH]
      raise UserError(
        "eval.probes has 'truth', but no question has boxes: give "
        f"--config.eval.probes={','.join(rest) or '()'}"
      )
    numbers, said = {0: every}, ""
    for budget, agent in self._agents.items():
      budgets = lambda step, ids, budget=budget: [budget] * len(ids)
      found = fits.find(examples, agent.packer, numbers, budgets)
      said = fits.settle([found])
    return said

  def calls(self, batches: int) -> int:
    """Number of rollout calls for a number of batches."""
    return batches * len(self._rollouts) * len(self.probes)

  def run(
    self,
    name: str,
    params: Params,
    examples: Sequence[Example],
    progress: Callable[[int, str], None] = lambda done, doing: None,
    parts: Sequence[Part] | None = None,
    known: Sequence[Entry] = (),
    keep: Callable[[Entry], None] = lambda entry: None,
  ) -> outcome.Evaluation:
    """Evaluates one policy.

    Args:
      name: the policy's, for records.
      params: its parameters.
      examples: the questions, decoded lazily; they know their images' sizes.
      progress: told the number of rollout calls done and what runs.
      parts: what `cut` gives for the examples, if that is known already.
      known: entries of an earlier run, which are not asked for again; on all
        processes the same.
      keep: told each new entry at once.
    """
    parts = self.cut(examples) if parts is None else parts
    params = agent_lib.committed(params)
    entries, size = list(known), self.config.eval.batch
    there = {(entry.step, entry.budget) for entry in entries}
    missing = [
      step
      for step in range(len(parts))
      if any((step, budget) not in there for budget in self._rollouts)
    ]
    room = self._room(examples)
    with loader.BatchLoader(
      examples,
      lambda k: np.array(parts[missing[k]].filled(size))[self.share.rows],
      num_steps=len(missing),
      transform=lambda k, full: self._pack(parts[missing[k]], full, room),
    ) as batches:
      for k, packed in batches:
        step = self._place(name, params, missing[k], parts[missing[k]], packed)
        waited = batches.waited
        for budget in self._rollouts:
          if (step.number, budget) in there:
            continue
          done = len(entries) * len(self.probes)
          tell = lambda n, doing, done=done: progress(done + n, doing)
          entry = self._run_part(step, budget, tell)
          entry = dataclasses.replace(entry, waited=waited)
          waited = 0.0
          entries.append(entry)
          keep(entry)
        del step, packed  # or the devices hold two steps' originals
    return outcome.join(list(self._rollouts), self.probes, entries)

  def _room(self, examples) -> likelihood.Room | None:
    """What options need, if their likelihood is asked for."""
    if not self._scorers:
      return None
    asked = [examples.words(k) for k in range(len(examples))]
    return likelihood.room_for(self.agent.tokenizer, asked)

  def _pack(self, part: Part, examples, room: likelihood.Room | None) -> Packed:
    """Arrays of a part's examples."""
    packer = dataclasses.replace(
      self.agent.packer, image_capacity=part.capacity
    )
    originals = packer.originals(examples, part.share)
    batches, options = {}, {}
    for budget, agent in self._agents.items():
      batch = agent.packer.pack(examples, [budget] * len(examples), originals)
      batches[budget] = dataclasses.replace(batch, originals=None)
    for budget, scorer in self._scorers.items():
      batch, words = scorer.pack(examples, room, originals)
      options[budget] = dataclasses.replace(batch, originals=None), words
    examples = batches_lib.in_place(examples, originals)
    return Packed(examples, originals, batches, options)

  def _place(self, name, params, number, part, packed: Packed) -> _Step:
    """Moves the originals to the devices, for all budgets."""
    began = time.perf_counter()
    originals = agent_lib.device_batch(packed.originals)
    originals = jax.block_until_ready(originals)
    seconds = time.perf_counter() - began
    return _Step(name, params, number, part, packed, originals, seconds)

  def _with_views(self, params, batch: Batch, budget: int) -> Batch:
    """The batch with its views encoded, if two prompts are to share them."""
    if budget not in self._scorers:
      return batch
    visual = self._views[budget](params, batch)
    return dataclasses.replace(batch, visual=visual)

  def _option_logps(self, step: _Step, batch: Batch, budget: int):
    """Of this process's questions; None if they are not asked for."""
    if budget not in self._scorers:
      return [None] * len(step.packed.examples)
    prompts, words = agent_lib.device_batch(step.packed.options[budget])
    prompts = dataclasses.replace(
      prompts, originals=batch.originals, visual=batch.visual
    )
    return self._scorers[budget](step.params, prompts, words)

  def _run_part(self, step: _Step, budget: int, progress) -> Entry:
    """The questions of a batch at one budget, with all probes."""
    began = time.perf_counter() - step.seconds
    batch = agent_lib.device_batch(step.packed.batches[budget])
    batch = dataclasses.replace(batch, originals=step.originals)
    batch = self._with_views(step.params, batch, budget)
    # All probes share the prompts, views included.
    prefix = self._prefills[budget](step.params, batch)
    prefix = jax.block_until_ready(prefix)
    prefilled = time.perf_counter() - began
    logps = self._option_logps(step, batch, budget)
    batch = dataclasses.replace(batch, visual=None)
    key = jax.random.key(self.config.eval.seed)  # on the mesh, if there is one
    key = jax.random.fold_in(key, step.number)
    numbers = step.part.numbers[self.share.rows]
    rows, records = [], []
    for k, probe in enumerate(self.probes, 1):
      new, shown, seconds = self._run_batch(
        step, key, numbers, batch, prefix, budget, probe
      )
      if probe is Probe.NONE:
        new = [
          dataclasses.replace(row, option_logps=values)
          for row, values in zip(new, logps)
        ]
        records, plain = shown, prefilled + seconds
      rows += zip(numbers, new)
      progress(k, f"{step.name}, {budget} tokens, {probe.name.lower()}")
    program = budget, step.part.capacity, step.part.share
    compiled = program not in self._compiled
    self._compiled.add(program)
    mine = Entry(step.number, budget, rows, records, plain, compiled)
    return merge(mine, parallel.gather([pack(mine)]))

  def _run_batch(self, step: _Step, key, numbers, batch, prefix, budget, probe):
    """Rows and records of this process, and the seconds to the verdicts.

    `numbers` are those of its questions among all; what follows them in
    the step's examples only fills the batch.
    """
    began = time.perf_counter()
    agent, part = self._agents[budget], step.packed.examples[: len(numbers)]
    trajectory = self._rollouts[budget](
      step.params, batch, agent.texts, key, jnp.int32(probe), prefix
    )
    terms = parallel.fetch(self._box_terms(batch, trajectory))
    host = parallel.fetch(trajectory)
    verdicts = scoring.judge(agent.turns(host)[: len(part)], part)
    seconds = time.perf_counter() - began
    label = probe.name.lower()
    rows = items_lib.make_items(part, budget, label, host, verdicts, terms)
    shown = [
      k for k, number in enumerate(numbers) if number < self.config.eval.records
    ]
    if probe is not Probe.NONE or not shown:
      return rows, [], seconds
    # The pictures come from the examples.
    plain = dataclasses.replace(batch, originals=None)
    cut = jax.tree.map(
      lambda x: x[shown] if np.ndim(x) else x, (parallel.fetch(plain), host)
    )
    records = records_lib.make_records(
      agent,
      self.reward,
      step.name,
      budget,
      [part[k] for k in shown],
      *cut,
      [verdicts[k] for k in shown],
    )
    return rows, [(numbers[k], r) for k, r in zip(shown, records)], seconds
