"""Records of rollouts: what the policy wrote and what it was told."""

import dataclasses

import numpy as np

from lfpc_jax import agent as agent_lib
from lfpc_jax.evaluation import records
from lfpc_jax.rl import scoring
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import NO_CALL, Stop, Trajectory
from tests.gap_selection import sizes
from tests.rollout import scripted_policy

TEXTS = ("<tool_call>?</tool_call>", "<answer>7</answer>")


def _trajectory(agent, outcome):
  """One rollout of two turns that crops nothing."""
  tokens = np.zeros((1, 1, 60), np.int32)
  start, end = np.zeros((2, 1, 1, 2), np.int32)
  slot = 1
  for turn, text in enumerate(TEXTS):
    words = agent.tokenizer.encode(text)
    start[..., turn], end[..., turn] = slot, slot + len(words)
    tokens[0, 0, slot : slot + len(words)] = words
    slot += len(words)
  zero = np.zeros((1, 1), np.int32)
  fields = {field.name: None for field in dataclasses.fields(Trajectory)}
  return Trajectory(
    **fields
    | dict(
      tokens=tokens,
      boxes=np.zeros((1, 1, 1, 4), np.int32),
      crops=zero,
      turns=zero + 2,
      turn_start=start,
      turn_end=end,
      outcome=np.array([[outcome]], np.int32),
      stop=zero + Stop.ANSWERED,
    )
  )


def _record(*outcome):
  agent = agent_lib.make_agent(sizes.load(), 4, group=1)
  examples = scripted_policy.make_examples(1)
  trajectory = _trajectory(agent, outcome)
  (record,) = records.make_records(
    agent,
    RewardConfig(),
    "one",
    4,
    examples,
    agent.packer.pack(examples, [4]),
    trajectory,
    scoring.judge(agent.turns(trajectory), examples),
  )
  return record


def test_a_record_has_the_error_that_came_back():
  record = _record(Failure.NOT_JSON, NO_CALL)
  assert tuple(turn.text for turn in record.turns) == TEXTS
  assert [turn.call_status for turn in record.turns] == ["NOT_JSON", "NONE"]
  assert [turn.observation for turn in record.turns] == [
    "The call is not valid JSON.",
    "",
  ]


def test_the_last_turns_error_came_back_to_nobody():
  record = _record(Failure.NOT_JSON, Failure.BOX_EMPTY)
  assert [turn.call_status for turn in record.turns] == [
    "NOT_JSON",
    "BOX_EMPTY",
  ]
  assert record.turns[1].observation == ""
