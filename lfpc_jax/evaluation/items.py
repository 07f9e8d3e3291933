"""One row for each question, probe and budget: what happened there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import files
from lfpc_jax.data.examples import Example
from lfpc_jax.image import boxes
from lfpc_jax.rl import rewards, scoring
from lfpc_jax.rl.answers import Verdict
from lfpc_jax.rl.rewards import RewardConfig
from lfpc_jax.rollout import probes
from lfpc_jax.rollout.types import Batch, Stop, Trajectory

_PLAIN = RewardConfig(geo_weight=1.0)


@dataclasses.dataclass(frozen=True)
class Item:
  """The outcome of one question; boxes are those that the policy wrote."""

  id: str
  category: str
  budget: int
  """Visual tokens of the global view."""
  probe: str
  """What replaced the crops; 'none' for nothing."""
  correct: bool
  formed: bool
  prediction: str | None
  turns: int
  crops: int
  failed_calls: int
  """Invalid calls; a good one after the last crop allowed is none of them."""
  stop: str
  iou: float | None
  """Best IoU of the last crop with the nested boxes; None without a crop."""
  coverage: float | None
  """Share of the smallest box inside the last crop."""
  area: float | None
  """The last crop's share of the image."""
  box: tuple[int, ...] | None
  """The last crop in original pixels."""
  apart: bool | None = None
  """Under probe 'other': every region shown lies apart from the truth. None
  under another probe, and without a crop."""
  group: str = ""
  """Equal for rows that are scored together, as HR-Bench's four rotations."""
  variant: str = ""
  """Which one of its group it is."""
  option_logps: tuple[tuple[float, ...], ...] | None = None
  """With eval.likelihood, in the row without a probe: the log-likelihood of
  each token of each option after the question, without the tool."""

  @property
  def unit(self) -> str:
    """What is counted as one question."""
    return self.group or self.id


def box_terms(
  batch: Batch, trajectory: Trajectory
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """What the rows say of the crops.

  Returns:
    IoU, coverage and area f32[P, G] of each episode's last crop, and whether
    all crops leave room for a region of their size apart from the truth,
    bool[P, G].
  """
  executed = scoring.executed(trajectory)
  geo = rewards.grounding_reward(
    trajectory.boxes,
    executed,
    batch.targets,
    batch.target_valid,
    batch.size,
    _PLAIN,
  )
  area = boxes.area_fraction(trajectory.boxes, batch.size[:, None, None])
  last = jnp.maximum(trajectory.crops - 1, 0)[..., None]
  area = jnp.take_along_axis(area, last, axis=-1)[..., 0]
  apart = probes.has_room_elsewhere(batch, trajectory.boxes) | ~executed
  return geo.plain_iou, geo.coverage, area, jnp.all(apart, axis=-1)


def make_items(
  examples: Sequence[Example],
  budget: int,
  probe: str,
  trajectory: Trajectory,
  verdicts: Sequence[Sequence[Verdict]],
  terms: Sequence[np.ndarray],
) -> list[Item]:
  """Rows of the first rollout of each prompt; all arrays on the host.

  Args:
    examples: P of them, or fewer than the arrays have rows.
    budget: visual tokens of the global view.
    probe: its name.
    trajectory: the rollouts.
    verdicts: of the judge.
    terms: what `box_terms` gives.
  """
  rows = []
  for p, example in enumerate(examples):
    verdict, crops = verdicts[p][0], int(trajectory.crops[p, 0])
    known = crops > 0 and len(example.boxes) > 0
    iou, coverage = (float(t[p, 0]) if known else None for t in terms[:2])
    box = trajectory.boxes[p, 0, crops - 1].tolist() if crops else None
    rows.append(
      Item(
        id=example.id,
        category=example.category,
        budget=budget,
        probe=probe,
        correct=verdict.correct,
        formed=verdict.formed,
        prediction=verdict.answer,
        turns=int(trajectory.turns[p, 0]),
        crops=crops,
        failed_calls=int(scoring.invalid_calls(trajectory.outcome[p, 0])),
        stop=Stop(int(trajectory.stop[p, 0])).name,
        iou=iou,
        coverage=coverage,
        area=float(terms[2][p, 0]) if crops else None,
        box=tuple(box) if box else None,
        apart=bool(terms[3][p, 0]) if crops and probe == "other" else None,
        group=example.group,
        variant=example.variant,
      )
    )
  return rows


def save_items(path: str | os.PathLike[str], rows: Sequence[Item]) -> None:
  """Writes one JSON object a line, whole or not at all."""
  text = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
  files.atomic_write(pathlib.Path(path), text.encode())


def load_items(path: str | os.PathLike[str]) -> list[Item]:
  """Reads what `save_items` wrote."""
  rows = map(json.loads, pathlib.Path(path).read_text().splitlines())
  return [unpack_item(row) for row in rows]


def unpack_item(row: Mapping[str, Any]) -> Item:
  """The row whose fields were written as JSON."""
  changes = {"box": tuple(row["box"]) if row["box"] else None}
  if (logps := row.get("option_logps")) is not None:
    changes["option_logps"] = tuple(map(tuple, logps))
  return Item(**{**row, **changes})
