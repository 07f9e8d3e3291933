"""What a policy-gradient update is given, keeps and changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from lfpc_jax.errors import UserError
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout.types import Batch, Trajectory

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
      if not 0 <= getattr(self, name) < float("inf"):  # nor NaN
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
