"""Runs a policy over held-out questions, with and without probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import agent as agent_lib
from lfpc_jax import files, parallel
from lfpc_jax.data import loader
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import items as items_lib
from lfpc_jax.evaluation import probe_results
from lfpc_jax.evaluation import records as records_lib
from lfpc_jax.evaluation.items import Item
from lfpc_jax.models.parameters import Params
from lfpc_jax.report.records import RolloutRecord, save_records
from lfpc_jax.rl import scoring
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rollout import episode
from lfpc_jax.rollout.probes import Probe


class _Piece(NamedTuple):
  """What one process found in one call of the rollout, and its place."""

  order: tuple[int, int]
  rows: list[Item]
  records: list[RolloutRecord]


@dataclasses.dataclass
class Evaluation:
  """What an evaluation found.

  Attributes:
    rows: one for each question, budget and probe.
    records: rollouts to look at, without probes.
    seconds: per question without probes, by budget; the first batch, which
      compiles, is left out unless it is the only one.
    compile_seconds: of the first batch beyond the others, by budget.
  """

  rows: list[Item]
  records: list[RolloutRecord]
  seconds: dict[int, float]
  compile_seconds: dict[int, float]

  def save(self, folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Writes items, probes, records (.jsonl) and, last, evaluation.json."""
    folder.mkdir(parents=True, exist_ok=True)
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
  """Compiles one program for each budget, whatever the policy's weights."""

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
        functools.partial(episode.encode_prompt, agent.policy, capacity=budget)
      )
      for budget, agent in self._agents.items()
    }
    self._rollouts = {
      budget: jax.jit(episode.Rollout(agent.policy, agent.episodes, budget))
      for budget, agent in self._agents.items()
    }
    self._box_terms = jax.jit(items_lib.box_terms)
    self.share = parallel.batch_share(config.eval.batch)

  @property
  def agent(self) -> agent_lib.Agent:
    """The policy's files, the same for all budgets."""
    return next(iter(self._agents.values()))

  def run(
    self,
    name: str,
    params: Params,
    examples: Sequence[Example],
    progress: Callable[[int, str], None] = lambda done, doing: None,
  ) -> Evaluation:
    """Evaluates one policy.

    Args:
      name: the policy's, for records.
      params: its parameters.
      examples: the questions, which may be decoded lazily.
      progress: told the number of batches done and what runs.
    """
    found, pieces = Evaluation([], [], {}, {}), []
    params = agent_lib.committed(params)
    times = {budget: [] for budget in self._rollouts}
    done, size, share = 0, self.config.eval.batch, self.share
    sampler = loader.BatchSampler(
      0, size, len(examples), share.index, share.count, shuffle=False
    )
    with loader.BatchLoader(
      examples,
      sampler,
      num_steps=sampler.steps_per_epoch,
      transform=self._pack,
    ) as batches:
      for step, (full, packed) in batches:
        # The last batch is filled up with the first questions.
        start = step * size + share.rows.start
        part = full[: max(0, len(examples) - start)]
        whole = min(size, len(examples) - step * size)
        for budget in self._rollouts:
          began = time.perf_counter()
          batch = agent_lib.device_batch(packed[budget])
          # All probes share the prompts, views included.
          prefix = self._prefills[budget](params, batch)
          prefix = jax.block_until_ready(prefix)
          prefilled = time.perf_counter() - began
          for probe in self.probes:
            rows, records, seconds = self._run_batch(
              name, params, start, part, batch, prefix, budget, probe
            )
            # Within a step budget by budget, so the counts are the order.
            pieces.append(_Piece((done, share.index), rows, records))
            if probe is Probe.NONE:
              times[budget].append((prefilled + seconds, whole))
            done += 1
            progress(done, f"{name}, {budget} tokens, {probe.name.lower()}")
    for budget in self._rollouts:
      self._note_times(found, budget, times[budget])
    return self._joined(found, pieces)

  def _joined(self, found: Evaluation, pieces: list[_Piece]) -> Evaluation:
    """All processes' pieces, in the order in which one would find them.

    Processes with the same share of the questions have found the same.
    """
    known = {piece.order: piece for piece in parallel.gather(pieces)}
    for order in sorted(known):
      found.rows += known[order].rows
      found.records += known[order].records
    return found

  def batches(self, number: int) -> int:
    """Number of batches that `run` works through for `number` questions."""
    per_pass = -(-number // self.config.eval.batch)
    return per_pass * len(self.probes) * len(self._rollouts)

  def _pack(self, step, examples):
    """The examples and, by budget, their batch of NumPy arrays."""
    del step
    return examples, {
      budget: agent.packer.pack(examples, [budget] * len(examples))
      for budget, agent in self._agents.items()
    }

  def _run_batch(self, name, params, start, part, batch, prefix, budget, probe):
    """Rows and records of this process, and the seconds to the verdicts.

    `start` is the number of its first question among all.
    """
    began = time.perf_counter()
    agent = self._agents[budget]
    key = jax.device_put(jax.random.key(self.config.eval.seed))
    trajectory = self._rollouts[budget](
      params, batch, agent.texts, key, jnp.int32(probe), prefix
    )
    terms = parallel.fetch(self._box_terms(batch, trajectory))
    host = parallel.fetch(trajectory)
    verdicts = scoring.judge(agent.turns(host)[: len(part)], part)
    seconds = time.perf_counter() - began
    label = probe.name.lower()
    rows = items_lib.make_items(part, budget, label, host, verdicts, terms)
    number = min(self.config.eval.records - start, len(part))
    if probe is not Probe.NONE or number <= 0:
      return rows, [], seconds
    cut = jax.tree.map(
      lambda x: x[:number] if np.ndim(x) else x, (parallel.fetch(batch), host)
    )
    records = records_lib.make_records(
      agent,
      self.reward,
      name,
      budget,
      part[:number],
      *cut,
      verdicts[:number],
    )
    return rows, records, seconds

  def _note_times(self, found, budget, times) -> None:
    steady = times[1:] or times
    per_question = sum(t for t, _ in steady) / sum(n for _, n in steady)
    found.seconds[budget] = per_question
    found.compile_seconds[budget] = max(
      0.0, times[0][0] - per_question * times[0][1]
    )
