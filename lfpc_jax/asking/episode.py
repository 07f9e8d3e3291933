"""One question about one picture: the episode, turn by turn.

The episode is the rollout of training and evaluation with one prompt and one
rollout. It runs a turn at a time, each turn one call of one compiled program,
so that a turn can be shown before the next one is written; inside a turn
nothing goes to the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from lfpc_jax import agent as agent_lib
from lfpc_jax.agent import Agent
from lfpc_jax.data import gap, prompts
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout.decoding import State
from lfpc_jax.rollout.episode import Rollout
from lfpc_jax.rollout.tool_call import Failure
from lfpc_jax.rollout.types import CROPPED, NO_ROOM, Batch, Stop


@dataclasses.dataclass(frozen=True)
class Turn:
  """One turn, and what came of its tool call.

  Attributes:
    text: what the policy wrote.
    failure: why its call gave no crop; '' for a good call and for none.
    told: the error that the policy was shown for it; '' for none, also where
      no turn was left to show it in.
    box_written: (x1, y1, x2, y2) in pixels of the global view, of a crop.
    box: the region that was cut, in pixels of the original.
    grid: (rows, columns) of the crop's visual tokens.
  """

  text: str
  failure: str = ""
  told: str = ""
  box_written: tuple[float, ...] | None = None
  box: tuple[int, ...] | None = None
  grid: tuple[int, ...] | None = None


def fit(agent: Agent, example: Example) -> Agent:
  """The agent with room for an example's image and words.

  Sizes are rounded up, so that similar pictures share a compiled program.

  Raises:
    UserError: the words are more than the policy can read.
  """
  height, width = example.image.shape[:2]
  text = prompts.prompt_text(
    example.question, example.options, agent.packer.style
  )
  words = len(agent.tokenizer.encode(text))
  most = agent.policy.text.max_positions - agent.packer.view_capacity
  if words + agent.episodes.max_response_tokens > most:
    raise UserError(
      f"the question makes a prompt of {words:,} tokens, too many for a policy "
      f"of {agent.policy.text.max_positions:,} positions: shorten it"
    )
  packer = dataclasses.replace(
    agent.packer,
    image_capacity=(_round_up(height, 256), _round_up(width, 256)),
    text_capacity=max(agent.packer.text_capacity, _round_up(words, 64)),
  )
  return dataclasses.replace(agent, packer=packer)


def _round_up(number: int, step: int) -> int:
  return -(-number // step) * step


def play(
  agent: Agent, params: Params, batch: Batch, key: jax.Array
) -> Iterator[State]:
  """The state after each turn; the last trajectory is `Rollout`'s own.

  Args:
    agent: the policy's files and limits.
    params: its parameters.
    batch: the prompts, on the device.
    key: of all sampling.
  """
  rollout = Rollout(agent.policy, agent.episodes, agent.packer.view_capacity)
  prefix, state = jax.jit(rollout.start)(params, batch, key)
  write = jax.jit(rollout.turn)
  while rollout.goes_on(state):
    state = write(params, batch, agent.texts, prefix, None, state)
    yield state


def last_turn(agent: Agent, state: State) -> Turn:
  """The newest turn of the first rollout of the first prompt."""
  found, done = jax.device_get((state.trajectory, state.done))
  number = int(found.turns[0, 0]) - 1
  text = agent.turns(found)[0][0][number]
  outcome = int(found.outcome[0, 0, number])
  if outcome >= 0:
    told = prompts.find_style(agent.packer.style).failures[outcome]
    failure = Failure(outcome).name.lower()
    return Turn(text, failure, "" if done[0, 0] else told)
  if outcome != CROPPED:
    return Turn(text, "no_room" if outcome == NO_ROOM else "")
  crop = int(found.crops[0, 0]) - 1
  return Turn(
    text,
    box_written=tuple(found.boxes_shown[0, 0, crop].tolist()),
    box=tuple(found.boxes[0, 0, crop].tolist()),
    grid=tuple(found.grids[0, 0, crop].tolist()),
  )


@dataclasses.dataclass(frozen=True)
class Asked:
  """A question that is ready to be put to a policy.

  Attributes:
    agent: with room for the question.
    example: picture and question; its answer is '' where unknown.
    budget: visual tokens of the global view, at most.
    grid: (rows, columns) that the view has.
  """

  agent: Agent
  example: Example
  budget: int
  grid: tuple[int, int]

  def turns(self, params: Params, seed: int) -> Iterator[tuple[Turn, Stop]]:
    """Each turn as it is written; the last one's stop is the episode's."""
    batch = self.agent.packer.pack([self.example], [self.budget])
    batch = agent_lib.device_batch(batch)
    for state in play(self.agent, params, batch, jax.random.key(seed)):
      stop = Stop(int(state.trajectory.stop[0, 0]))
      yield last_turn(self.agent, state), stop


def prepare(
  config: Any,
  image: np.ndarray,
  question: str,
  options: Sequence[str] = (),
  answer: str = "",
) -> Asked:
  """Makes a prompt; the policy's weights are not read yet.

  Args:
    config: a whole config, see configs/; its gap decides the global view.
    image: u8[H, W, 3].
    question: what is asked.
    options: the choices of a multiple-choice question.
    answer: what is expected, '' where unknown.

  Raises:
    UserError: something in the config, or a question that is too long.
  """
  budget = gap.view_capacity(config.gap)
  agent = agent_lib.make_agent(
    config, budget, group=1, temperature=config.eval.temperature
  )
  example = Example(
    id="asked",
    image=image,
    question=question,
    answer=answer,
    category="",
    options=tuple(options),
    boxes=np.zeros((0, 4), np.int32),
    source="",
  )
  agent = fit(agent, example)
  return Asked(agent, example, budget, agent.packer.view_grid(example, budget))
