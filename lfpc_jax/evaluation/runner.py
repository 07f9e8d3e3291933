"""Runs a policy over held-out questions, with and without probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import agent as agent_lib
from lfpc_jax import files, parallel
from lfpc_jax.data import loader
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import buckets, probe_results
from lfpc_jax.evaluation import items as items_lib
from lfpc_jax.evaluation import records as records_lib
from lfpc_jax.evaluation.buckets import Part
from lfpc_jax.evaluation.entries import Entry
from lfpc_jax.evaluation.items import Item
from lfpc_jax.models.parameters import Params
from lfpc_jax.report.records import RolloutRecord, save_records
from lfpc_jax.rl import scoring
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rollout import encoding, episode
from lfpc_jax.rollout.probes import Probe


@dataclasses.dataclass
class Evaluation:
  """What an evaluation found.

  Attributes:
    rows: one for each budget, probe and question, in this order.
    records: rollouts to look at, without probes.
    seconds: per question without probes, by budget; batches that compile are
      left out unless all do.
    compile_seconds: of those batches beyond the others, by budget.
  """

  rows: list[Item]
  records: list[RolloutRecord]
  seconds: dict[int, float]
  compile_seconds: dict[int, float]

  def save(self, folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Writes items, probes, records (.jsonl) and, last, evaluation.json."""
    folder.mkdir(parents=True, exist_ok=True)
    # What says that the folder is whole must not outlive what it speaks of.
    (folder / "evaluation.json").unlink(missing_ok=True)
    items_lib.save_items(folder / "items.jsonl", self.rows)
    found = probe_results.measure(manifest["policy"], self.rows)
    probe_results.save(folder / "probes.jsonl", found)
    save_records(folder / "records.jsonl", self.records)
    content = manifest | {
      "seconds_per_question": self.seconds,
      "compile_seconds": self.compile_seconds,
    }
    text = json.dumps(content, indent=2) + "\n"
    files.atomic_write(folder / "evaluation.json", text.encode())


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


class Runner:
  """Compiles one program for each budget and capacity of originals.

  The policy's weights do not matter: several policies can share a runner.
  """

  def __init__(self, config: Any):
    """Reads the policy's files and the config's eval section."""
    self.config = config
    self.probes = parse_probes(config.eval.probes)
    self.reward = RewardConfig(**config.reward)
    self._agents = {
      budget: agent_lib.make_agent(
        config, budget, group=1, temperature=config.eval.temperature
      )
      for budget in config.eval.budgets
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
    self._compiled: set[tuple[int, buckets.Size]] = set()

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
    )

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
  ) -> Evaluation:
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
    with loader.BatchLoader(
      examples,
      lambda k: np.array(parts[missing[k]].filled(size))[self.share.rows],
      num_steps=len(missing),
      transform=lambda k, full: self._pack(parts[missing[k]], full),
    ) as batches:
      for k, (full, packed) in batches:
        step = missing[k]
        for budget in self._rollouts:
          if (step, budget) in there:
            continue
          done = len(entries) * len(self.probes)
          tell = lambda n, doing, done=done: progress(done + n, doing)
          entry = self._run_part(
            name, params, step, parts[step], full, packed[budget], budget, tell
          )
          entries.append(entry)
          keep(entry)
    return self._joined(entries)

  def _joined(self, entries: Sequence[Entry]) -> Evaluation:
    """All that was found: by budget, by probe, by question."""
    budgets = list(self._rollouts)
    probes = [probe.name.lower() for probe in self.probes]
    rows = {
      (budgets.index(row.budget), probes.index(row.probe), number): row
      for entry in entries
      for number, row in entry.rows
    }
    records = {
      (budgets.index(entry.budget), number): record
      for entry in entries
      for number, record in entry.records
    }
    found = Evaluation(
      [rows[place] for place in sorted(rows)],
      [records[place] for place in sorted(records)],
      {},
      {},
    )
    for budget in budgets:
      self._note_times(found, [e for e in entries if e.budget == budget])
    return found

  def _pack(self, part: Part, examples):
    """The examples and, by budget, their batch of NumPy arrays."""
    packed, originals = {}, None
    for budget, agent in self._agents.items():
      packer = dataclasses.replace(agent.packer, image_capacity=part.capacity)
      batch = packer.pack(examples, [budget] * len(examples))
      # The same at all budgets, and by far the most of it: kept once.
      originals = batch.originals if originals is None else originals
      packed[budget] = dataclasses.replace(batch, originals=originals)
    return examples, packed

  def _run_part(
    self, name, params, step, part, full, packed, budget, progress
  ) -> Entry:
    """The questions of a batch at one budget, with all probes.

    `full` are this process's examples, `packed` their batch.
    """
    began = time.perf_counter()
    batch = agent_lib.device_batch(packed)
    # All probes share the prompts, views included.
    prefix = self._prefills[budget](params, batch)
    prefix = jax.block_until_ready(prefix)
    prefilled = time.perf_counter() - began
    numbers = part.numbers[self.share.rows]
    key = jax.random.key(self.config.eval.seed)  # on the mesh, if there is one
    key = jax.random.fold_in(key, step)
    rows, records = [], []
    for k, probe in enumerate(self.probes, 1):
      new, shown, seconds = self._run_batch(
        name, params, key, numbers, full, batch, prefix, budget, probe
      )
      rows += zip(numbers, new)
      if probe is Probe.NONE:
        records, plain = shown, prefilled + seconds
      progress(k, f"{name}, {budget} tokens, {probe.name.lower()}")
    # Processes with the same share of the questions have found the same.
    rows = {(number, row.probe): row for number, row in parallel.gather(rows)}
    compiled = (budget, part.capacity) not in self._compiled
    self._compiled.add((budget, part.capacity))
    return Entry(
      step,
      budget,
      [(number, row) for (number, _), row in rows.items()],
      list(dict(parallel.gather(records)).items()),
      plain,
      compiled,
    )

  def _run_batch(
    self, name, params, key, numbers, full, batch, prefix, budget, probe
  ):
    """Rows and records of this process, and the seconds to the verdicts.

    `numbers` are those of its questions among all; what follows them in
    `full` only fills the batch.
    """
    began = time.perf_counter()
    agent, part = self._agents[budget], full[: len(numbers)]
    trajectory = self._rollouts[budget](
      params, batch, agent.texts, key, jnp.int32(probe), prefix
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
    cut = jax.tree.map(
      lambda x: x[shown] if np.ndim(x) else x, (parallel.fetch(batch), host)
    )
    records = records_lib.make_records(
      agent,
      self.reward,
      name,
      budget,
      [part[k] for k in shown],
      *cut,
      [verdicts[k] for k in shown],
    )
    return rows, [(numbers[k], r) for k, r in zip(shown, records)], seconds

  def _note_times(self, found: Evaluation, entries: Sequence[Entry]) -> None:
    """Seconds of one budget, from its entries."""
    steady = [entry for entry in entries if not entry.compiled] or entries
    per_question = sum(e.seconds for e in steady) / sum(
      e.questions for e in steady
    )
    budget = entries[0].budget
    found.seconds[budget] = per_question
    found.compile_seconds[budget] = sum(
      max(0.0, e.seconds - per_question * e.questions)
      for e in entries
      if e.compiled
    )
