"""What is timed: policies, questions and limits, ours and as peers read them.

A random policy that calls the tool in every turn (calling_policy.py) writes a
call of 24 tokens, is given its crop, and writes the call again: 48 tokens an
episode, the same in every system, which is checked.
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import calling_policy
from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax.data import loader
from lfpc_jax.data import scenes as scenes_lib
from lfpc_jax.data.examples import Example
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.models.config import PolicyConfig, TextConfig, VisionConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.pretraining import initial
from lfpc_jax.rl.types import Lesson
from lfpc_jax.rollout import episode
from lfpc_jax.rollout.types import Batch, Trajectory

TURN, VIEW, CROP = 24, 16, 16  # tokens of a turn, a view, a crop
OBSERVATION = 32  # slots of a crop with the text around it
SIDE = 512  # pixels of an original
TEXT = 40  # slots of a prompt that are not visual
BOX = (10, 20, 80, 86)  # in the view's pixels
_PIECES = 11  # of a call


def miniature(tokenizer: Tokenizer) -> PolicyConfig:
  """The shipped policy's sizes with a head of its own, 1.9 million numbers."""
  config = initial.tiny_config(tokenizer)
  return dataclasses.replace(config, tie_word_embeddings=False)


def hundred_million(tokenizer: Tokenizer) -> PolicyConfig:
  """About 100 million parameters, vocabulary left aside."""
  return PolicyConfig(
    vision=VisionConfig(
      depth=8, width=384, mlp_width=1024, heads=6, full_attention_blocks=(3, 7)
    ),
    text=TextConfig(
      vocab_size=tokenizer.vocab_size,
      width=896,
      mlp_width=2432,
      depth=10,
      heads=14,
      kv_heads=2,
      mrope_section=(8, 12, 12),
      max_positions=8192,
    ),
    image_token_id=tokenizer.special.image_pad,
  )


SIZES = {"miniature": miniature, "100M": hundred_million}


def parser(description: str) -> argparse.ArgumentParser:
  """The flags that the scripts of one size share."""
  found = argparse.ArgumentParser(description=description)
  found.add_argument("--workdir", type=pathlib.Path, required=True)
  found.add_argument("--size", choices=SIZES, default="miniature")
  found.add_argument("--prompts", type=int, default=8)
  found.add_argument("--group", type=int, default=8)
  found.add_argument("--rounds", type=int, default=3)
  return found


class Problem(NamedTuple):
  """A policy and its questions."""

  folder: pathlib.Path  # of the policy, and of what peers read
  config: Any
  agent: agent_lib.Agent
  params: Params
  examples: list[Example]

  @property
  def parameters(self) -> int:
    """How many the policy has."""
    return sum(x.size for x in jax.tree.leaves(self.params))

  def pack(self) -> Batch:
    """The questions on the device."""
    budgets = [self.config.gap.tokens] * len(self.examples)
    return agent_lib.device_batch(
      self.agent.packer.pack(self.examples, budgets)
    )

  def rollout(self) -> episode.Rollout:
    """What gets compiled."""
    return episode.Rollout(
      self.agent.policy, self.agent.episodes, self.config.gap.tokens
    )


def turn(tokens: int, box: tuple[int, int, int, int]) -> tuple[str, ...]:
  """The tokens of a turn that ends with the call of a box."""
  return calling_policy.call(box, tokens - _PIECES)


def write_policy(folder: pathlib.Path, size: str) -> pathlib.Path:
  """The folder of a policy that calls the tool; written if it is not there."""
  policy = folder / size
  if not (policy / "config.json").exists():
    calling_policy.write(policy, SIZES[size], turn(TURN, BOX))
  return policy


def settings(
  folder: pathlib.Path,
  size: str,
  prompts: int,
  group: int,
  view: int,
  crops: int = 1,
  side: int = SIDE,
  text: int = TEXT,
) -> Any:
  """The config, of a policy in `folder / size`; see `make`."""
  config = config_lib.load_config("configs/tiny.py:stage1")
  config.policy.path = str(folder / size)
  config.data.dir = str(folder / "data")
  config.data.image_capacity = (side, side)
  config.gap.tokens = view
  config.rollout.update(
    prompts=prompts,
    group=group,
    max_crops=crops,
    max_turns=crops + 1,
    text_capacity=text,
    max_turn_tokens=TURN,
    max_response_tokens=TURN + (TURN + OBSERVATION) * crops,
    crop_max_tokens=CROP,
  )
  config.policy.freeze = ()  # as a PyTorch loop trains all
  return config


def make(
  folder: pathlib.Path,
  size: str,
  prompts: int,
  group: int,
  view: int = VIEW,
  micro_batches: int = 1,
  crops: int = 1,
  side: int = SIDE,
  text: int = TEXT,
  remat: str = "",
) -> Problem:
  """Builds what is not there yet, and writes what the peers read.

  Args:
    folder: of policies and data.
    size: one of SIZES.
    prompts: questions.
    group: rollouts of each.
    view: visual tokens of the global view; a call's box, which lies in it,
      stays as it is.
    micro_batches: of the update.
    crops: of an episode, a turn before each and one after the last.
    side: pixels of an original's side, a multiple of SIDE; each pixel of a
      scene becomes a square.
    text: slots of a prompt that are not visual.
    remat: what the update keeps for its gradient, `policy.remat`; '': the
      config's.
  """
  policy = write_policy(folder, size)
  config = settings(*(folder, size, prompts, group, view), crops, side, text)
  config.rl.micro_batches = micro_batches
  config.policy.remat = remat or config.policy.remat
  config = config_lib.freeze(config)
  scenes_lib.prepare(config.data.dir, config.data.difficulty)
  source = loader.open_data(config.data, "train")
  agent = agent_lib.make_agent(config, view)
  params = agent_lib.committed(agent_lib.load_params(agent, ""))
  examples = [_enlarged(source[k], side // SIDE) for k in range(prompts)]
  problem = Problem(policy, config, agent, params, examples)
  _export(problem)
  return problem


def _enlarged(example: Example, times: int) -> Example:
  image = example.image.repeat(times, axis=0).repeat(times, axis=1)
  return dataclasses.replace(example, image=image, boxes=example.boxes * times)


def lesson(batch: Batch, trajectory: Trajectory) -> Lesson:
  """The rollouts with random advantages; all of them enter the loss."""
  rng = np.random.default_rng(0)
  advantages = rng.normal(size=trajectory.length.shape).astype(np.float32)
  return Lesson(
    batch,
    trajectory,
    jnp.asarray(advantages),
    jnp.ones(advantages.shape, bool),
  )


def _export(problem: Problem) -> None:
  """What peers need beside the published files."""
  agent, rollout = problem.agent, problem.config.rollout
  view = problem.config.gap.tokens
  batch = agent.packer.pack(problem.examples, [view] * len(problem.examples))
  texts = jax.device_get(agent.texts)
  words = {
    "prompts": [row[:n].tolist() for row, n in zip(batch.tokens, batch.length)],
    "before": texts.before.tolist(),
    "after": texts.after.tolist(),
    "stops": texts.stops.tolist(),
    "image_pad": int(texts.image_pad),
    "group": rollout.group,
    "max_turn_tokens": rollout.max_turn_tokens,
    "view": [problem.config.gap.min_tokens, view],
    "crop": [rollout.crop_min_tokens, rollout.crop_max_tokens],
    "turns": rollout.max_turns,
  }
  (problem.folder / "problem.json").write_text(json.dumps(words))
  images = {str(k): e.image for k, e in enumerate(problem.examples)}
  np.savez(problem.folder / "images.npz", **images)
