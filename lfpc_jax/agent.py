"""Everything that a config says about the policy and its episodes, built once.

Training, evaluation and the other commands share it: the tokeniser, the
policy's sizes and parameters, the limits of an episode, the packer of
prompts, and the texts that the environment writes.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import checkpoints, parallel
from lfpc_jax.data import prompts
from lfpc_jax.data.batches import Packer
from lfpc_jax.data.tokenizer import Tokenizer
from lfpc_jax.errors import UserError
from lfpc_jax.models import lora, parameters, published, published_config
from lfpc_jax.models.config import LoraConfig, PolicyConfig, check_dtype
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout.observation import Texts
from lfpc_jax.rollout.tool_call import ByteTable
from lfpc_jax.rollout.types import EpisodeConfig, Trajectory

ASSETS = pathlib.Path(__file__).parent / "assets"


@dataclasses.dataclass(frozen=True)
class Agent:
  """A policy with all that surrounds it.

  Attributes:
    directory: the published files it starts from.
    tokenizer: its tokeniser.
    policy: its sizes and precision.
    episodes: limits of an episode.
    packer: turns examples into batches.
    texts: what the environment writes.
    precision: of the parameters in each top-level part.
    seed: of the adapters that the policy may begin with.
  """

  directory: pathlib.Path
  tokenizer: Tokenizer
  policy: PolicyConfig
  episodes: EpisodeConfig
  packer: Packer
  texts: Texts
  precision: Mapping[str, str]
  seed: int = 0

  def turns(self, trajectory: Trajectory) -> list[list[list[str]]]:
    """The policy's text of each turn of each rollout.

    Fetches these fields alone if the trajectory is on the device; of many
    processes, each reads the rollouts of its own prompts.
    """
    number, start, end, tokens = parallel.fetch(
      (
        trajectory.turns,
        trajectory.turn_start,
        trajectory.turn_end,
        trajectory.tokens,
      )
    )

    def texts(i, j):
      spans = zip(start[i, j], end[i, j], strict=True)
      parts = [tokens[i, j, a:b] for a, b in spans][: number[i, j]]
      return [self.tokenizer.decode(part.tolist()) for part in parts]

    p, g = number.shape
    return [[texts(i, j) for j in range(g)] for i in range(p)]


def find_model(path: str) -> pathlib.Path:
  """A directory of published files; a bare name is a shipped model."""
  shipped = ASSETS / path
  if not path:
    raise UserError(
      "policy.path is empty: name a shipped model, as in "
      "--config.policy.path=tiny_qwen, or a directory of published files"
    )
  if shipped.is_dir():
    return shipped
  directory = pathlib.Path(path).expanduser()
  if not directory.is_dir():
    names = sorted(p.name for p in ASSETS.iterdir() if p.is_dir())
    raise UserError(
      f"policy.path={path!r}: no such directory, and the shipped models are "
      f"{', '.join(names)}"
    )
  return directory


def episode_config(rollout: Mapping[str, Any], **changes: Any) -> EpisodeConfig:
  """The limits in a config's `rollout` section, which also has `prompts`."""
  names = {field.name for field in dataclasses.fields(EpisodeConfig)}
  kept = {name: value for name, value in rollout.items() if name in names}
  return EpisodeConfig(**(kept | changes))


def environment_texts(
  tokenizer: Tokenizer, style: str, vocab_size: int
) -> Texts:
  """The environment's token ids; a turn ends at a call's end or at im_end."""
  before, after = prompts.observation_tokens(tokenizer, style)
  errors, lengths = prompts.error_tokens(tokenizer, style)
  special = tokenizer.special
  stops = np.array([special.tool_call_end, special.im_end], np.int32)
  pad = np.int32(special.image_pad)
  table = ByteTable.of(tokenizer, vocab_size)
  arrays = (before, after, errors, lengths, pad, stops)
  return Texts(*(jnp.asarray(a, jnp.int32) for a in arrays), table)


def make_agent(
  config: Mapping[str, Any],
  view_capacity: int,
  sizes: PolicyConfig | None = None,
  **episode_changes: Any,
) -> Agent:
  """Reads the published directory that `config.policy.path` names.

  Args:
    config: a whole config, see configs/.
    view_capacity: visual tokens of the largest global view.
    sizes: of another policy than the directory's, to compile ahead of time.
    **episode_changes: EpisodeConfig fields that differ from config.rollout.

  Raises:
    UserError: something in the config or the directory is wrong.
  """
  directory = find_model(config["policy"]["path"])
  fields = ("dtype", "remat", "logit_chunk", "attention", "attention_chunk")
  policy = dataclasses.replace(
    sizes or published_config.load_config(directory),
    **{name: config["policy"][name] for name in fields},
    lora=LoraConfig(**config["policy"]["lora"]),
  )
  tokenizer = Tokenizer.load(directory)
  style = config["policy"]["prompt_style"]
  packer = Packer(
    tokenizer=tokenizer,
    style=style,
    view_capacity=view_capacity,
    view_min_tokens=config["gap"]["min_tokens"],
    text_capacity=config["rollout"]["text_capacity"],
    image_capacity=tuple(config["data"]["image_capacity"]),
    target_capacity=config["data"]["max_boxes"],
  )
  return Agent(
    directory=directory,
    tokenizer=tokenizer,
    policy=policy,
    episodes=episode_config(config["rollout"], **episode_changes),
    packer=packer,
    texts=environment_texts(tokenizer, style, policy.text.vocab_size),
    precision=_precision(config["policy"], policy),
    seed=config["seed"],
  )


def direct_packer(agent: Agent) -> Packer:
  """The agent's packer for prompts that are answered at once, without a tool.

  They end with the answer's opening tag, which has room of its own.
  """
  opening = len(agent.tokenizer.encode(prompts.ANSWER_OPENING))
  return dataclasses.replace(
    agent.packer,
    direct=True,
    text_capacity=agent.packer.text_capacity + opening,
  )


def _precision(
  config: Mapping[str, Any], policy: PolicyConfig
) -> dict[str, str]:
  """The precision that each part of the parameters is kept in."""
  for name in ("dtype", "param_dtype", "frozen_dtype"):
    check_dtype(f"policy.{name}", config[name])
  kinds = config["param_dtype"], config["frozen_dtype"]
  parts = parameters.abstract(policy)
  frozen = lora.frozen_parts(parts, config["freeze"])
  return {name: kinds[name in frozen] for name in parts}


def load_params(agent: Agent, checkpoint: str) -> Params:
  """Parameters of a training checkpoint, or the published ones if it is ''.

  A checkpoint may be a run's directory (its latest step), a step's directory,
  or another directory of published files. Each device reads its part of the
  parameters, as the active mesh has it.

  Raises:
    UserError: there is none, it is damaged, or it is of another policy.
  """
  shardings = parameters.shardings(agent.policy)
  if checkpoint and not list(pathlib.Path(checkpoint).glob("*.safetensors")):
    return _restore(agent, checkpoint, shardings)
  source = checkpoint or agent.directory
  if checkpoint:
    stored = published_config.load_config(source)
    published_config.check_same(agent.policy, stored, source)
  _, params = published.load(source, agent.policy, agent.precision, shardings)
  return _with_adapters(agent, params)


def _with_adapters(agent: Agent, params: Params) -> Params:
  """Fresh adapters where the config wants some and there are none.

  They have the precision of a checkpoint's, so that training that goes on
  from one rounds nothing.
  """
  kind = agent.precision.get(lora.PART)
  params = lora.with_fresh(agent.policy, params, agent.seed, kind)
  shardings = parameters.shardings(agent.policy)
  return params if shardings is None else jax.device_put(params, shardings)


def _restore(agent: Agent, checkpoint: str, shardings: Any) -> Params:
  """Parameters of a training checkpoint; it may be without adapters."""
  target = parameters.abstract(agent.policy, agent.precision)
  if shardings is not None:
    target = jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      target,
      shardings,
    )
  content = checkpoints.read_extra(checkpoint)
  stored = content.get("config", {}).get("policy", {}).get("lora", {})
  if stored.get("rank"):
    if LoraConfig(**stored) != agent.policy.lora:
      raise UserError(
        f"the checkpoint {checkpoint} was trained with policy.lora={stored}: "
        "give the same fields"
      )
  else:
    target.pop(lora.PART, None)
  params = checkpoints.restore_params(checkpoint, target)
  return _with_adapters(agent, params)


def committed(tree: Any) -> Any:
  """The same arrays, committed to the devices that they are on.

  What a checkpoint gives is committed, what a published file gives is not,
  and a program is compiled for one or the other.
  """
  return jax.device_put(tree, jax.tree.map(lambda x: x.sharding, tree))


def device_batch(batch: Any) -> Any:
  """Moves a host batch, of this process's prompts, to the devices."""
  if parallel.current_mesh() is not None:
    return parallel.shard_batch(batch)
  return jax.tree.map(jax.device_put, batch)
