"""Rollouts as a reader looks at them: pictures, text, boxes, rewards."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import jax
import numpy as np
from PIL import Image

from lfpc_jax.agent import Agent
from lfpc_jax.data import prompts
from lfpc_jax.data.examples import Example
from lfpc_jax.report.records import RolloutRecord, TurnRecord, jpeg_bytes
from lfpc_jax.rl import rewards, scoring
from lfpc_jax.rl.answers import Verdict
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import CROPPED, Batch, Stop, Trajectory


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
  budget: int,
  examples: Sequence[Example],
  batch: Batch,
  trajectory: Trajectory,
  verdicts: Sequence[Sequence[Verdict]],
) -> list[RolloutRecord]:
  """One record for the first rollout of each prompt; arrays on the host."""
  correct, formed = scoring.verdict_arrays(verdicts)
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
  cell = agent.policy.vision.cell
  records = []
  for p, example in enumerate(examples):
    height, width = example.image.shape[:2]
    weighted = {part: float(getattr(terms, part)[p, 0]) for part in _PARTS}
    records.append(
      RolloutRecord(
        id=example.id,
        policy=name,
        question=example.question,
        answer=example.answer,
        prediction=verdicts[p][0].answer or "",
        category=example.category,
        correct=bool(correct[p, 0]),
        rewards=weighted,
        view_jpeg=_shown(
          example.image, (0, 0, width, height), batch.grid[p], cell
        ),
        original_jpeg=jpeg_bytes(example.image),
        original_size=(height, width),
        targets=tuple(tuple(map(float, box)) for box in example.boxes),
        turns=tuple(
          _turn_records(agent, example.image, trajectory, p, turns[p][0])
        ),
        stop_reason=Stop(int(trajectory.stop[p, 0])).name.lower(),
        budget=budget,
      )
    )
  return records


def _turn_records(agent, image, trajectory: Trajectory, p: int, texts):
  failures = prompts.find_style(agent.packer.style).failures
  cell = agent.policy.vision.cell
  crop = 0
  for number, text in enumerate(texts):
    outcome = int(trajectory.outcome[p, 0, number])
    if outcome != CROPPED:
      status = "NONE" if outcome < 0 else Failure(outcome).name
      # The last turn's error is never shown to the policy.
      told = outcome >= 0 and number + 1 < len(texts)
      yield TurnRecord(
        text, status, observation=failures[outcome] if told else ""
      )
      continue
    box = trajectory.boxes[p, 0, crop]
    yield TurnRecord(
      text,
      "OK",
      tuple(map(float, trajectory.boxes_shown[p, 0, crop])),
      tuple(map(float, box)),
      _shown(image, box, trajectory.grids[p, 0, crop], cell),
    )
    crop += 1
