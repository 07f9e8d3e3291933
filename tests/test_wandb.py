"""The real Weights & Biases package, offline: what a run leaves on disk."""

import json
import os
import pathlib
import subprocess
import sys

from PIL import Image
import pytest
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal import datastore

ROOT = pathlib.Path(__file__).parents[1]
KEY = "0123456789abcdef" * 3
CODE = """
import pathlib, sys
import samples
from lfpc_jax import trackers
for start in (0, 2):  # a run, and its resume
  tracker = trackers.WeightsAndBiases(
    "looking", "stage 1", {"gap": {"tokens": 4}}, pathlib.Path(sys.argv[1]))
  for step in (start, start + 1):
    tracker.scalars(step, {"reward": step / 4})
  tracker.rollouts(start + 1, samples.make_records(2)[::4])
  tracker.close()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The run's folder, what was printed, and all records of its files."""
  folder, home = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("home")
  done = subprocess.run(
    [sys.executable, "-c", CODE, str(folder)],
    env={
      **{k: x for k, x in os.environ.items() if not k.startswith("WANDB_")},
      "HOME": str(home),
      "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'report'}",
      "WANDB_MODE": "offline",
      "WANDB_API_KEY": KEY,
      # Seconds; a busy machine starts its service slowly.
      "WANDB__SERVICE_WAIT": "600",
      "WANDB_INIT_TIMEOUT": "600",
    },
    capture_output=True, text=True, timeout=1500, check=True,
  )  # fmt: skip
  found = []
  for path in sorted(folder.rglob("*.wandb")):
    store = datastore.DataStore()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
      record = wandb_internal_pb2.Record()
      record.ParseFromString(data)
      found.append(record)
  return folder, done.stdout + done.stderr, found


def _rows(records):
  """The history: each row's values by name."""
  return [
    {
      "/".join(item.nested_key) or item.key: json.loads(item.value_json)
      for item in record.history.item
    }
    for record in records
    if record.WhichOneof("record_type") == "history"
  ]


def test_every_step_s_scalars_are_there(run):
  rows = _rows(run[2])
  found = [
    (row["step"], row["train/reward"]) for row in rows if "train/reward" in row
  ]
  assert found == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]


def test_a_resume_is_the_same_run_with_its_name_and_config(run):
  about = [
    record.run for record in run[2] if record.WhichOneof("record_type") == "run"
  ]
  assert len({one.run_id for one in about}) == 1
  assert {one.display_name for one in about} == {"stage 1"}
  assert {one.project for one in about} == {"looking"}
  config = {c.key: json.loads(c.value_json) for c in about[0].config.update}
  assert config["gap"] == {"tokens": 4}


def test_rollouts_are_a_table_and_pictures(run):
  folder, _, records = run
  shown = [row for row in _rows(records) if "rollouts/_type" in row]
  assert [row["step"] for row in shown] == [1, 3]
  (table, _) = sorted(folder.rglob("*.table.json"))
  text = json.loads(table.read_text())
  assert text["columns"] == ["question", "reward", "text"] and text["data"]
  assert "turn 1" in text["data"][0][2]
  # A view and an original with its boxes, of two rollouts, at two steps.
  pictures = list(folder.rglob("*.png"))
  assert len(pictures) == 8
  with Image.open(pictures[0]) as picture:
    assert min(picture.size) > 1


def test_the_key_is_in_no_file_of_the_run(run):
  folder, said, _ = run
  assert KEY not in said
  files = [path for path in folder.rglob("*") if path.is_file()]
  assert len(files) > 10
  assert not [p for p in files if KEY.encode() in p.read_bytes()]
