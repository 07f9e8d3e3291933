"""What a step wastes, of rollouts and times worked out by hand."""

import types

import numpy as np
import pytest

from lfpc_jax.rollout.types import EpisodeConfig
from tests import scripts

waste = scripts.load("experiments/speed/waste.py")


def _trajectory():
  """Four prompts of two rollouts; turns of 1 to 9 tokens, at most two."""
  first = np.array([[2, 3], [9, 4], [3, 3], [8, 2]])
  second = np.array([[0, 5], [6, 0], [1, 0], [0, 0]])
  start = np.stack([np.ones_like(first), first + 10], axis=-1)
  return types.SimpleNamespace(
    turn_start=start,
    turn_end=start + np.stack([first, second], axis=-1),
    turns=1 + (second > 0),
    steps=np.int32(9 + 6),
    length=np.array([[10, 20], [15, 15], [20, 20], [10, 10]]),
    crops=np.array([[0, 1], [1, 0], [1, 0], [0, 0]]),
    grids=np.full((4, 2, 1, 2), 2),
  )


def test_the_steps_of_rows_are_counted_by_turns():
  assert waste.decoding(_trajectory()) == {
    "taken": 15 * 8,
    "written": 34 + 12,
    # The prompts' own steps: 3 + 5, 9 + 6, 3 + 1, 8.
    "sorted, 2 waves": (3 + 5 + 9 + 6) * 4,
    "sorted, 4 waves": (4 + 8 + 8 + 15) * 2,
  }


def test_waves_that_were_taken_count_their_own_rows():
  trajectory = _trajectory()
  with pytest.raises(ValueError, match="do not make 15 steps"):
    waste.decoding(trajectory, waves=2)
  trajectory.steps = np.int32(9 + 6 + 8 + 1)
  assert waste.decoding(trajectory, waves=2)["taken"] == 24 * 4


def test_empty_slots_are_shares_of_the_capacity():
  batch = types.SimpleNamespace(
    visual_index=np.array([[-1, 0, 1, -1, -1, -1]] * 4),
    tokens=np.zeros((4, 6)),
    length=np.array([4, 5, 4, 3]),
    grid=np.array([[1, 2]] * 4),
  )
  episodes = EpisodeConfig(
    max_response_tokens=29, crop_max_tokens=16, crop_min_tokens=4
  )
  found = waste.padding(batch, _trajectory(), episodes, capacity=3)
  assert found == pytest.approx(
    {
      "view slots": 1 / 3,
      "prompt text slots": 1 - 2 / 3,
      "suffix slots": 1 - 15 / 30,
      "crop slots": 1 - 3 / 8 * 4 / 16,
    }
  )


def test_a_device_is_idle_between_an_end_and_a_later_call():
  spans = [
    ("rollout", 0.0, 5.0),
    ("score", 5.5, 5.75),
    ("update", 5.5, 9.0),  # called before the score had ended
    ("rollout", 9.0, 12.0),
    ("score", 12.25, 12.5),
  ]
  assert waste.idle(spans) == {
    "rollout to score": [0.5, 0.25],
    "score to update": [0.0],
    "update to rollout": [0.0],
  }
