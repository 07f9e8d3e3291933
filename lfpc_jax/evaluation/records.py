"""Rollouts as a reader looks at them: pictures, text, boxes, rewards."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import jax
import numpy as np
from PIL import Image

from lfpc_jax import parallel
from lfpc_jax.agent import Agent
from lfpc_jax.data import prompts
from lfpc_jax.data.examples import Example
from lfpc_jax.report.records import RolloutRecord, TurnRecord, jpeg_bytes
from lfpc_jax.rl import rewards, scoring
from lfpc_jax.rl.answers import Verdict
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import (
  CROPPED,
  NO_CALL,
  NO_ROOM,
  Batch,
  Stop,
  Trajectory,
)


def _shown(image: np.ndarray, box: Sequence[int], grid, cell: int) -> bytes:
  """A region as the policy saw it, JPEG."""
  size = (int(grid[1]) * cell, int(grid[0]) * cell)
  region = Image.fromarray(image).crop(tuple(int(v) for v in box))
  region = region.resize(size, Image.Resampling.BICUBIC)
  return jpeg_bytes(np.asarray(region), quality=95)


# The reward's terms; their sum is no term.
_PARTS = tuple(
  field.name
  for field in dataclasses.fields(rewards.RewardTerms)
  if field.name != "total"
)


def make_records(
  agent: Agent,
  reward: RewardConfig,
  name: str,
  budget: int | Sequence[int],
  examples: Sequence[Example],
  batch: Batch,
  trajectory: Trajectory,
  verdicts: Sequence[Sequence[Verdict]],
  advantages: np.ndarray | None = None,
  samples: int = 1,
) -> list[RolloutRecord]:
  """Records of each prompt's first rollouts; arrays on the host.

  Args:
    agent: the policy with all that surrounds it.
    reward: weights and rules.
    name: the policy's, for a reader.
    budget: visual tokens of the global view, of all prompts or of each.
    examples: P of them.
    batch: the prompts.
    trajectory: P x G rollouts.
    verdicts: of the judge.
    advantages: what the update weighed them with, f32[P, G], in training.
    samples: rollouts of a prompt, at most G.
  """
  correct, formed = scoring.verdict_arrays(verdicts)
  with parallel.host_only():
    geo = rewards.grounding_reward(
      trajectory.boxes,
      scoring.executed(trajectory),
      batch.targets,
      batch.target_valid,
      batch.size,
      reward,
    )
    terms = jax.device_get(
      rewards.total_reward(correct, formed, trajectory.crops, geo.geo, reward)
    )
  turns = agent.turns(trajectory)
  budgets = np.broadcast_to(budget, len(examples)).tolist()
  records = []
  for p, example in enumerate(examples):
    height, width = example.image.shape[:2]
    view = _shown(
      example.image,
      (0, 0, width, height),
      batch.grid[p],
      agent.policy.vision.cell,
    )
    original = jpeg_bytes(example.image)
    for g in range(samples):
      weighted = {part: float(getattr(terms, part)[p, g]) for part in _PARTS}
      texts = _turn_records(agent, example.image, trajectory, (p, g), turns)
      records.append(
        RolloutRecord(
          id=example.id,
          policy=name,
          question=example.question,
          answer=example.answer,
          prediction=verdicts[p][g].answer or "",
          category=example.category,
          correct=bool(correct[p, g]),
          rewards=weighted,
          view_jpeg=view,
          original_jpeg=original,
          original_size=(height, width),
          targets=tuple(tuple(map(float, box)) for box in example.boxes),
          turns=tuple(texts),
          stop_reason=Stop(int(trajectory.stop[p, g])).name.lower(),
          budget=budgets[p],
          sample=g,
          advantage=None if advantages is None else float(advantages[p, g]),
        )
      )
  return records


def _turn_records(agent, image, trajectory: Trajectory, which, turns):
  """Of the rollout `which`, a pair of a prompt and one of its rollouts."""
  failures = prompts.find_style(agent.packer.style).failures
  cell = agent.policy.vision.cell
  texts, crop = turns[which[0]][which[1]], 0
  for number, text in enumerate(texts):
    outcome = int(trajectory.outcome[which][number])
    if outcome != CROPPED:
      unfailed = {NO_CALL: "NONE", NO_ROOM: "NO_ROOM"}
      status = unfailed.get(outcome) or Failure(outcome).name
      # The last turn's error is never shown to the policy.
      told = outcome >= 0 and number + 1 < len(texts)
      yield TurnRecord(
        text, status, observation=failures[outcome] if told else ""
      )
      continue
    box = trajectory.boxes[which][crop]
    yield TurnRecord(
      text,
      "OK",
      tuple(map(float, trajectory.boxes_shown[which][crop])),
      tuple(map(float, box)),
      _shown(image, box, trajectory.grids[which][crop], cell),
    )
    crop += 1
