"""What a step's programs take, as shapes; what a mesh refuses, found by them.

Tracing a program with shapes computes and compiles nothing, but names every
array that two rules put on one mesh axis or that does not divide over it.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lfpc_jax import parallel
from lfpc_jax.agent import Agent
from lfpc_jax.rl import placement
from lfpc_jax.rl.types import Lesson
from lfpc_jax.rl.update import Learner
from lfpc_jax.rollout.types import Batch, Trajectory


def batch_of(agent: Agent, prompts: int, visual: bool = False) -> Batch:
  """A packed batch as ShapeDtypeStructs, over the active mesh.

  Args:
    agent: its packer gives the sizes.
    prompts: P.
    visual: whether the views are encoded already.

  Raises:
    UserError: the prompts do not divide over the mesh.
  """
  packer, width = agent.packer, agent.policy.text.width
  slots = packer.view_capacity + packer.text_capacity
  boxes = packer.target_capacity

  def of(*shape, dtype=jnp.int32):
    shape = (prompts, *shape)
    axes = ("prompt",) + (None,) * (len(shape) - 1)
    place = parallel.named_sharding(axes, shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  return Batch(
    tokens=of(slots),
    positions=of(slots, 3),
    visual_index=of(slots),
    length=of(),
    next_position=of(),
    originals=of(*packer.image_capacity, 3, dtype=jnp.uint8),
    size=of(2),
    grid=of(2),
    targets=of(boxes, 4),
    target_valid=of(boxes, dtype=jnp.bool_),
    visual=of(packer.view_capacity, width, dtype=jnp.dtype(agent.policy.dtype))
    if visual
    else None,
  )


def whole(tree: Any) -> Any:
  """Shapes of arrays that every device has whole."""

  def place(x):
    sharding = parallel.named_sharding((None,) * x.ndim)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(place, tree)


def key() -> jax.ShapeDtypeStruct:
  """Of a random key."""
  return whole(jax.eval_shape(lambda: jax.random.key(0)))


def trajectory_of(
  rollout: Callable[..., Trajectory], arguments: tuple[Any, ...]
) -> Trajectory:
  """What a rollout gives, each device with the rollouts of its prompts."""
  shapes = jax.eval_shape(rollout, *arguments)

  def place(x):
    axes = ("prompt", "rollout") + (None,) * (x.ndim - 2)
    return jax.ShapeDtypeStruct(
      x.shape,
      x.dtype,
      sharding=parallel.named_sharding(axes[: x.ndim], x.shape),
    )

  return jax.tree.map(place, shapes)


def lesson_of(batch: Batch, trajectory: Trajectory) -> Lesson:
  """What an update learns from."""
  like = trajectory.length

  def of(dtype):
    return jax.ShapeDtypeStruct(like.shape, dtype, sharding=like.sharding)

  return Lesson(batch, trajectory, of(jnp.float32), of(jnp.bool_))


def check_training(
  agent: Agent,
  learner: Learner,
  prompts: int,
  encode: Callable[..., Any],
  rollout: Callable[..., Trajectory],
  update: Callable[..., Any],
) -> None:
  """Refuses a mesh that a step's programs cannot run on; without one, nothing.

  Args:
    agent: the policy in training.
    learner: its update.
    prompts: P.
    encode: the views of a batch, or None for all, by parameters and batch.
    rollout: the rollout.
    update: the update.

  Raises:
    UserError: names the array's axes, and the rule or the size.
  """
  if parallel.current_mesh() is None:
    return
  state = placement.abstract_state(learner, agent.precision)
  batch = batch_of(agent, prompts)
  visual = jax.eval_shape(encode, state.params, batch)
  batch = dataclasses.replace(batch, visual=visual)
  arguments = (state.params, batch, whole(agent.texts), key())
  lesson = lesson_of(batch, trajectory_of(rollout, arguments))
  reference = state.params if learner.config.kl else None
  jax.eval_shape(update, state, lesson, reference)


def check_evaluation(
  agent: Agent,
  prompts: int,
  prefill: Callable[..., Any],
  rollout: Callable[..., Trajectory],
) -> None:
  """The same of an evaluation's programs, for a batch of its questions."""
  if parallel.current_mesh() is None:
    return
  params = placement.abstract_params(agent.policy, agent.precision)
  batch = batch_of(agent, prompts)
  prefix = jax.eval_shape(prefill, params, batch)
  probe = whole(jax.ShapeDtypeStruct((), jnp.int32))
  arguments = (params, batch, whole(agent.texts), key(), probe, prefix)
  trajectory_of(rollout, arguments)
