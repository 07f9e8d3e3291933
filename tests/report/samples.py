"""Synthetic records, results and curves for the report's tests."""

import math

import numpy as np

from lfpc_jax import statistics
from lfpc_jax.report import plots, records, results

HOSTILE = (
  "</script><img src=x onerror=\"document.title='owned'\">"
  '<script>document.title="owned"</script><!--<script>\u2028\u202e{{ 7*7 }}'
)
POLICIES = ("pretrained", "baseline", "stage 1", "stage 2")


def scene(rng, side=192):
  """An image u8[side, side, 3] of coloured signs, and the first one's box."""
  y, x = np.mgrid[:side, :side]
  waves = np.stack([x * 0.7 + y * 0.2, x * 0.1 + y * 0.6, (x + y) * 0.3], -1)
  image = 90 + 30 * np.sin(waves / 17) + rng.normal(0, 8, (side, side, 3))
  boxes = []
  for _ in range(5):
    x1, y1 = rng.integers(8, side - side // 5, 2)
    w = int(rng.integers(side // 9, side // 6))
    image[y1 : y1 + w, x1 : x1 + w] = rng.integers(40, 255, 3)
    inner = slice(y1 + w // 3, y1 + w // 2), slice(x1 + w // 3, x1 + w // 2)
    image[inner] = 255
    boxes.append((int(x1), int(y1), int(x1 + w), int(y1 + w)))
  return np.clip(image, 0, 255).astype(np.uint8), boxes[-1]


def _crop_turn(rng, image, target, skill, view_side):
  """A call that crops near the target, nearer with skill."""
  side = image.shape[0]
  wide = (target[2] - target[0]) * (1.1 + 1.2 * rng.random())
  shift = rng.normal(0, (1.05 - skill) * side / 5, 2)
  centre = np.array([target[0] + target[2], target[1] + target[3]]) / 2 + shift
  low = np.clip(centre - wide / 2, 0, side - 30).astype(int)
  high = np.clip(centre + wide / 2, low + 28, side).astype(int)
  box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
  shown = tuple(round(v * view_side / side) for v in box)
  call = (
    f"<think>The sign that is asked for is near {shown[:2]}; too small to "
    'read here, so look closer.</think>\n<tool_call>{"name": '
    f'"image_zoom_in_tool", "arguments": {{"bbox_2d": {list(shown)}}}}}'
    "</tool_call>"
  )
  crop = records.jpeg_bytes(image[box[1] : box[3], box[0] : box[2]])
  return records.TurnRecord(call, "OK", shown, box, crop)


def make_records(questions=6, policies=POLICIES, side=192, seed=0):
  """Rollouts of `questions` questions by each policy."""
  rng = np.random.default_rng(seed)
  out = []
  for q in range(questions):
    image, target = scene(rng, side)
    original = records.jpeg_bytes(image)
    step = max(1, side // 64)
    view = records.jpeg_bytes(image[::step, ::step])
    pad = (target[2] - target[0]) // 2
    context = (
        max(0, target[0] - pad), max(0, target[1] - pad),
        min(side, target[2] + pad), min(side, target[3] + pad),
    )  # fmt: skip
    answer = str(rng.integers(10))
    for level, policy in enumerate(policies):
      skill = 0.35 + 0.2 * level
      correct = bool(rng.random() < skill)
      prediction = answer if correct else str((int(answer) + 1) % 10)
      turns, last = [], rng.random()
      if last < 0.15:
        turns.append(
          records.TurnRecord(
            '<tool_call>{"name": "zoom", "bbox": [1, 2]}</tool_call>',
            "WRONG_TOOL",
            observation='Error: there is no tool "zoom".',
          )
        )
      if last < 0.85:
        turns.append(_crop_turn(rng, image, target, skill, 64))
      thought = f"<think>It reads {prediction}.</think>"
      turns.append(
        records.TurnRecord(f"{thought}<answer>{prediction}</answer>")
      )
      called = last < 0.85
      out.append(
        records.RolloutRecord(
          id=f"scene-{q:04d}",
          policy=policy,
          question=(
            "Which digit is on the sign left of the "
            f"{('red', 'blue', 'green')[q % 3]} one?"
          ),
          answer=answer,
          prediction=prediction,
          category=("easy", "hard")[q % 2],
          correct=correct,
          rewards={
            "accuracy": 0.8 * correct,
            "format": -0.2 * (last > 0.95),
            "tool": 1.2 * (correct and called),
          },
          view_jpeg=view,
          original_jpeg=original,
          original_size=(side, side),
          targets=(target, context),
          turns=tuple(turns),
          stop_reason="answered",
          budget=64,
        )
      )
  return out


def make_curves(steps=80, runs=POLICIES[1:], seed=0):
  """Noisy, saturating curves; one value is not a number."""
  rng = np.random.default_rng(seed)
  names = (
      'reward/total', 'reward/accuracy', 'reward/tool', 'boxes/iou',
      'boxes/coverage', 'boxes/area', 'update/loss', 'update/gradient_norm',
      'update/clip_fraction', 'time/rollout_seconds', 'time/update_seconds',
  )  # fmt: skip
  metrics = {}
  for k, run in enumerate(runs):
    rows = []
    for step in range(steps):
      rise = 1 - math.exp(-(step + 1) / (12 + 6 * k))
      values = [rise * (1 + i / 4) + rng.normal(0, 0.06) for i in range(11)]
      rows.append({"step": step, **dict(zip(names, values, strict=True))})
    rows[steps // 2]["update/loss"] = math.nan
    metrics[run] = rows
  return plots.curves_from_metrics(metrics)


def make_results(policies=POLICIES, budgets=(16, 144)):
  """Results whose accuracy grows with the policy."""
  return [
    results.PolicyResult(
      policy,
      budget,
      accuracy=statistics.proportion(300 + 55 * k + 9 * b, 512),
      tool_rate=statistics.proportion(500 - 90 * b, 512),
      valid_box_rate=statistics.proportion(480 + 8 * k, 512),
      iou=statistics.mean([0.1 * k + 0.2, 0.3 + 0.1 * k] * 200),
      coverage=statistics.proportion(400 + 30 * k, 512),
      noise_drop=None if k == 0 else statistics.proportion(120 * k, 512),
    )
    for k, policy in enumerate(policies)
    for b, budget in enumerate(budgets)
  ]
