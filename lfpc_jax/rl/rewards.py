"""The rewards of both stages: pure array functions of a batch of groups.

LFPC (arXiv 2603.27494), for a rollout with answer, crops and text:

  r = r_acc + r_format + 1[r_acc > 0] * r_tool            (stage 1)
      + geo_weight * r_geo                                (stage 2)

and for a crop Bp against the nested boxes B_1 (the smallest that suffices)
to B_n:

  overlap = |Bp ∩ B_1| / |B_1|
  r_IoU   = max_i IoU(Bp, B_i)  if overlap > tau,  else 0
  r_l1    = 1 - min_i d_L1(Bp, B_i)
  r_geo   = w * r_IoU + (1 - w) * r_l1

The paper leaves the weights, d_L1's scale, the rule for several crops and
the gate open: each is a field of `RewardConfig`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lfpc_jax.errors import UserError
from lfpc_jax.image import boxes as boxes_lib

_CHOICES = {
  "tool_rule": ("conditional", "unconditional", "none"),
  "crop_rule": ("last", "first", "best", "mean"),
  "geo_gate": ("none", "accuracy"),
  "l1_normaliser": ("size", "diagonal"),
}
_NOT_NEGATIVE = ("accuracy", "format_penalty", "tool", "geo_weight")
_FRACTIONS = ("tau", "iou_weight")
_SWITCHES = ("coverage_condition", "innermost_only")

# A coverage of exactly tau must fail the strict comparison everywhere, and
# accelerators may divide with an error of some units in the last place.
_COVERAGE_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class RewardConfig:
  """Weights and rules of the reward; plain values, hashable for `jit`.

  The paper's are `tau`, the conditional tool rule, the coverage condition and
  the nested boxes; every other value is a choice where the paper is silent,
  with DeepEyes' weights for stage 1.

  Attributes:
    accuracy: reward of a correct answer.
    format_penalty: taken off a badly formed rollout.
    tool: reward of cropping.
    tool_rule: 'conditional' pays `tool` for a correct answer with at least
      one executed crop, 'unconditional' for the crop alone, 'none' never.
    geo_weight: weight of the grounding reward: 0 in stage 1, 1 in stage 2.
    geo_gate: 'none', or 'accuracy' to pay it to correct answers only.
    tau: share of B_1 that a crop must exceed for its IoU to count.
    iou_weight: w, the share of r_IoU in r_geo.
    crop_rule: which of several crops counts: 'last', 'first', 'best' (by
      r_geo), or the 'mean' of all.
    coverage_condition: False gives the naive IoU, whatever the coverage.
    innermost_only: True compares with B_1 alone, not the nested boxes.
    l1_normaliser: d_L1 is the mean absolute difference of the four corner
      coordinates over: 'size', x the image's width and y its height;
      'diagonal', both its diagonal.
  """

  accuracy: float = 0.8
  format_penalty: float = 0.2
  tool: float = 1.2
  tool_rule: str = "conditional"
  geo_weight: float = 0.0
  geo_gate: str = "none"
  tau: float = 0.9
  iou_weight: float = 0.5
  crop_rule: str = "last"
  coverage_condition: bool = True
  innermost_only: bool = False
  l1_normaliser: str = "size"

  def __post_init__(self):
    for name, allowed in _CHOICES.items():
      if getattr(self, name) not in allowed:
        self._reject(name, "one of " + ", ".join(map(repr, allowed)))
    for name in _SWITCHES:
      if not isinstance(getattr(self, name), bool):
        self._reject(name, "True or False")
    for name in _NOT_NEGATIVE:
      if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
        self._reject(name, "a finite number, 0 or more")
    for name in _FRACTIONS:
      value = getattr(self, name)
      if not _is_number(value) or not 0 <= value <= 1:
        self._reject(name, "a number from 0 to 1")

  def _reject(self, name: str, allowed: str):
    raise UserError(f"reward.{name}={getattr(self, name)!r}: must be {allowed}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroundingTerms:
  """Parts of the grounding reward by the crop rule, each f32[P, G].

  All are 0 for a rollout without a valid crop or a prompt without targets.

  Attributes:
    geo: r_geo, in [0, 1], before weight and gate.
    iou: r_IoU, under the coverage condition where it is on.
    l1: r_l1.
    coverage: share of B_1 inside the crop.
    plain_iou: max_i IoU(Bp, B_i), without the condition; a metric.
  """

  geo: jax.Array
  iou: jax.Array
  l1: jax.Array
  coverage: jax.Array
  plain_iou: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RewardTerms:
  """The reward and its weighted parts, each f32[P, G]; they sum to total."""

  total: jax.Array
  accuracy: jax.Array
  format: jax.Array
  tool: jax.Array
  geo: jax.Array


def grounding_reward(
  boxes: jax.Array,
  valid: jax.Array,
  targets: jax.Array,
  target_valid: jax.Array,
  size: jax.Array,
  config: RewardConfig,
) -> GroundingTerms:
  """Grounding reward of each rollout (LFPC, section Stage 2).

  Args:
    boxes: i32[P, G, C, 4] executed crops in pixels of the original.
    valid: bool[P, G, C], which crop slots hold an executed crop.
    targets: i32[P, n, 4] nested boxes, smallest first, in the same pixels.
    target_valid: bool[P, n], which target slots are filled.
    size: i32[P, 2], height and width of the originals.
    config: the rules; static under `jit`.

  Returns:
    The terms, f32[P, G] each.

  Raises:
    ValueError: the shapes do not belong together.
  """
  _check_shapes(boxes, valid, targets, target_valid, size)
  crops = _crop_terms(boxes, targets, target_valid, size, config)
  usable = valid & jnp.any(target_valid, axis=-1)[:, None, None]
  weights = _crop_weights(usable, crops.geo, config.crop_rule)
  return jax.tree.map(
    # `where` first: an empty slot may hold anything, not-a-number too.
    lambda x: jnp.sum(jnp.where(usable, x, 0.0) * weights, axis=-1),
    crops,
  )


def total_reward(
  correct: jax.Array,
  formed: jax.Array,
  calls: jax.Array,
  geo: jax.Array,
  config: RewardConfig,
) -> RewardTerms:
  """Reward of each rollout (LFPC, sections Stage 1 and Stage 2).

  Args:
    correct: bool[P, G], the answer is right.
    formed: bool[P, G], the format rule holds.
    calls: i32[P, G], number of valid, executed crops; a failed call earns
      nothing and is not counted.
    geo: f32[P, G], r_geo from `grounding_reward`; zeros in stage 1.
    config: the weights and rules; static under `jit`.
  """
  cropped = calls > 0
  earns_tool = {
    "conditional": cropped & correct,
    "unconditional": cropped,
    "none": jnp.zeros_like(cropped),
  }[config.tool_rule]
  earns_geo = correct if config.geo_gate == "accuracy" else True
  accuracy = jnp.where(correct, jnp.float32(config.accuracy), 0.0)
  form = jnp.where(formed, 0.0, jnp.float32(-config.format_penalty))
  tool = jnp.where(earns_tool, jnp.float32(config.tool), 0.0)
  grounding = jnp.where(earns_geo, jnp.float32(config.geo_weight) * geo, 0.0)
  return RewardTerms(
    total=accuracy + form + tool + grounding,
    accuracy=accuracy,
    format=form,
    tool=tool,
    geo=grounding,
  )


def _crop_terms(
  boxes: jax.Array,
  targets: jax.Array,
  target_valid: jax.Array,
  size: jax.Array,
  config: RewardConfig,
) -> GroundingTerms:
  """The terms of every crop slot, f32[P, G, C]; meaningless where unused."""
  first = jnp.argmax(target_valid, axis=-1)[:, None, None]
  innermost = jnp.take_along_axis(targets, first, axis=1)  # [P, 1, 4]
  if config.innermost_only:
    targets, target_valid = innermost, target_valid.any(-1, keepdims=True)
  crop = boxes[:, :, :, None, :]  # [P, G, C, 1, 4]
  target = targets[:, None, None, :, :]  # [P, 1, 1, n, 4]
  filled = target_valid[:, None, None, :]
  plain_iou = jnp.max(
    boxes_lib.iou(crop, target), axis=-1, where=filled, initial=0.0
  )
  distance = jnp.min(
    _l1_distance(crop, target, size[:, None, None, None, :], config),
    axis=-1,
    where=filled,
    initial=1.0,
  )
  coverage = boxes_lib.coverage(boxes, innermost[:, None])
  iou = plain_iou
  if config.coverage_condition:
    covers = coverage > config.tau + _COVERAGE_ROUNDING
    iou = jnp.where(covers, plain_iou, 0.0)
  l1 = 1.0 - distance
  geo = config.iou_weight * iou + (1.0 - config.iou_weight) * l1
  return GroundingTerms(
    geo=geo, iou=iou, l1=l1, coverage=coverage, plain_iou=plain_iou
  )


def _l1_distance(
  a: jax.Array, b: jax.Array, size: jax.Array, config: RewardConfig
) -> jax.Array:
  if config.l1_normaliser == "diagonal":
    diagonal = jnp.linalg.norm(size.astype(jnp.float32), axis=-1, keepdims=True)
    size = jnp.broadcast_to(diagonal, size.shape)
  return boxes_lib.l1_distance(a, b, size)


def _crop_weights(usable: jax.Array, geo: jax.Array, rule: str) -> jax.Array:
  """Each crop's share in its rollout, f32[P, G, C]; no crop: all zero."""
  if rule == "mean":
    count = jnp.sum(usable, axis=-1, keepdims=True)
    return usable / jnp.maximum(count, 1)
  slots = jnp.arange(usable.shape[-1], dtype=jnp.float32)
  preference = {"last": slots, "first": -slots, "best": geo}[rule]
  chosen = jnp.argmax(jnp.where(usable, preference, -jnp.inf), axis=-1)
  return jax.nn.one_hot(chosen, usable.shape[-1]) * usable


def _check_shapes(boxes, valid, targets, target_valid, size):
  p, g, c = valid.shape if valid.ndim == 3 else (None,) * 3
  n = targets.shape[1] if targets.ndim == 3 else None
  expected = {
    "boxes": (boxes, (p, g, c, 4)),
    "valid": (valid, (p, g, c)),
    "targets": (targets, (p, n, 4)),
    "target_valid": (target_valid, (p, n)),
    "size": (size, (p, 2)),
  }
  if any(array.shape != shape for array, shape in expected.values()):
    found = ", ".join(f"{k} {a.shape}" for k, (a, _) in expected.items())
    raise ValueError(
      f"grounding_reward got {found}; it needs boxes [P, G, C, 4], valid "
      "[P, G, C], targets [P, n, 4], target_valid [P, n] and size [P, 2]"
    )
  if not c or not n:
    raise ValueError(
      f"grounding_reward needs at least one crop slot and one "
      f"target slot (got C={c}, n={n}); leave slots invalid"
    )


def _is_number(value: object) -> bool:
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and math.isfinite(value)
  )
