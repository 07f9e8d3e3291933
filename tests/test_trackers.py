"""Trackers: event files as TensorBoard reads them, and W&B's calls."""

import dataclasses
import io
import subprocess
import sys
import time
import types

import numpy as np
from PIL import Image
import pytest
from tensorboard.backend.event_processing import event_accumulator

from lfpc_jax import trackers
from lfpc_jax.errors import UserError
from tests.report import samples


def _read(folder):
  """The package's own reader, with nothing left out."""
  sizes = dict.fromkeys(("scalars", "images", "tensors"), 0)
  events = event_accumulator.EventAccumulator(str(folder), sizes)
  return events.Reload()


def _text(events, tag):
  (event,) = events.Tensors(tag)
  return event.step, event.tensor_proto.string_val[0].decode()


@pytest.fixture(scope="module")
def records():
  first, *rest = samples.make_records(1)
  hostile = dataclasses.replace(
    first,
    question=samples.HOSTILE,
    advantage=-0.5,
    turns=(dataclasses.replace(first.turns[-1], text="\ud800# <b>x"),),
  )
  return [hostile, *rest]


@pytest.fixture(scope="module")
def written(records, tmp_path_factory):
  """An event file, read before its writer is closed."""
  folder = tmp_path_factory.mktemp("run")
  tracker = trackers.TensorBoard(folder)
  for step in range(3):
    tracker.scalars(step, {"reward": step / 4, "loss": float("nan")})
  tracker.rollouts(2, records)
  events = _read(folder / "tensorboard")
  tracker.close()
  return events


def test_scalars_are_read_back(written):
  found = [(e.step, e.value) for e in written.Scalars("train/reward")]
  assert found == [(0, 0.0), (1, 0.25), (2, 0.5)]
  assert len(written.Scalars("train/loss")) == 3


def test_images_are_read_back_with_the_boxes_on_them(written, records):
  tags = written.Tags()["images"]
  assert set(tags) == {
    f"{name}/{i}" for name in ("view", "crops") for i in range(1, 5)
  }
  cropped = next(i for i, r in enumerate(records) if r.last_box)
  (event,) = written.Images(f"crops/{cropped + 1}")
  assert (event.step, event.width, event.height) == (2, 192, 192)
  shown = Image.open(io.BytesIO(event.encoded_image_string))
  before = Image.open(io.BytesIO(records[cropped].original_jpeg))
  change = np.abs(np.asarray(shown, int) - np.asarray(before, int)).max(-1)
  x1, y1, x2, y2 = map(int, records[cropped].last_box)
  assert change[y1:y2, max(0, x1 - 2) : min(192, x2 + 2)].max() > 60
  (event,) = written.Images(f"view/{cropped + 1}")
  assert event.width == 64


def test_texts_are_read_back_as_code(written, records):
  tags = list(written.Tags()["tensors"])
  assert tags == [f"rollouts/{i}" for i in range(1, 5)]
  step, text = _text(written, "rollouts/1")
  assert step == 2 and "<script>" in text and "advantage   -0.5" in text
  # Indented by four, Markdown takes a line as it is.
  assert all(line.startswith("    ") for line in text.splitlines())
  plugin = written.SummaryMetadata("rollouts/1").plugin_data.plugin_name
  assert plugin == "text"


def test_tensorboard_shows_hostile_text_as_text(written):
  from tensorboard import plugin_util

  html = plugin_util.markdown_to_safe_html(_text(written, "rollouts/1")[1])
  assert "<script" not in html and "<img" not in html and "&lt;img" in html


def test_a_resume_voids_what_it_computes_again(tmp_path):
  for start, value in ((0, 1.0), (2, 5.0)):
    tracker = trackers.TensorBoard(tmp_path, start)
    for step in range(start, 4):
      tracker.scalars(step, {"reward": value})
    tracker.close()
    time.sleep(1.1)  # files are read in the order of the seconds in their names
  found = _read(tmp_path / "tensorboard").Scalars("train/reward")
  assert [(e.step, e.value) for e in found] == [
    (0, 1.0), (1, 1.0), (2, 5.0), (3, 5.0)
  ]  # fmt: skip


def test_tensorboard_brings_no_heavy_package():
  code = (
    "import pathlib, sys, tempfile\n"
    "from lfpc_jax import trackers\n"
    "trackers.TensorBoard(pathlib.Path(tempfile.mkdtemp())).close()\n"
    "print(*{'torch', 'tensorflow', 'wandb'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == ""


class _Run:
  """What the service is told."""

  def __init__(self):
    self.rows, self.metrics, self.finished = [], [], False

  def log(self, row):
    self.rows.append(row)

  def define_metric(self, name, step_metric=None):
    self.metrics.append((name, step_metric))

  def finish(self):
    self.finished = True


class _Table:
  def __init__(self, columns):
    self.columns, self.data = columns, []

  def add_data(self, *row):
    self.data.append(row)


@pytest.fixture
def service(monkeypatch):
  """A module in the package's place; `started` lists its runs' settings."""
  fake = types.ModuleType("wandb")
  fake.started, fake.runs, fake.refusal = [], [], None
  fake.Error = type("Error", (Exception,), {})
  fake.Table, fake.Image = _Table, lambda image, caption: (image.size, caption)

  def init(**settings):
    if fake.refusal:
      raise fake.Error(fake.refusal)
    fake.started.append(settings)
    fake.runs.append(_Run())
    return fake.runs[-1]

  fake.init = init
  monkeypatch.setitem(sys.modules, "wandb", fake)
  return fake


def test_weights_and_biases_gets_scalars_texts_and_images(
  service, records, tmp_path
):
  config = {"gap": {"tokens": 16}}
  tracker = trackers.WeightsAndBiases("project", "stage1", config, tmp_path)
  tracker.scalars(3, {"reward": 0.5})
  tracker.rollouts(3, records)
  tracker.close()
  (settings,), (run,) = service.started, service.runs
  assert settings["project"] == "project" and settings["config"] == config
  assert run.metrics == [("step", None), ("*", "step")]
  assert run.rows[0] == {"step": 3, "train/reward": 0.5}
  table = run.rows[1]["rollouts"]
  assert [row[0] for row in table.data] == [r.question for r in records]
  assert len(run.rows[1]["view"]) == len(run.rows[1]["crops"]) == 4
  assert run.finished


def test_a_resumed_run_keeps_its_name_at_the_service(service, tmp_path):
  for folder in ("a", "a", "b"):
    (tmp_path / folder).mkdir(exist_ok=True)
    trackers.WeightsAndBiases("p", "n", {}, tmp_path / folder)
  first, again, other = (settings["id"] for settings in service.started)
  assert first == again != other
  assert {s["resume"] for s in service.started} == {"allow"}


def test_a_missing_package_is_one_clear_line(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "wandb", None)  # as if not installed
  with pytest.raises(UserError, match="pip install wandb") as error:
    trackers.WeightsAndBiases("p", "n", {}, tmp_path)
  assert "train.wandb='p'" in str(error.value)
  assert "\n" not in str(error.value)
  name = "tensorboard.summary.writer.event_file_writer"
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(UserError, match="pip install tensorboard"):
    trackers.TensorBoard(tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_refusal_of_the_service_is_one_clear_line(service, tmp_path):
  service.refusal = "api_key not\nconfigured"
  with pytest.raises(UserError, match="api_key not configured; `wandb login`"):
    trackers.WeightsAndBiases("p", "n", {}, tmp_path)
