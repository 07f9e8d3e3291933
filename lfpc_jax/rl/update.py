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

from lfpc_jax import slicing
from lfpc_jax.errors import UserError
from lfpc_jax.models import decoder, lora, parameters
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.rl import gradient_norm, token_losses
from lfpc_jax.rl.types import Lesson, TrainState, UpdateConfig
from lfpc_jax.rollout import encoding
from lfpc_jax.rollout.types import EpisodeConfig


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

  def _loss(self, trained, prefix, frozen, part, reference, counts):
    """The weighted sum of the token losses of a lesson and its `_weights`.

    `counts` are the whole batch's tokens in the loss and all that the policy
    wrote, of which metrics are means; `prefix` has the prompts' keys and
    values, or None.
    """
    tokens, all_written = counts
    lesson, weights = part
    if prefix is not None:
      prefix = decoder.PrefixCache(*prefix, lesson.batch.length - 1)
    trajectory = lesson.trajectory
    params = trained | frozen
    logp, entropy = token_losses.token_log_probabilities(
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
    loss, clipped = token_losses.token_losses(
      self.config, logp, trajectory.logp, reference, lesson.advantages
    )
    loss = jnp.sum(jnp.where(mask, loss, 0.0) * weights[..., None])
    away = jnp.abs(logp - trajectory.logp)
    metrics = {
      "loss": loss,
      "clipped": jnp.sum(clipped & mask) / tokens,
      # Of all that was written: a step whose groups are all dropped has an
      # entropy too.
      "entropy": jnp.sum(entropy) / all_written,
      "sampler_gap": jnp.max(jnp.where(written, away, 0.0)),
    }
    if self.config.kl:
      kl = jnp.where(mask, token_losses.kl(logp, reference), 0.0)
      metrics["kl"] = jnp.sum(kl) / tokens
    return loss, jax.lax.stop_gradient(metrics)

  def _reference(self, lesson: Lesson, reference: Params | None) -> jax.Array:
    if not self.config.kl:
      return jnp.zeros_like(lesson.trajectory.logp)
    logp, _ = token_losses.token_log_probabilities(
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
    counts = tuple(
      jnp.maximum(jnp.sum(x), 1).astype(jnp.float32)
      for x in (written, lesson.trajectory.written)
    )
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
        counts,
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
      `entropy` is of all tokens written, whether the loss has them or not;
      `sampler_gap` is the largest difference between the sampler's and the
      learner's log-probability of a token. `skipped` counts the updates that
      were not applied because their loss or gradient is not finite.
    """
    trained, frozen = self._split(state.params)
    opt_state = state.opt_state
    first, skipped = {}, jnp.float32(0)
    for number in range(self.config.updates_per_step):
      grads, metrics = self._gradients(trained, frozen, lesson, reference)
      norm = gradient_norm.global_norm(grads)
      change, moments = self.optimiser.update(grads, opt_state, trained)
      changed = optax.apply_updates(trained, change), moments
      sound = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
      trained, opt_state = _where(sound, changed, (trained, opt_state))
      skipped += ~sound
      if number == 0:
        first = metrics | {"gradient_norm": norm}
    params = trained | frozen
    state = TrainState(state.step + 1, params, opt_state, state.key)
    return state, first | {"skipped": skipped}
