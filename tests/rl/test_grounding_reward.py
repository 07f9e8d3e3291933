"""Grounding reward: hand cases, a float64 loop as oracle, bounds, rules."""

import itertools
import math

import jax
import numpy as np
import pytest

from lfpc_jax.rl import rewards

_SIZE = (100, 200)  # height, width
_B1 = (50, 40, 60, 50)  # 10 x 10
_B2 = (40, 30, 80, 70)  # 40 x 40

_grounding = jax.jit(rewards.grounding_reward, static_argnames="config")


def _one(crops, targets=(_B1, _B2), size=_SIZE, valid=None, **config):
  """The terms of one rollout as Python floats."""
  crops = np.asarray(crops, np.int32).reshape(1, 1, -1, 4)
  valid = (
    np.ones(crops.shape[:3], bool)
    if valid is None
    else np.reshape(valid, crops.shape[:3])
  )
  targets = np.asarray(targets, np.int32).reshape(1, -1, 4)
  terms = _grounding(
    crops,
    valid,
    targets,
    np.ones(targets.shape[:2], bool),
    np.asarray([size], np.int32),
    config=rewards.RewardConfig(**config),
  )
  return jax.tree.map(lambda x: float(x[0, 0]), terms)


def _approx(**terms):
  return {name: pytest.approx(value, abs=1e-6) for name, value in terms.items()}


_HAND_CASES = {
  # The crop is B_1: IoU 1, L1 distance 0: geo = .5 * 1 + .5 * 1.
  "innermost": (_B1, _approx(coverage=1, plain_iou=1, iou=1, l1=1, geo=1)),
  # The crop is B_2, as good as B_1.
  "context": (_B2, _approx(coverage=1, plain_iou=1, iou=1, l1=1, geo=1)),
  # 20 x 20 around B_1, inside B_2: IoU with B_1 100/400, with B_2
  # 400/1600. d_L1 to B_1: x 5/200 twice, y 5/100 twice:
  # (.025 + .05 + .025 + .05) / 4 = .0375; to B_2: x 5/200 and 15/200,
  # y 5/100 and 15/100: (.025 + .05 + .075 + .15) / 4 = .075.
  # geo = .5 * .25 + .5 * (1 - .0375).
  "between": (
    (45, 35, 65, 55),
    _approx(coverage=1, plain_iou=0.25, iou=0.25, l1=0.9625, geo=0.60625),
  ),
  # The left half of B_1: covers .5, IoU 50/100 counts for nothing.
  # d_L1 = (0 + 0 + 5/200 + 0) / 4 = .00625; geo = .5 * .99375.
  "half": (
    (50, 40, 55, 50),
    _approx(coverage=0.5, plain_iou=0.5, iou=0, l1=0.99375, geo=0.496875),
  ),
  # Apart, top left corner: IoU 0 with both. d_L1 to B_1:
  # (50/200 + 40/100 + 50/200 + 40/100) / 4 = .325; to B_2:
  # (40/200 + 30/100 + 70/200 + 60/100) / 4 = .3625.
  "apart": (
    (0, 0, 10, 10),
    _approx(coverage=0, plain_iou=0, iou=0, l1=0.675, geo=0.3375),
  ),
  # The whole image, 20000 px: IoU with B_2 1600/20000 = .08. d_L1 to B_2:
  # (40/200 + 30/100 + 120/200 + 30/100) / 4 = .35.
  "whole": (
    (0, 0, 200, 100),
    _approx(coverage=1, plain_iou=0.08, iou=0.08, l1=0.65, geo=0.365),
  ),
}


@pytest.mark.parametrize("name", _HAND_CASES)
def test_hand_worked_crops(name):
  crop, expected = _HAND_CASES[name]
  assert vars(_one([crop])) == expected


@pytest.mark.parametrize("height, counts", [(9, False), (10, True)])
def test_coverage_of_exactly_tau_does_not_count(height, counts):
  # 9 of 10 rows of B_1 are exactly .9 of it: strictly more is asked for.
  terms = _one([(50, 40, 60, 40 + height)], tau=0.9)
  assert terms.coverage == pytest.approx(height / 10)
  assert (terms.iou > 0) is counts


@pytest.mark.parametrize("tau", [0.29, 0.57, 0.7, 0.95])
def test_coverage_of_exactly_any_tau_does_not_count(tau):
  inner = (0, 0, 100, 100)
  rows = round(tau * 100)
  assert _one([(0, 0, 100, rows)], [inner], (200, 200), tau=tau).iou == 0
  assert _one([(0, 0, 100, rows + 1)], [inner], (200, 200), tau=tau).iou > 0


def test_naive_iou_ignores_coverage():
  # 'half' above: IoU .5; geo = .5 * .5 + .5 * .99375.
  terms = _one([(50, 40, 55, 50)], coverage_condition=False)
  assert terms.iou == 0.5
  assert terms.geo == pytest.approx(0.746875)


def test_innermost_only_ignores_the_context():
  # B_2 as the crop: IoU with B_1 100/1600. d_L1 = (10/200 + 10/100 +
  # 20/200 + 20/100) / 4 = .1125; geo = .5 * .0625 + .5 * .8875.
  terms = _one([_B2], innermost_only=True)
  assert terms.geo == pytest.approx(0.475)
  assert terms == _one([_B2], targets=[_B1])


def test_diagonal_normaliser():
  # A 3-4-5 image, 30 x 40, diagonal 50; off by 10 px in x1 and x2, 5 in y1
  # and y2: (10 + 5 + 10 + 5) / 4 / 50 = .15.
  terms = _one(
    [(10, 5, 20, 15)], [(0, 0, 10, 10)], (30, 40), l1_normaliser="diagonal"
  )
  assert terms.l1 == pytest.approx(0.85)
  # 'size': (10/40 + 5/30) / 2 = 5/24.
  terms = _one([(10, 5, 20, 15)], [(0, 0, 10, 10)], (30, 40))
  assert terms.l1 == pytest.approx(1 - 5 / 24)


_SEVERAL = [_HAND_CASES[name][0] for name in ("half", "innermost", "apart")]


@pytest.mark.parametrize(
  "rule, valid, geo, iou",
  [
    ("first", (1, 1, 1), 0.496875, 0),
    ("last", (1, 1, 1), 0.3375, 0),
    ("best", (1, 1, 1), 1, 1),
    ("mean", (1, 1, 1), (0.496875 + 1 + 0.3375) / 3, 1 / 3),
    ("first", (0, 1, 1), 1, 1),
    ("last", (1, 1, 0), 1, 1),
    ("best", (1, 0, 1), 0.496875, 0),
    ("mean", (1, 0, 1), (0.496875 + 0.3375) / 2, 0),
    ("first", (0, 0, 1), 0.3375, 0),
    ("last", (1, 0, 0), 0.496875, 0),
    ("first", (0, 0, 0), 0, 0),
    ("last", (0, 0, 0), 0, 0),
    ("best", (0, 0, 0), 0, 0),
    ("mean", (0, 0, 0), 0, 0),
  ],
)
def test_crop_rules(rule, valid, geo, iou):
  terms = _one(_SEVERAL, valid=np.array(valid, bool), crop_rule=rule)
  assert terms.geo == pytest.approx(geo)
  assert terms.iou == pytest.approx(iou)


@pytest.mark.parametrize("rule", ("last", "first", "best", "mean"))
def test_no_crop_or_no_target_gives_zero_and_no_nan(rule):
  config = rewards.RewardConfig(crop_rule=rule)
  boxes = np.array([[[_B1]], [[_B1]], [[(0, 0, 0, 0)]]], np.int32)
  valid = np.array([[[False]], [[True]], [[False]]])
  targets = np.array([[_B1], [(0, 0, 0, 0)], [(0, 0, 0, 0)]], np.int32)
  target_valid = np.array([[True], [False], [False]])
  # Unused prompts may carry an empty size.
  size = np.array([_SIZE, _SIZE, (0, 0)], np.int32)
  terms = _grounding(boxes, valid, targets, target_valid, size, config=config)
  for term in jax.tree.leaves(terms):
    np.testing.assert_array_equal(term, np.zeros((3, 1)))


def _oracle_crop(crop, targets, size, config):
  """(geo, iou, l1, coverage, plain_iou) of one crop, in plain floats."""

  def area(x1, y1, x2, y2):
    return float(max(x2 - x1, 0)) * float(max(y2 - y1, 0))

  def common(a, b):
    return area(
      max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    )

  height, width = map(float, size)
  if config.l1_normaliser == "diagonal":
    height = width = math.hypot(height, width)
  coverage = common(crop, targets[0]) / area(*targets[0])
  used = targets[:1] if config.innermost_only else targets
  ious, distances = [], []
  for target in used:
    inter = common(crop, target)
    ious.append(inter / (area(*crop) + area(*target) - inter))
    gaps = [abs(float(a) - float(b)) for a, b in zip(crop, target)]
    distances.append(
      (gaps[0] / width + gaps[1] / height + gaps[2] / width + gaps[3] / height)
      / 4
    )
  plain = max(ious)
  passes = coverage > config.tau or not config.coverage_condition
  iou, l1 = plain if passes else 0.0, 1 - min(distances)
  geo = config.iou_weight * iou + (1 - config.iou_weight) * l1
  return geo, iou, l1, coverage, plain


def _oracle(crops, targets, size, config):
  if not len(crops) or not len(targets):
    return (0.0,) * 5
  terms = [_oracle_crop(crop, targets, size, config) for crop in crops]
  if config.crop_rule == "mean":
    return tuple(sum(column) / len(terms) for column in zip(*terms))
  if config.crop_rule == "best":
    return max(terms, key=lambda term: term[0])
  return terms[0 if config.crop_rule == "first" else -1]


def _random_case(rng, p, g, c, n):
  size = rng.integers(60, 4000, (p, 2))
  boxes = np.zeros((p, g, c, 4), np.int32)
  targets = np.zeros((p, n, 4), np.int32)
  target_valid = np.arange(n) < rng.integers(0, n + 1, (p, 1))
  for i in range(p):
    height, width = size[i]
    low = rng.integers(0, [width // 2, height // 2], (2,))
    high = low + rng.integers(5, [width // 4, height // 4], (2,))
    for k in range(n):  # nested: each grows the one before, in the image
      targets[i, k] = *low, *high
      low = np.maximum(low - rng.integers(0, 40, 2), 0)
      high = np.minimum(high + rng.integers(0, 40, 2), [width, height])
    for j, k in itertools.product(range(g), range(c)):
      if rng.random() < 0.5:  # near a target, so that coverage is often high
        shift = rng.integers(-30, 31, 4)
        box = targets[i, rng.integers(n)] + shift
      else:
        box = rng.integers(0, 4000, 4)
      x1, x2 = sorted(np.clip(box[[0, 2]], 0, width - 1))
      y1, y2 = sorted(np.clip(box[[1, 3]], 0, height - 1))
      boxes[i, j, k] = x1, y1, x2 + 1, y2 + 1
  valid = rng.random((p, g, c)) < 0.6
  boxes[~valid] = 0
  targets[~target_valid] = 0
  return boxes, valid, targets, target_valid, size.astype(np.int32)


@pytest.mark.parametrize(
  "rule, condition, innermost, normaliser",
  [
    ("last", True, False, "size"),
    ("first", True, True, "size"),
    ("best", True, False, "diagonal"),
    ("mean", True, False, "size"),
    ("last", False, False, "size"),
    ("best", False, True, "diagonal"),
  ],
)
def test_random_batches_match_a_float64_loop(
  rule, condition, innermost, normaliser
):
  config = rewards.RewardConfig(
    crop_rule=rule,
    coverage_condition=condition,
    innermost_only=innermost,
    l1_normaliser=normaliser,
    iou_weight=0.3,
    tau=0.7,
  )
  rng = np.random.default_rng(7)
  p, g = 24, 5
  case = _random_case(rng, p, g, 3, 3)
  terms = _grounding(*case, config=config)
  boxes, valid, targets, target_valid, size = case
  found = np.stack(
    [terms.geo, terms.iou, terms.l1, terms.coverage, terms.plain_iou], -1
  )
  assert found.dtype == np.float32 and found.shape == (p, g, 5)
  expected = [
    [
      _oracle(
        boxes[i, j][valid[i, j]], targets[i][target_valid[i]], size[i], config
      )
      for j in range(g)
    ]
    for i in range(p)
  ]
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
  # The case must reach both sides of the condition.
  assert 0.1 < np.mean(np.array(expected)[..., 3] > config.tau) < 0.9


_CASE = _random_case(np.random.default_rng(3), 16, 4, 3, 3)


@pytest.mark.parametrize("rule", ("last", "first", "best", "mean"))
def test_terms_stay_within_bounds(rule):
  terms = _grounding(*_CASE, config=rewards.RewardConfig(crop_rule=rule))
  for term in jax.tree.leaves(terms):
    assert np.all((term >= 0) & (term <= 1))
  assert np.all(terms.iou <= terms.plain_iou)


def test_mirroring_the_image_changes_nothing():
  boxes, valid, targets, target_valid, size = _CASE

  def mirror(b, width):
    return np.stack(
      [width - b[..., 2], b[..., 1], width - b[..., 0], b[..., 3]], -1
    )

  width = size[:, 1]
  mirrored = (
    mirror(boxes, width[:, None, None]),
    valid,
    mirror(targets, width[:, None]),
    target_valid,
    size,
  )
  config = rewards.RewardConfig()
  np.testing.assert_allclose(
    _grounding(*mirrored, config=config).geo,
    _grounding(*_CASE, config=config).geo,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  "box_map, size_map",
  [
    (lambda b: b[..., [1, 0, 3, 2]], lambda s: s[:, ::-1]),
    (lambda b: b * 2, lambda s: s * 2),
  ],
  ids=["transposed", "scaled"],
)
def test_turning_or_scaling_the_image_changes_nothing(box_map, size_map):
  boxes, valid, targets, target_valid, size = _CASE
  config = rewards.RewardConfig(crop_rule="best")
  found = _grounding(
    box_map(boxes),
    valid,
    box_map(targets),
    target_valid,
    size_map(size),
    config=config,
  )
  expected = _grounding(*_CASE, config=config)
  np.testing.assert_allclose(found.geo, expected.geo, atol=1e-6)


def test_each_rollout_is_scored_alone():
  config = rewards.RewardConfig()
  boxes, valid, targets, target_valid, size = _CASE
  order = np.array([2, 0, 3, 1])
  shuffled = _grounding(
    boxes[:, order], valid[:, order], targets, target_valid, size, config=config
  )
  whole = _grounding(*_CASE, config=config)
  np.testing.assert_array_equal(shuffled.geo, whole.geo[:, order])


def test_what_empty_slots_hold_does_not_matter():
  boxes, valid, targets, target_valid, size = _CASE
  # An empty target slot that holds the crop itself would win every maximum.
  dirty = (
    np.where(valid[..., None], boxes, 10_000),
    valid,
    np.where(target_valid[..., None], targets, boxes[:, 0]),
    target_valid,
    size,
  )
  config = rewards.RewardConfig(crop_rule="best")
  jax.tree.map(
    np.testing.assert_array_equal,
    _grounding(*dirty, config=config),
    _grounding(*_CASE, config=config),
  )


def test_eight_k_images_keep_their_precision():
  # 7680 x 4320: the crop is B_1 less its last column; 3839/3840 of its area.
  # d_L1 = (0 + 0 + 1/7680 + 0) / 4.
  inner = (0, 0, 3840, 4320)
  terms = _one([(0, 0, 3839, 4320)], [inner], (4320, 7680))
  assert terms.plain_iou == pytest.approx(3839 / 3840, abs=1e-6)
  assert terms.l1 == pytest.approx(1 - 1 / 7680 / 4, abs=1e-7)


def test_mismatched_shapes_are_named():
  boxes, valid, targets, target_valid, size = _CASE
  with pytest.raises(ValueError, match=r"size \(16, 3\).*size \[P, 2\]"):
    rewards.grounding_reward(
      boxes,
      valid,
      targets,
      target_valid,
      np.ones((16, 3), np.int32),
      rewards.RewardConfig(),
    )
  with pytest.raises(ValueError, match="n=0"):
    rewards.grounding_reward(
      boxes,
      valid,
      targets[:, :0],
      target_valid[:, :0],
      size,
      rewards.RewardConfig(),
    )
