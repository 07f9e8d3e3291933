"""The policy-gradient update: GRPO on given rollouts, one compiled program.

  L = - mean over the policy's own tokens (or as `loss` says) of
        min(rho * A, clip(rho, 1 - low, 1 + high) * A)  [ - kl * k3 ]
  rho = pi(token) / pi_old(token)

`pi_old` is the sampler's own log-probability: sampler and learner are one
model code, so at the first update on fresh rollouts rho is 1 up to rounding,
and the difference is logged. Crops are rendered again from their boxes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lfpc_jax import parallel, slicing
from lfpc_jax.errors import UserError
from lfpc_jax.models import decoder, lora, parameters
from lfpc_jax.models import policy as policy_lib
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout import encoding
from lfpc_jax.rollout.types import Batch, EpisodeConfig, Trajectory

LOSSES = ("token_mean", "sequence_mean", "constant")


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
  """Rules of the update; static.

  Attributes:
    advantage: 'std' (the paper's) or 'mean_only'.
    advantage_epsilon: added to the group's std. [choice: 1e-6]
    clip_low, clip_high: the ratio's range, 1 - low to 1 + high. [choice: 0.2;
      'clip-higher' is 0.28]
    drop_zero_variance: leave groups of equal reward out of the token mean.
    loss: mean over all tokens, 'token_mean' [choice]; over each rollout's
      tokens, then over rollouts, 'sequence_mean' (GRPO's own); or the sum over
      the most tokens that there could be, 'constant' (Dr. GRPO's).
    mask_over_long: leave episodes that a limit cut off out of the loss.
    kl: weight of the KL term against the starting policy. [paper: none]
    updates_per_step: passes over the same rollouts. [choice: 1, on-policy]
    micro_batches: slices of the prompts whose gradients accumulate.
    rollout_slices: slices of each prompt's rollouts, one after another too,
      where even one prompt with all of them is too much. The prompt runs
      once for all of them, and once more for the gradient of all; the
      reference policy's, which has no gradient, runs for each slice.
  """

  advantage: str = "std"
  advantage_epsilon: float = 1e-6
  clip_low: float = 0.2
  clip_high: float = 0.2
  drop_zero_variance: bool = False
  loss: str = "token_mean"
  mask_over_long: bool = False
  kl: float = 0.0
  updates_per_step: int = 1
  micro_batches: int = 1
  rollout_slices: int = 1

  def __post_init__(self) -> None:
    """Refuses what no update can do."""
    if self.advantage not in ("std", "mean_only"):
      raise UserError(
        f"rl.advantage={self.advantage!r}: choose 'std' or 'mean_only'"
      )
    if self.loss not in LOSSES:
      raise UserError(f"rl.loss={self.loss!r}: choose one of {LOSSES}")
    for name in ("clip_low", "clip_high", "kl"):
      if getattr(self, name) < 0:
        raise UserError(f"rl.{name}={getattr(self, name)}: must be >= 0")
    if not self.advantage_epsilon > 0:
      raise UserError(
        f"rl.advantage_epsilon={self.advantage_epsilon}: must be > 0"
      )
    for name in ("updates_per_step", "micro_batches", "rollout_slices"):
      if getattr(self, name) < 1:
        raise UserError(f"rl.{name}={getattr(self, name)}: must be >= 1")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """What a checkpoint holds: everything that training changes."""

  step: jax.Array
  params: Params
  opt_state: Any
  key: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lesson:
  """Rollouts and what they are worth.

  Attributes:
    batch: the prompts.
    trajectory: the rollouts.
    advantages: f32[P, G].
    mask: rollouts that enter the loss, bool[P, G].
  """

  batch: Batch
  trajectory: Trajectory
  advantages: jax.Array
  mask: jax.Array


def token_log_probabilities(
  config: PolicyConfig,
  episodes: EpisodeConfig,
  capacity: int,
  params: Params,
  batch: Batch,
  trajectory: Trajectory,
  prefix: decoder.PrefixCache | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The learner's log-probability of each suffix token, and the entropy.

  Args:
    config: the policy.
    episodes: the limits that the rollouts were made under.
    capacity: visual tokens of the largest global view.
    params: the policy's parameters.
    batch: the prompts.
    trajectory: the rollouts.
    prefix: what `encoding.encode_prompt` gives, if that is known.

  Returns:
    f32[P, G, T] each; slot t is the token in slot t given all before it.
    Slot 0 is the prompt's and has 0.
  """
  if prefix is None:
    prefix = encoding.encode_prompt(config, params, batch, capacity)
  crops = [
    encoding.encode_crops(
      config,
      params,
      batch.originals,
      trajectory.boxes[:, :, c],
      trajectory.grids[:, :, c],
      trajectory.crops > c,
      episodes.crop_max_tokens,
    )
    for c in range(episodes.max_crops)
  ]
  x = policy_lib.embed(
    config,
    params,
    trajectory.tokens,
    trajectory.visual_index,
    jnp.concatenate(crops, axis=2),
  )
  x = parallel.constrain(x, ("prompt", "rollout", "suffix", "features"))
  slots = jnp.broadcast_to(jnp.arange(episodes.slots), x.shape[:3])
  hidden, _ = decoder.extend(
    config, params, x, trajectory.positions, slots, prefix
  )
  hidden = parallel.constrain(
    hidden[:, :, :-1], ("prompt", "rollout", "suffix", "features")
  )
  outputs = policy_lib.log_probabilities(
    config,
    params,
    hidden,
    trajectory.tokens[:, :, 1:],
    episodes.temperature or 1.0,
  )
  start = ((0, 0), (0, 0), (1, 0))
  return tuple(jnp.pad(x, start) for x in outputs)


def _token_losses(
  config: UpdateConfig, logp, old, reference, advantages
) -> tuple[jax.Array, jax.Array]:
  """Loss of each token and whether its ratio was clipped."""
  ratio = jnp.exp(logp - old)
  low, high = 1 - config.clip_low, 1 + config.clip_high
  a = advantages[..., None]
  kept, cut = ratio * a, jnp.clip(ratio, low, high) * a
  loss = -jnp.minimum(kept, cut)
  if config.kl:
    loss = loss + config.kl * _kl(logp, reference)
  return loss, cut < kept


def _kl(logp, reference) -> jax.Array:
  """k3, exp(d) - d - 1: an unbiased and positive estimate of the KL."""
  d = reference - logp
  return jnp.exp(d) - d - 1


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
  """One of two trees of arrays."""
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _some_prompts(lesson: Lesson, number: int, index: jax.Array) -> Lesson:
  """Slice `index` of `number` of the prompts, with their rollouts."""
  return jax.tree.map(lambda x: slicing.take(x, 0, number, index), lesson)


def _some_rollouts(lesson: Lesson, number: int, index: jax.Array) -> Lesson:
  """All prompts, with slice `index` of `number` of their rollouts."""

  def some(tree):
    return jax.tree.map(lambda x: slicing.take(x, 1, number, index), tree)

  return Lesson(
    lesson.batch,
    some(lesson.trajectory),
    some(lesson.advantages),
    some(lesson.mask),
  )


def _accumulated(step, total: Any, number: int) -> tuple[Any, dict]:
  """`step(total, index)` for each index; its metrics are sums, but for one."""
  if number == 1:
    return step(total, jnp.int32(0))
  total, metrics = jax.lax.scan(step, total, jnp.arange(number))
  worst = jnp.max(metrics.pop("sampler_gap"))
  summed = jax.tree.map(jnp.sum, metrics)
  return total, summed | {"sampler_gap": worst}


class Learner:
  """The update's static parts; `update` is what gets compiled."""

  def __init__(
    self,
    policy: PolicyConfig,
    episodes: EpisodeConfig,
    config: UpdateConfig,
    optimiser: optax.GradientTransformation,
    capacity: int,
    frozen: tuple[str, ...] = (),
  ):
    """`frozen` names top-level parts of the parameters that stay as they are.

    A policy with LoRA adapters trains these alone. `capacity` is the number
    of visual tokens of the largest global view.
    """
    self.policy = policy
    self.episodes = episodes
    self.config = config
    self.capacity = capacity
    self.frozen = frozen
    self.optimiser = optimiser

  def _split(self, params: Params) -> tuple[Params, Params]:
    """The trained and the frozen parts; only the first have gradients."""
    frozen = lora.frozen_parts(params, self.frozen)
    return (
      {name: part for name, part in params.items() if name not in frozen},
      {name: part for name, part in params.items() if name in frozen},
    )

  def init(self, params: Params, seed: int) -> TrainState:
    """The state before the first step."""
    unknown = set(self.frozen) - set(params)
    if unknown:
      raise UserError(
        f"policy.freeze names {sorted(unknown)}; the parts are {sorted(params)}"
      )
    opt_state = self.optimiser.init(self._split(params)[0])
    return TrainState(jnp.int32(0), params, opt_state, jax.random.key(seed))

  def _weights(self, written: jax.Array) -> jax.Array:
    """What a token of each rollout weighs in the loss, f32[P, G].

    Args:
      written: tokens that enter the loss, bool[P, G, T].
    """
    length = jnp.sum(written, axis=-1).astype(jnp.float32)
    if self.config.loss == "token_mean":
      total = jnp.maximum(jnp.sum(length), 1.0)
      return jnp.broadcast_to(1.0 / total, length.shape)
    rollouts = jnp.maximum(jnp.sum(length > 0), 1).astype(jnp.float32)
    if self.config.loss == "constant":
      length = jnp.full_like(length, self.episodes.max_response_tokens)
    return 1.0 / (jnp.maximum(length, 1.0) * rollouts)

  def _loss(self, trained, prefix, frozen, part, reference, tokens):
    """The weighted sum of the token losses of a lesson and its `_weights`.

    `tokens` is the whole batch's count, of which metrics are means; `prefix`
    has the prompts' keys and values, or None.
    """
    lesson, weights = part
    if prefix is not None:
      prefix = decoder.PrefixCache(*prefix, lesson.batch.length - 1)
    trajectory = lesson.trajectory
    params = trained | frozen
    logp, entropy = token_log_probabilities(
      self.policy,
      self.episodes,
      self.capacity,
      params,
      lesson.batch,
      trajectory,
      prefix,
    )
    written = trajectory.written
    mask = written & lesson.mask[..., None]
    logp = jnp.where(written, logp, 0.0)
    loss, clipped = _token_losses(
      self.config, logp, trajectory.logp, reference, lesson.advantages
    )
    loss = jnp.sum(jnp.where(mask, loss, 0.0) * weights[..., None])
    away = jnp.abs(logp - trajectory.logp)
    metrics = {
      "loss": loss,
      "clipped": jnp.sum(clipped & mask) / tokens,
      "entropy": jnp.sum(jnp.where(mask, entropy, 0.0)) / tokens,
      "sampler_gap": jnp.max(jnp.where(written, away, 0.0)),
    }
    if self.config.kl:
      kl = jnp.where(mask, _kl(logp, reference), 0.0)
      metrics["kl"] = jnp.sum(kl) / tokens
    return loss, jax.lax.stop_gradient(metrics)

  def _reference(self, lesson: Lesson, reference: Params | None) -> jax.Array:
    if not self.config.kl:
      return jnp.zeros_like(lesson.trajectory.logp)
    logp, _ = token_log_probabilities(
      self.policy,
      self.episodes,
      self.capacity,
      reference,
      lesson.batch,
      lesson.trajectory,
    )
    return logp

  def _gradients(self, trained, frozen, lesson: Lesson, reference):
    """Gradient of the loss, accumulated over micro-batches."""
    written = lesson.trajectory.written & lesson.mask[..., None]
    tokens = jnp.maximum(jnp.sum(written), 1).astype(jnp.float32)
    steps = dataclasses.replace(lesson.trajectory, steps=None)
    whole = dataclasses.replace(lesson, trajectory=steps)
    weights, number = self._weights(written), self.config.micro_batches

    def gradient(part, prefix=None):
      where = 0 if prefix is None else (0, 1)
      return jax.grad(self._loss, where, has_aux=True)(
        trained,
        prefix,
        frozen,
        part,
        self._reference(part[0], reference),
        tokens,
      )

    def of_prompts(total, index):
      part = _some_prompts(whole, number, index)
      own = slicing.take(weights, 0, number, index)
      if self.config.rollout_slices > 1:
        return self._of_slices(gradient, trained, frozen, (part, own), total)
      grads, metrics = gradient((part, own))
      return self._added(total, grads), metrics

    zero = jax.tree.map(jnp.zeros_like, trained)
    zero = parameters.pinned(self.policy, zero)
    return _accumulated(of_prompts, zero, number)

  def _of_slices(self, gradient, trained, frozen, part, total):
    """Adds a lesson's gradient, taken from some rollouts at a time.

    The prompts' keys and values have theirs from all rollouts, and hand it on
    once.
    """
    (lesson, weights), number = part, self.config.rollout_slices

    def keys(trained):
      params = trained | frozen
      cache = encoding.encode_prompt(
        self.policy, params, lesson.batch, self.capacity
      )
      return cache.k, cache.v

    prefix = keys(trained)

    def of_rollouts(totals, index):
      total, above = totals
      part = _some_rollouts(lesson, number, index)
      own = slicing.take(weights, 1, number, index)
      (grads, more), metrics = gradient((part, own), prefix)
      return (self._added(total, grads), jax.tree.map(jnp.add, above, more)), (
        metrics
      )

    above = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), prefix)
    (total, above), metrics = _accumulated(of_rollouts, (total, above), number)
    _, back = jax.vjp(keys, trained)
    above = jax.tree.map(lambda x, kind: x.astype(kind.dtype), above, prefix)
    return self._added(total, back(above)[0]), metrics

  def _added(self, total: Params, grads: Params) -> Params:
    """Each device adds up its own part: a sum scattered, not one for all."""
    return parameters.pinned(self.policy, jax.tree.map(jnp.add, total, grads))

  def update(
    self, state: TrainState, lesson: Lesson, reference: Params | None = None
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step's updates on the given rollouts.

    Args:
      state: before the step.
      lesson: rollouts and advantages.
      reference: parameters of the reference policy, if `kl` is used.

    Returns:
      The state after the step, and metrics f32[] of the first update:
      `sampler_gap` is the largest difference between the sampler's and the
      learner's log-probability of a token. `skipped` counts the updates that
      were not applied because their gradient is not finite.
    """
    trained, frozen = self._split(state.params)
    opt_state = state.opt_state
    first, skipped = {}, jnp.float32(0)
    for number in range(self.config.updates_per_step):
      grads, metrics = self._gradients(trained, frozen, lesson, reference)
      norm = optax.tree.norm(grads)
      change, moments = self.optimiser.update(grads, opt_state, trained)
      changed = optax.apply_updates(trained, change), moments
      trained, opt_state = _where(
        jnp.isfinite(norm), changed, (trained, opt_state)
      )
      skipped += ~jnp.isfinite(norm)
      if number == 0:
        first = metrics | {"gradient_norm": norm}
    params = trained | frozen
    state = TrainState(state.step + 1, params, opt_state, state.key)
    return state, first | {"skipped": skipped}
