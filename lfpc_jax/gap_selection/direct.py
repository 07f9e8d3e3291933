"""Greedy answers at once, without the tool, at a budget of visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from lfpc_jax import agent as agent_lib
from lfpc_jax.agent import Agent
from lfpc_jax.data import prompts
from lfpc_jax.data.examples import Example
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout.episode import Rollout
from lfpc_jax.rollout.types import Batch


def answer_text(written: str) -> str:
  """The answer in what the policy wrote after the answer's opening tag.

  Without a closing tag, all that was written counts: an answer that a limit
  cut off can still differ from another one.
  """
  return (
    written.split(prompts.ANSWER_CLOSING)[0].removesuffix("<|im_end|>").strip()
  )


class DirectAnswers:
  """The policy's answers at one budget: one program, whatever the images.

  Attributes:
    budget: visual tokens of the largest view.
    compile_seconds: what making the program took; 0 before the first call.
  """

  def __init__(
    self, config: Mapping[str, Any], params: Params, budget: int
  ) -> None:
    """Compiles nothing yet.

    Args:
      config: a whole config, see configs/.
      params: the policy's.
      budget: visual tokens; also the static capacity of the views, so that
        a low level costs little.
    """
    selection = config["selection"]
    self.budget = budget
    self.compile_seconds = 0.0
    self._params = params
    self._size = selection["batch"]
    self._agent = _direct_agent(config, budget)
    self._program = None

  def pack(self, examples: Sequence[Example]) -> tuple[Batch, int]:
    """A full batch on the host, and how many rows of it are examples'.

    It is filled up with its last example.
    """
    number = len(examples)
    full = list(examples) + [examples[-1]] * (self._size - number)
    packer = self._agent.packer
    return packer.pack(full, [self.budget] * len(full)), number

  def __call__(self, batch: Batch, number: int) -> tuple[list[str], np.ndarray]:
    """Answers of the batch's first `number` rows.

    Returns:
      The answers, and the visual tokens of each one's view, i64[number].
    """
    arguments = (
      self._params,
      agent_lib.device_batch(batch),
      self._agent.texts,
      jax.random.key(0),  # greedy: never used
    )
    if self._program is None:
      began = time.perf_counter()
      rollout = Rollout(self._agent.policy, self._agent.episodes, self.budget)
      self._program = jax.jit(rollout).lower(*arguments).compile()
      self.compile_seconds = time.perf_counter() - began
    trajectory = jax.device_get(self._program(*arguments))
    texts = self._agent.turns(trajectory)[:number]
    grids = np.asarray(batch.grid[:number], np.int64)
    return [answer_text(row[0][0]) for row in texts], grids.prod(axis=-1)


def _direct_agent(config: Mapping[str, Any], budget: int) -> Agent:
  """The policy in an episode of one short greedy turn."""
  tokens = config["selection"]["answer_tokens"]
  agent = agent_lib.make_agent(
    config,
    budget,
    group=1,
    max_turns=1,
    max_turn_tokens=tokens,
    max_response_tokens=tokens,
    # No crop is ever cut; a small one keeps the program small.
    max_crops=1,
    crop_min_tokens=1,
    crop_max_tokens=1,
    temperature=0.0,
    top_p=1.0,
  )
  return dataclasses.replace(agent, packer=agent_lib.direct_packer(agent))
