"""The rollout: P x G multi-turn episodes as one compiled program.

  prefill the prompts
  while an episode goes on:
    while a turn goes on:  decode one token in every row
    read the calls from the token ids, place the boxes
    cut the crops from the originals, encode them, prefill the observations

Nothing goes to the host in between.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from lfpc_jax import slicing
from lfpc_jax.models import decoder, policy
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout import decoding, encoding, observation, placing, probes
from lfpc_jax.rollout.decoding import State, at, put
from lfpc_jax.rollout.observation import Texts
from lfpc_jax.rollout.types import (
  NO_CALL,
  NO_ROOM,
  Batch,
  EpisodeConfig,
  Stop,
  Trajectory,
)


def _empty_trajectory(batch: Batch, config: EpisodeConfig) -> Trajectory:
  """Only slot 0 is filled, with the prompt's last token."""
  p, g, t = batch.tokens.shape[0], config.group, config.slots
  c, m = config.max_crops, config.max_turns

  def full(*shape, dtype=jnp.int32, value=0):
    return jnp.full((p, g, *shape), value, dtype)

  rows = jnp.arange(p)
  last = batch.tokens[rows, batch.length - 1][:, None]
  place = batch.positions[rows, batch.length - 1][:, None]
  return Trajectory(
    tokens=full(t).at[:, :, 0].set(last),
    positions=full(t, 3).at[:, :, 0].set(place),
    visual_index=full(t, value=-1),
    length=full(value=1),
    written=full(t, dtype=bool),
    logp=full(t, dtype=jnp.float32),
    boxes=full(c, 4),
    boxes_shown=full(c, 4, dtype=jnp.float32),
    grids=full(c, 2),
    crops=full(),
    turns=full(),
    turn_start=full(m),
    turn_end=full(m),
    outcome=full(m, value=NO_CALL),
    stop=full(value=Stop.TURNS),
    steps=jnp.int32(0),
  )


class Rollout:
  """The rollout's static parts; `__call__` is what gets compiled."""

  def __init__(
    self,
    policy_config: PolicyConfig,
    config: EpisodeConfig,
    capacity: int,
    waves: int = 1,
  ):
    """What is static.

    Args:
      policy_config: the policy.
      config: the limits of an episode.
      capacity: number of visual tokens of the largest view.
      waves: slices of the prompts that roll out one after another, where the
        caches of all at once are too much.
    """
    self.policy = policy_config
    self.config = config
    self.capacity = capacity
    self.waves = waves

  def __call__(
    self,
    params: Params,
    batch: Batch,
    texts: Texts,
    key: jax.Array,
    probe: jax.Array | None = None,
    prefix: decoder.PrefixCache | None = None,
  ) -> Trajectory:
    """Runs G episodes for each of the P prompts of the batch.

    Args:
      params: the policy's parameters.
      batch: the prompts.
      texts: what the environment writes.
      key: of all sampling.
      probe: a probes.Probe i32[]; None leaves the probes out of the program.
      prefix: what `encoding.encode_prompt` gives, if several rollouts share it.
    """
    params = placing.gathered(self.policy, params)
    if self.waves > 1:
      if probe is not None or prefix is not None:
        raise ValueError("waves are for training: no probe, no given prefix")
      return self._in_waves(params, batch, texts, key)
    return self._at_once(params, batch, texts, key, probe, prefix)

  def _in_waves(self, params, batch, texts, key) -> Trajectory:
    """Slices of the prompts, each with random numbers of its own."""

    def wave(index):
      part = jax.tree.map(
        lambda x: slicing.take(x, 0, self.waves, index), batch
      )
      own = jax.random.fold_in(key, index)
      return self._at_once(params, part, texts, own)

    found = jax.lax.map(wave, jnp.arange(self.waves))
    whole = jax.tree.map(
      lambda x: slicing.join(x, 0) if x.ndim > 1 else jnp.sum(x), found
    )
    return placing.by_prompt(whole)

  def _at_once(
    self, params, batch, texts, key, probe=None, prefix=None
  ) -> Trajectory:
    """All episodes side by side."""
    prefix, state = self.start(params, batch, key, prefix)

    def turn(state):
      return self.turn(params, batch, texts, prefix, probe, state)

    state = jax.lax.while_loop(self.goes_on, turn, state)
    return placing.by_prompt(state.trajectory)

  def start(
    self,
    params: Params,
    batch: Batch,
    key: jax.Array,
    prefix: decoder.PrefixCache | None = None,
  ) -> tuple[decoder.PrefixCache, State]:
    """The prompts' cache, and the state before the first turn."""
    if prefix is None:
      prefix = encoding.encode_prompt(
        self.policy, params, batch, self.capacity, rollout=True
      )
    trajectory = placing.by_prompt(_empty_trajectory(batch, self.config))
    p, g = trajectory.length.shape
    return prefix, State(
      trajectory=trajectory,
      cache=placing.suffix(
        decoder.empty_suffix(self.policy, p, g, self.config.slots)
      ),
      position=jnp.broadcast_to(batch.next_position[:, None], (p, g)),
      done=jnp.zeros((p, g), bool),
      key=key,
      turn=jnp.int32(0),
    )

  def goes_on(self, state: State) -> jax.Array:
    """Whether any episode has a turn to come, bool[]."""
    return jnp.any(~state.done) & (state.turn < self.config.max_turns)

  def turn(self, params, batch, texts, prefix, probe, state: State) -> State:
    """The policy writes a turn; those that called get their observation."""
    start = state.trajectory.length
    state, ended_well = decoding.decode_turn(
      self.policy, self.config, params, texts, prefix, state
    )
    trajectory = state.trajectory
    cell = self.policy.vision.cell
    call = observation.read(
      self.config,
      texts,
      trajectory.tokens,
      start,
      trajectory.length,
      (batch.grid * cell)[:, None],
      batch.size[:, None],
      self.config.max_crops - trajectory.crops,
    )
    shown = call
    if probe is not None:
      shown = observation.with_box(
        self.config, texts, call, probes.replace_box(probe, batch, call)
      )
    made = call.made & ~state.done
    fits = trajectory.length + shown.length < self.config.slots
    last = state.turn + 1 == self.config.max_turns
    goes_on = made & fits & ~last
    stop = jnp.select(
      [~made & ended_well, ~made & (trajectory.length >= self.config.slots)]
      + [~made, last, ~fits],
      [Stop.ANSWERED, Stop.RESPONSE_LENGTH, Stop.TURN_LENGTH]
      + [Stop.TURNS, Stop.RESPONSE_LENGTH],
      Stop.TURNS,
    )
    result = jnp.where(made, call.failure, NO_CALL)
    slot = jnp.where(state.done, self.config.max_turns, state.turn)
    trajectory = dataclasses.replace(
      trajectory,
      turns=trajectory.turns + ~state.done,
      turn_start=put(trajectory.turn_start, slot, start),
      turn_end=put(trajectory.turn_end, slot, trajectory.length),
      outcome=put(
        trajectory.outcome,
        slot,
        jnp.where(made & call.good & ~goes_on, NO_ROOM, result),
      ),
      stop=jnp.where(state.done | goes_on, trajectory.stop, stop),
    )
    state = dataclasses.replace(
      state, trajectory=trajectory, done=~goes_on, turn=state.turn + 1
    )
    if self.config.max_turns == 1:
      return state  # no turn is left that could read an observation

    def observe(state):
      features = self._crop_features(
        params, batch, shown, goes_on & call.good, probe, state
      )
      return self._observe(
        params, texts, prefix, call.box, shown, features, goes_on, state
      )

    return jax.lax.cond(jnp.any(goes_on), observe, lambda s: s, state)

  def _crop_features(self, params, batch, call, cropped, probe, state):
    """Visual tokens of the crops, [P, G, N, D]."""

    def change(view):
      if probe is None:
        return view
      key = jax.random.fold_in(state.key, -1 - state.turn)
      return probes.replace_pixels(probe, key, view)

    return encoding.encode_crops(
      self.policy,
      params,
      batch.originals,
      call.box,
      call.grid,
      cropped,
      self.config.crop_max_tokens,
      change,
    )

  def _observe(
    self, params, texts, prefix, box, call, features, goes_on, state: State
  ) -> State:
    """Writes and prefills the observations of the rows that go on.

    `box` is the policy's own, which is kept; `call` is what it is shown.
    """
    old, slots = state.trajectory, self.config.slots
    capacity = self.config.crop_max_tokens
    tokens, visual, positions, after = observation.compose(
      self.config, texts, call, state.position
    )
    cropped = goes_on & call.good
    number = jnp.arange(tokens.shape[-1])
    inside = goes_on[..., None] & (number < call.length[..., None])
    place = at(jnp.where(inside, old.length[..., None] + number, slots))
    index = jnp.where(visual >= 0, old.crops[..., None] * capacity + visual, -1)
    crop = jnp.where(cropped, old.crops, self.config.max_crops)
    trajectory = dataclasses.replace(
      old,
      tokens=old.tokens.at[place].set(tokens, mode="drop"),
      positions=old.positions.at[place].set(positions, mode="drop"),
      visual_index=old.visual_index.at[place].set(index, mode="drop"),
      length=jnp.where(goes_on, old.length + call.length, old.length),
      boxes=put(old.boxes, crop, box),
      boxes_shown=put(old.boxes_shown, crop, call.box_shown),
      grids=put(old.grids, crop, call.grid),
      crops=old.crops + cropped,
    )
    # Feed the pending token and all of the observation but its last token,
    # which becomes the pending one.
    fed = jnp.where(inside, old.length[..., None] - 1 + number, slots)
    where = at(jnp.minimum(fed, slots - 1))
    index = trajectory.visual_index[where] - old.crops[..., None] * capacity
    x = policy.embed(
      self.policy,
      params,
      trajectory.tokens[where],
      index,
      features,
      rollout=True,
    )
    _, cache = decoder.extend(
      self.policy,
      params,
      x,
      trajectory.positions[where],
      fed,
      prefix,
      state.cache,
    )
    return dataclasses.replace(
      state,
      trajectory=trajectory,
      cache=cache,
      position=jnp.where(goes_on, after, state.position),
    )
