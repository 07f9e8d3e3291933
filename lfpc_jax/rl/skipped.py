"""Steps of no finite loss or gradient: kept for study, and an end to them."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import io
import pathlib
from typing import Any

import jax
import numpy as np

from lfpc_jax import files, parallel
from lfpc_jax.errors import UserError
from lfpc_jax.rl.watching import Seen

FOLDER = "skipped"  # in a workdir
KEPT = 16  # files, or as many as end a run; the oldest go


class SkippedSteps:
  """Counts them; the update has left the state as it was."""

  def __init__(self, workdir: pathlib.Path, limit: int):
    """Stops a run after `limit` of them in a row.

    Raises:
      UserError: the limit is below 1.
    """
    if limit < 1:
      raise UserError(f"train.max_skipped={limit}: must be >= 1")
    self._workdir, self._limit = workdir, limit
    self._in_a_row = 0

  def check(
    self, step: int, row: Mapping[str, float], seen: Seen | None
  ) -> str:
    """What to tell of a step, '' if its loss and gradient were finite.

    Args:
      step: its number.
      row: its metrics, on the host.
      seen: its rollouts, of which process 0 writes its share.

    Raises:
      UserError: it is the last one of too many in a row.
    """
    if not row["skipped"]:
      self._in_a_row = 0
      return ""
    self._in_a_row += 1
    path = self._workdir / FOLDER / f"step_{step:06d}.npz"
    if seen is not None and parallel.is_first():
      files.atomic_write(path, _archive(seen))
      self._remove_old(path.parent)
    line = (
      f"step {step}: the loss or its gradient is not finite; the step was not "
      f"applied, its rollouts are in {path}"
    )
    if self._in_a_row < self._limit:
      return line
    raise UserError(
      f"{line}. It is number {self._in_a_row} in a row: begin another "
      f"--workdir from --config.policy.checkpoint={self._workdir} with a lower "
      "--config.optimizer.learning_rate or --config.optimizer.clip_norm"
    )

  def _remove_old(self, folder: pathlib.Path) -> None:
    """A long run that skips now and then must not fill the disk."""
    found = sorted(
      folder.glob("step_*.npz"), key=lambda p: (len(p.name), p.name)
    )
    for path in found[: -max(KEPT, self._limit)]:
      path.unlink(missing_ok=True)


def _archive(seen: Seen) -> bytes:
  """Ids, prompts, rollouts and advantages as an .npz file."""
  trajectory, advantages = parallel.fetch((seen.trajectory, seen.advantages))
  arrays: dict[str, Any] = {
    "ids": np.array([example.id for example in seen.examples]),
    "advantages": advantages,
  }
  for part in (seen.batch, trajectory):
    for field in dataclasses.fields(part):
      value = getattr(part, field.name)
      if value is not None:
        name = f"{type(part).__name__.lower()}_{field.name}"
        arrays[name] = np.asarray(jax.device_get(value))
  with io.BytesIO() as file:
    np.savez_compressed(file, **arrays)
    return file.getvalue()
