"""A run while it goes on: a page of its rollouts, and trackers of its numbers.

Process 0 alone writes. What it shows has been computed anyway; a step that is
not shown costs nothing.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from lfpc_jax import config as config_lib
from lfpc_jax import metrics, parallel, trackers
from lfpc_jax.agent import Agent
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation.records import make_records
from lfpc_jax.report import page, plots
from lfpc_jax.report.records import RolloutRecord
from lfpc_jax.rl.rewards import RewardConfig

_TRACKED = 4  # rollouts whose pictures and texts trackers get

PAGE = "report.html"
"""In the run's folder."""


class Seen(NamedTuple):
  """What a step has rolled out, as the training loop holds it."""

  examples: Any  # P of them
  batch: Any  # NumPy arrays
  trajectory: Any  # on the device
  verdicts: Any  # P x G
  advantages: Any  # f32[P, G] on the device


class Watch:
  """Shows a run as its config's `train` section wants it."""

  def __init__(
    self,
    config: Any,
    workdir: pathlib.Path,
    agent: Agent,
    reward: RewardConfig,
    start_step: int,
  ):
    """Opens the trackers.

    Args:
      config: the whole config.
      workdir: the run's folder.
      agent: the policy with all that surrounds it.
      reward: weights and rules.
      start_step: the first step of this process.

    Raises:
      UserError: a field makes no sense, or a tracker's package is missing.
    """
    self._config, self._workdir = config, pathlib.Path(workdir)
    self._agent, self._reward = agent, reward
    self._trackers: list[trackers.Tracker] = []
    fields, self._enabled = config.train, jax.process_index() == 0
    if fields.report_every < 0 or fields.report_prompts < 1:
      raise UserError(
        f"train.report_every={fields.report_every} must be at least 0, and "
        f"train.report_prompts={fields.report_prompts} at least 1"
      )
    if self._enabled and fields.tensorboard:
      self._trackers.append(trackers.TensorBoard(self._workdir, start_step))
    if self._enabled and fields.wandb:
      plain = json.loads(config_lib.config_json(config))
      self._trackers.append(
        trackers.WeightsAndBiases(
          fields.wandb, config.name, plain, self._workdir
        )
      )

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Hands a step's numbers, on the host, to the trackers."""
    for tracker in self._trackers:
      tracker.scalars(step, values)

  def rollouts(
    self, step: int, seen: Seen | None, last: bool = False
  ) -> str | None:
    """Shows a step's rollouts if it is this step's turn.

    Args:
      step: its number.
      seen: its rollouts, if it has any.
      last: whether the run ends or stops after it, which is shown too.

    Returns:
      A line for the user: where the page is, the first time, or why there is
      none. A page that cannot be written ends no training.
    """
    every = self._config.train.report_every
    due = every and (last or not (step + 1) % every)
    if not self._enabled or not due or seen is None:
      return None
    path = self._workdir / PAGE
    known = path.exists()
    try:
      records = self._records(seen)
      for tracker in self._trackers:
        tracker.rollouts(step, records[:_TRACKED])
      self._write(path, step, records)
    except OSError as error:
      return f"no report of step {step + 1}: {error}"
    return None if known else f"report: {path}"

  def _records(self, seen: Seen) -> list[RolloutRecord]:
    """All rollouts of the step's first prompts."""
    number = min(self._config.train.report_prompts, len(seen.examples))

    def first(tree):
      # Fetched whole: a slice on the device would wait for the update.
      return jax.tree.map(
        lambda x: x[:number] if np.ndim(x) else x, parallel.fetch(tree)
      )

    # What grows with the response, but for its text, is not shown.
    trajectory = dataclasses.replace(
      seen.trajectory,
      positions=None,
      visual_index=None,
      written=None,
      logp=None,
    )
    batch, trajectory = first(seen.batch), first(trajectory)
    return make_records(
      self._agent,
      self._reward,
      self._config.name,
      batch.grid.prod(axis=-1),
      seen.examples[:number],
      batch,
      trajectory,
      seen.verdicts[:number],
      first(seen.advantages),
      trajectory.crops.shape[1],
    )

  def _write(
    self, path: pathlib.Path, step: int, records: list[RolloutRecord]
  ) -> None:
    rows = metrics.read_metrics(self._workdir)
    curves = plots.curves_from_metrics({self._config.name: rows})
    page.write_page(
      path,
      f"{self._config.name}: step {step + 1} of {self._config.train.steps}",
      curves=curves,
      rollouts=records,
      notes=(
        f"All rollouts of {self._config.train.report_prompts} of the step's "
        f"{self._config.rollout.prompts} questions, as they were sampled for "
        "the update.",
      ),
    )

  def close(self) -> None:
    """Closes the trackers."""
    for tracker in self._trackers:
      tracker.close()
    self._trackers.clear()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
