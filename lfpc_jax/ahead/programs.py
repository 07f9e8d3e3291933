"""The programs of a run with the shapes and shardings of their arguments.

They are those that training and evaluation compile: nothing here computes.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from lfpc_jax import parallel
from lfpc_jax.agent import Agent
from lfpc_jax.ahead import cost
from lfpc_jax.models import lora
from lfpc_jax.rl import placement, shapes
from lfpc_jax.rl.update import Learner
from lfpc_jax.rollout import encoding, episode


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled program of a step.

  Attributes:
    name: for a reader.
    function: what `jax.jit` has made.
    arguments: ShapeDtypeStructs with shardings.
    work: by formula.
    held: bytes on one device that training keeps beside the program's
      arguments: moments, a reference policy, and of the encoder's, which are
      the tower alone, all other parameters.
  """

  name: str
  function: Callable[..., Any]
  arguments: tuple[Any, ...]
  work: cost.Work
  held: float = 0.0


def on_device(tree: Any) -> float:
  """Bytes of an argument's arrays on one device, padding left out."""
  return float(
    sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(tree)
      if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    )
  )


def training(
  agent: Agent, learner: Learner, prompts: int, waves: int = 1
) -> list[Program]:
  """The encoder, the rollout and the update of a step of P prompts."""
  policy, capacity = agent.policy, learner.capacity
  state = placement.abstract_state(learner, agent.precision)
  frozen = "vision" in lora.frozen_parts(state.params, learner.frozen)
  batch = shapes.batch_of(agent, prompts, visual=frozen)
  sizes = dataclasses.replace(
    _sizes(agent, prompts),
    slices=learner.config.micro_batches,
    rollout_slices=learner.config.rollout_slices,
    waves=waves,
  )
  rollout = episode.Rollout(policy, agent.episodes, capacity, waves)
  arguments = (state.params, batch, shapes.whole(agent.texts), shapes.key())
  lesson = shapes.lesson_of(batch, shapes.trajectory_of(rollout, arguments))
  reference = state.params if learner.config.kl else None
  held = on_device((state.opt_state, reference))
  places = jax.tree.map(lambda x: x.sharding, state)
  update = jax.jit(
    learner.update, donate_argnums=0, out_shardings=(places, None)
  )
  found = [
    Program(
      "rollout",
      jax.jit(rollout),
      arguments,
      cost.rollout(policy, agent.episodes, sizes, encodes=not frozen),
      held,
    ),
    Program(
      "update",
      update,
      (state, lesson, reference),
      cost.update(policy, agent.episodes, sizes, frozen),
    ),
  ]
  if frozen:
    plain = dataclasses.replace(batch, visual=None)
    encoder = _encoder(policy, capacity, waves, (state.params, plain))
    others = {k: x for k, x in state.params.items() if k != "vision"}
    held += on_device(others)
    found.insert(
      0, Program("encode", *encoder, cost.encode(policy, sizes), held)
    )
  return found


def _encoder(policy, capacity, waves, arguments):
  encode = functools.partial(
    encoding.encode_views, policy, capacity=capacity, waves=waves
  )
  return jax.jit(encode), arguments


def evaluation_names(budget: int) -> tuple[str, str]:
  """Of an evaluation's programs at a budget of visual tokens."""
  name = f"evaluation at {budget:,} tokens"
  return name, f"prefill of {name}"


def evaluation(agent: Agent, prompts: int) -> list[Program]:
  """Prefill and rollout of an evaluation of one batch of questions."""
  policy, capacity = agent.policy, agent.packer.view_capacity
  params = placement.abstract_params(policy, agent.precision)
  batch, sizes = shapes.batch_of(agent, prompts), _sizes(agent, prompts)
  prefill = functools.partial(encoding.encode_prompt, policy, capacity=capacity)
  rollout = episode.Rollout(policy, agent.episodes, capacity)
  name, prefill_name = evaluation_names(capacity)
  probe = shapes.whole(jax.ShapeDtypeStruct((), jnp.int32))
  return [
    Program(
      name,
      jax.jit(rollout),
      (params, batch, shapes.whole(agent.texts), shapes.key(), probe),
      cost.rollout(policy, agent.episodes, sizes, encodes=True),
    ),
    Program(
      prefill_name,
      jax.jit(prefill),
      (params, batch),
      cost.prefill(policy, sizes),
    ),
  ]


def _sizes(agent: Agent, prompts: int) -> cost.Sizes:
  mesh, packer = parallel.current_mesh(), agent.packer
  # A matrix of the decoder tells how many devices share one copy of them all.
  parts = parallel.parts("embed", rollout=True)
  parts *= parallel.parts("mlp", rollout=True)
  return cost.Sizes(
    prompts,
    packer.view_capacity + packer.text_capacity,
    packer.view_capacity,
    mesh.size // parts,
  )
