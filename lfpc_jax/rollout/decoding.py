"""One turn of every row, decoded token by token in loops on the device.

A step reads the cache as far as the longest row that still writes: there is a
loop for each of a few extents, and a longer one begins where a row outgrows
the last. What lies beyond is empty in every such row, so the tokens do not
depend on it.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lfpc_jax.models import decoder, policy
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout import sampling
from lfpc_jax.rollout.observation import Texts
from lfpc_jax.rollout.types import EpisodeConfig, Trajectory

_LEAST = 32  # slots below which reading fewer gains nothing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """The rollout under way.

  The last filled slot of each row is pending: its token is known, its keys
  and values are not in the cache yet.
  """

  trajectory: Trajectory
  cache: decoder.SuffixCache
  position: jax.Array  # rotary position of the next token, i32[P, G]
  done: jax.Array  # bool[P, G]
  key: jax.Array
  turn: jax.Array  # i32[]


def at(index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Indices [p, g, index[p, g, ...]] for gathers and scatters."""
  shape = index.shape + (1,) * (3 - index.ndim)
  index = index.reshape(shape)
  p, g = index.shape[:2]
  return jnp.arange(p)[:, None, None], jnp.arange(g)[None, :, None], index


def put(array: jax.Array, slot: jax.Array, value: jax.Array) -> jax.Array:
  """array[p, g, slot[p, g]] = value[p, g]; out of range writes nothing."""
  return array.at[at(slot)].set(value[:, :, None], mode="drop")


def extents(slots: int) -> tuple[int, ...]:
  """How far steps may read a cache of `slots`: a quarter, half, all of it.

  Rounded up to what accelerators lay out without gaps, where that is little.
  """
  unit = 128 if slots > 512 else 8
  parts = {-(-(slots - 1) // (part * unit)) * unit for part in (4, 2)}
  return (*sorted(e for e in parts if _LEAST <= e < slots), slots)


def decode_turn(
  policy_config: PolicyConfig,
  config: EpisodeConfig,
  params: Params,
  texts: Texts,
  prefix: decoder.PrefixCache,
  state: State,
) -> tuple[State, jax.Array]:
  """Decodes until every row's turn has ended.

  Args:
    policy_config: the policy.
    config: the limits of an episode.
    params: the policy's parameters.
    texts: what the environment writes; its `stops` end a turn.
    prefix: the prompts' keys and values.
    state: before the turn; rows that are `done` write nothing.

  Returns:
    The state, and which rows ended with a stop token, bool[P, G].
  """
  start, slots = state.trajectory.length, config.slots

  def fits(extent: int, carry):
    state, active, _ = carry
    longest = jnp.max(jnp.where(active, state.trajectory.length, 0))
    return (longest > 0) & (longest <= extent)

  def step(extent: int, carry):
    state, active, stopped = carry
    trajectory = state.trajectory
    pending = jnp.where(active, trajectory.length - 1, slots)[..., None]
    where = at(jnp.minimum(pending, slots - 1))
    x = jnp.take(params["embedding"], trajectory.tokens[where], axis=0)
    hidden, cache = decoder.extend(
      policy_config,
      params,
      x,
      trajectory.positions[where],
      pending,
      prefix,
      state.cache,
      extent,
    )
    logits = policy.logits(policy_config, params, hidden[:, :, 0])
    key = jax.random.fold_in(state.key, trajectory.steps)
    token, logp = sampling.sample(key, logits, config.temperature, config.top_p)
    slot = jnp.where(active, trajectory.length, slots)
    position = jnp.repeat(state.position[..., None], 3, axis=-1)
    length = trajectory.length + active
    trajectory = dataclasses.replace(
      trajectory,
      tokens=put(trajectory.tokens, slot, token),
      positions=put(trajectory.positions, slot, position),
      written=put(trajectory.written, slot, active),
      logp=put(trajectory.logp, slot, logp),
      length=length,
      steps=trajectory.steps + 1,
    )
    stop = active & jnp.any(token[..., None] == texts.stops, axis=-1)
    full = (length - start >= config.max_turn_tokens) | (length >= slots)
    state = dataclasses.replace(
      state,
      trajectory=trajectory,
      cache=cache,
      position=state.position + active,
    )
    return state, active & ~stop & ~full, stopped | stop

  active = ~state.done
  carry = (state, active, jnp.zeros_like(active))
  for extent in extents(slots):
    carry = jax.lax.while_loop(
      functools.partial(fits, extent), functools.partial(step, extent), carry
    )
  return carry[0], carry[2]
