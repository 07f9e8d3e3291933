"""What a page shows of a rollout: host-side records and their file.

A file of records is JSON lines.  An image is a line of its own, before the
first rollout that shows it, and is named by its content; so the original, which
all rollouts of a question share, is stored once.
"""

import base64
from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import io
import json
import os
import pathlib
from typing import Any

import numpy as np
import PIL.Image

from lfpc_jax import errors, files

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class TurnRecord:
  """One turn: what the policy wrote, and what it was shown for it."""

  text: str
  """The policy's own text, as decoded."""
  call_status: str = "NONE"
  """How its tool call was read and placed: 'NONE', 'OK', or the fault."""
  box_shown: Box | None = None
  """The box as written: (x1, y1, x2, y2) in pixels of the global view."""
  box: Box | None = None
  """The box that was cut, in pixels of the original; None if none was."""
  crop_jpeg: bytes | None = None
  """The crop as the policy saw it."""
  observation: str = ""
  """The text that came back to the policy, such as an error."""


@dataclasses.dataclass(frozen=True)
class RolloutRecord:
  """One policy's rollout of one question."""

  id: str
  """The question's name; rollouts with the same name can be compared."""
  policy: str
  """The checkpoint's name for a reader, such as 'stage 1'."""
  question: str
  answer: str
  prediction: str
  category: str
  correct: bool
  rewards: dict[str, float]
  """The weighted reward terms; their sum is the reward."""
  view_jpeg: bytes
  """The global view as the policy saw it."""
  original_jpeg: bytes
  """The original, possibly at fewer pixels than `original_size` says."""
  original_size: tuple[int, int]
  """(height, width) in pixels: the frame of `box` and `targets`."""
  targets: tuple[Box, ...] = ()
  """Nested target boxes in pixels of the original, smallest first."""
  turns: tuple[TurnRecord, ...] = ()
  stop_reason: str = ""
  budget: int = 0
  """The global view's budget in visual tokens; 0 if it has no part."""
  sample: int = 0
  """Which of the policy's rollouts of this question this is."""
  advantage: float | None = None
  """What the update weighed it with; None outside training."""

  @property
  def reward(self) -> float:
    """The sum of the reward terms."""
    return float(sum(self.rewards.values()))

  @property
  def called(self) -> bool:
    """Whether the policy called the tool, rightly or wrongly."""
    return any(turn.call_status != "NONE" for turn in self.turns)

  @property
  def last_box(self) -> Box | None:
    """The last box that was cut: the one that the grounding reward counts."""
    boxes = [turn.box for turn in self.turns if turn.box is not None]
    return boxes[-1] if boxes else None


@dataclasses.dataclass(frozen=True)
class BoxQuality:
  """How a box relates to the nested targets; fractions of 1."""

  iou: float
  """max_i IoU(box, target_i) (LFPC, section Stage 2)."""
  coverage: float
  """|box ∩ target_1| / |target_1|, the smallest target's share in the box."""
  area: float
  """The box's share of the original's area."""


def box_quality(
  box: Box, targets: Sequence[Box], size: tuple[int, int]
) -> BoxQuality | None:
  """Measures one box on the host; None where there are no targets.

  Plain Python: a page is also made where no accelerator is free.
  """
  if not targets:
    return None
  overlaps = [_overlap(box, target) for target in targets]
  unions = [_area(box) + _area(target) for target in targets]
  return BoxQuality(
    iou=max(_ratio(o, u - o) for o, u in zip(overlaps, unions)),
    coverage=_ratio(overlaps[0], _area(targets[0])),
    area=_ratio(_area(box), size[0] * size[1]),
  )


def jpeg_bytes(
  image: np.ndarray, max_side: int = 1280, quality: int = 88
) -> bytes:
  """Encodes `image` u8[H, W, 3], made smaller if a side exceeds `max_side`."""
  picture = PIL.Image.fromarray(np.asarray(image, np.uint8))
  picture.thumbnail((max_side, max_side), PIL.Image.Resampling.LANCZOS)
  # Chroma at full resolution: the details asked for are often small and red.
  with io.BytesIO() as file:
    picture.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def save_records(
  path: str | os.PathLike[str], records: Iterable[RolloutRecord]
) -> None:
  """Writes `records` as JSON lines, each image once, or changes nothing."""
  stored = set()
  with files.atomic_writer(path) as file:
    for record in records:
      row, images = pack_record(record)
      for key, data in images.items():
        if key not in stored:
          stored.add(key)
          line = {"image": key, "jpeg": base64.b64encode(data).decode()}
          file.write(json.dumps(line).encode() + b"\n")
      file.write(json.dumps({"rollout": row}).encode() + b"\n")


def load_records(path: str | os.PathLike[str]) -> list[RolloutRecord]:
  """Reads what `save_records` wrote, in its order.

  Raises:
    UserError: a line is not a record; the message names file and line.
  """
  images, records = {}, []
  with pathlib.Path(path).open("rb") as file:
    for number, line in enumerate(file, 1):
      try:
        row = json.loads(line)
        if "image" in row:
          images[row["image"]] = base64.b64decode(row["jpeg"])
        else:
          records.append(unpack_record(row["rollout"], images))
      except (ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
          f"{path}, line {number}, is no rollout record ({error!r}): write "
          "the file again with save_records."
        ) from error
  return records


def pack_record(
  record: RolloutRecord,
) -> tuple[dict[str, Any], dict[str, bytes]]:
  """Splits a record in JSON values and images.

  Returns:
    The record with each image replaced by its name, and the images by name.
  """
  images: dict[str, bytes] = {}

  def store(data: bytes | None) -> str | None:
    if data is None:
      return None
    key = hashlib.sha256(data).hexdigest()[:20]
    images[key] = data
    return key

  row = _plain(dataclasses.asdict(record))
  row["view_jpeg"] = store(record.view_jpeg)
  row["original_jpeg"] = store(record.original_jpeg)
  for turn, packed in zip(record.turns, row["turns"]):
    packed["crop_jpeg"] = store(turn.crop_jpeg)
  return row, images


def unpack_record(
  row: dict[str, Any], images: dict[str, bytes]
) -> RolloutRecord:
  """The inverse of `pack_record`."""
  turns = tuple(
    TurnRecord(
      **{
        **turn,
        "box": _as_box(turn["box"]),
        "box_shown": _as_box(turn["box_shown"]),
        "crop_jpeg": turn["crop_jpeg"] and images[turn["crop_jpeg"]],
      }
    )
    for turn in row["turns"]
  )
  return RolloutRecord(
    **{
      **row,
      "view_jpeg": images[row["view_jpeg"]],
      "original_jpeg": images[row["original_jpeg"]],
      "original_size": tuple(row["original_size"]),
      "targets": tuple(tuple(target) for target in row["targets"]),
      "turns": turns,
    }
  )


def _as_box(values: Sequence[float] | None) -> Box | None:
  return None if values is None else tuple(values)


def _plain(value: Any) -> Any:
  """Replaces NumPy scalars and arrays, which JSON cannot hold."""
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, (np.generic, np.ndarray)):
    return value.tolist()
  return value


def _ratio(part: float, whole: float) -> float:
  return part / whole if whole else 0.0


def _area(box: Box) -> float:
  return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(a: Box, b: Box) -> float:
  low = max(a[0], b[0]), max(a[1], b[1])
  high = min(a[2], b[2]), min(a[3], b[3])
  return _area((*low, *high))
