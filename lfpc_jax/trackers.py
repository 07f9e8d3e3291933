"""Where a run's numbers and rollouts go beside its own files.

A tracker has `scalars(step, values)`, `rollouts(step, records)` and `close()`.
Each imports its package when it is made: a run without it needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import importlib
import io
import pathlib
import threading
import time
from types import ModuleType
from typing import Any
import uuid

import numpy as np
from PIL import Image

from lfpc_jax import files
from lfpc_jax.errors import UserError
from lfpc_jax.report import pictures
from lfpc_jax.report.records import RolloutRecord, jpeg_bytes

_GROUP = "train"  # of the scalars
_MOST_PIXELS = 640  # on a side of a picture


class TensorBoard:
  """Event files in `workdir/tensorboard`: `tensorboard --logdir=WORKDIR`."""

  def __init__(self, workdir: pathlib.Path, start_step: int = 0):
    """Opens a new file; what a run before a resume wrote from here on is void.

    Args:
      workdir: the run's folder.
      start_step: the first step of this process.

    Raises:
      UserError: the package is missing.
    """
    name = "tensorboard.summary.writer.event_file_writer"
    writer = _load(name, "tensorboard", "train.tensorboard=True")
    protos = "tensorboard.compat.proto"
    self._proto = importlib.import_module(f"{protos}.event_pb2")
    self._summary = importlib.import_module(f"{protos}.summary_pb2").Summary
    folder = str(workdir / "tensorboard")
    before = set(threading.enumerate())
    self._writer = writer.EventFileWriter(folder, flush_secs=10)
    self._threads = set(threading.enumerate()) - before
    self._hook_before, threading.excepthook = threading.excepthook, self._hook
    session = self._proto.SessionLog(status=self._proto.SessionLog.START)
    self._add(start_step, session_log=session)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a step's numbers."""
    self._write(
      step,
      [
        self._summary.Value(tag=f"{_GROUP}/{name}", simple_value=float(value))
        for name, value in values.items()
      ],
    )

  def rollouts(self, step: int, records: Sequence[RolloutRecord]) -> None:
    """Adds each rollout's text and pictures, and writes the file out."""
    values = []
    for number, record in enumerate(records, 1):
      values.append(self._text(f"rollouts/{number}", _code(_story(record))))
      for name, picture in _pictures(record):
        values.append(self._image(f"{name}/{number}", picture))
    self._write(step, values)
    self._writer.flush()

  def close(self) -> None:
    """Writes out what is left; a closed tracker takes nothing more."""
    try:
      self._writer.close()
    finally:
      threading.excepthook = self._hook_before

  def _hook(self, failed: threading.ExceptHookArgs) -> None:
    """Says nothing of the writer's own thread: the next call raises it."""
    if failed.thread not in self._threads:
      self._hook_before(failed)

  def _image(self, tag: str, picture: Image.Image) -> Any:
    value = self._summary.Value(tag=tag)
    value.image.height, value.image.width = picture.height, picture.width
    value.image.colorspace = 3
    data = jpeg_bytes(np.asarray(picture))
    value.image.encoded_image_string = data
    return value

  def _text(self, tag: str, text: str) -> Any:
    value = self._summary.Value(tag=tag)
    value.metadata.plugin_data.plugin_name = "text"
    value.tensor.dtype = 7  # DT_STRING
    value.tensor.tensor_shape.dim.add(size=1)
    value.tensor.string_val.append(text.encode("utf-8", "replace"))
    return value

  def _write(self, step: int, values: Sequence[Any]) -> None:
    self._add(step, summary=self._summary(value=values))

  def _add(self, step: int, **what: Any) -> None:
    event = self._proto.Event(wall_time=time.time(), step=step, **what)
    self._writer.add_event(event)


class WeightsAndBiases:
  """A run of Weights & Biases; the service's own settings say where to."""

  def __init__(
    self,
    project: str,
    name: str,
    config: Mapping[str, Any],
    workdir: pathlib.Path,
  ):
    """Begins the run, or goes on with the one that `workdir` belongs to.

    Args:
      project: the service's project.
      name: the run's, for a reader.
      config: plain values.
      workdir: the run's folder.

    Raises:
      UserError: the package is missing, or the service says no.
    """
    wanted = f"train.wandb={project!r}"
    self._wandb = _load("wandb", "wandb", wanted)
    try:
      self._run = self._wandb.init(
        project=project,
        name=name,
        id=_lasting_id(workdir / "wandb_id"),
        resume="allow",
        config=dict(config),
        dir=str(workdir),
      )
    except self._wandb.Error as error:
      raise UserError(
        f"{wanted}: {_line(error)}; `wandb login` first, or set "
        "WANDB_MODE=offline to keep the run in --workdir"
      ) from error
    # Steps that a resume computes again are behind the service's own count.
    self._run.define_metric("step")
    self._run.define_metric("*", step_metric="step")

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a step's numbers."""
    named = {f"{_GROUP}/{name}": value for name, value in values.items()}
    self._run.log({"step": step, **named})

  def rollouts(self, step: int, records: Sequence[RolloutRecord]) -> None:
    """Adds a table of the rollouts' texts, and their pictures."""
    table = self._wandb.Table(columns=["question", "reward", "text"])
    images: dict[str, list[Any]] = {}
    for record in records:
      table.add_data(record.question, record.reward, _story(record))
      for name, picture in _pictures(record):
        shown = self._wandb.Image(picture, caption=record.question)
        images.setdefault(name, []).append(shown)
    self._run.log({"step": step, "rollouts": table, **images})

  def close(self) -> None:
    """Ends the run."""
    self._run.finish()


Tracker = TensorBoard | WeightsAndBiases


def _load(module: str, package: str, wanted: str) -> ModuleType:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise UserError(
      f"{wanted} needs the package {package}, which cannot be imported "
      f"({_line(error)}): pip install {package}, or leave the field empty"
    ) from error


def _line(error: Exception) -> str:
  return " ".join(str(error).split()) or type(error).__name__


def _lasting_id(path: pathlib.Path) -> str:
  """The same in every process of a run, and in no other run."""
  if not path.exists():
    files.atomic_write(path, uuid.uuid4().hex[:12].encode())
  return path.read_text().strip()


def _story(record: RolloutRecord) -> str:
  """Question, answers, reward terms and turns, as a reader would want them."""
  terms = ", ".join(f"{k} {v:.3g}" for k, v in record.rewards.items())
  lines = [
    f"question    {record.question}",
    f"answer      {record.answer}",
    f"prediction  {record.prediction} "
    f"({'correct' if record.correct else 'wrong'}, {record.stop_reason})",
    f"reward      {record.reward:.3g} = {terms}",
  ]
  if record.advantage is not None:
    lines.append(f"advantage   {record.advantage:.3g}")
  for number, turn in enumerate(record.turns, 1):
    cut = "" if turn.box is None else f", cut {tuple(map(round, turn.box))}"
    lines += ["", f"turn {number}: {turn.call_status}{cut}", turn.text]
    lines += [turn.observation] if turn.observation else []
  return "\n".join(lines)


def _code(text: str) -> str:
  """Markdown that shows a text as it is: TensorBoard renders Markdown."""
  return "\n".join(f"    {line}" for line in text.splitlines())


def _pictures(record: RolloutRecord) -> Iterator[tuple[str, Image.Image]]:
  """The view, and the original with the boxes that were cut."""
  yield "view", _open(record.view_jpeg)
  original = _open(record.original_jpeg)
  original.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
  # It is smaller than the image whose pixels the boxes are in.
  scale = original.height / record.original_size[0]
  cut = [
    [round(edge * scale) for edge in turn.box]
    for turn in record.turns
    if turn.box is not None
  ]
  yield "crops", pictures.with_boxes(np.asarray(original), cut)


def _open(data: bytes) -> Image.Image:
  return Image.open(io.BytesIO(data)).convert("RGB")
