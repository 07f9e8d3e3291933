"""The README's commands and those for one's own pictures, run in their order.

As a reader would, in an empty directory, but with flags behind them that make
each small: what is checked is that one command finds what another left.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from lfpc_jax import agent
from tests import doc_commands

# Draws the scenes, compiles five programs; a busy machine takes its time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

ROOT = pathlib.Path(__file__).parents[1]
_STEPS = (
  "train.steps=1",
  "train.report_every=1",
  "rollout.prompts=2",
  "rollout.group=2",
  "rl.micro_batches=1",
)
_QUESTIONS = (
  "eval.items=4",
  "eval.batch=4",
  "eval.budgets=16,",
  "eval.probes=noise,",
  "eval.records=2",
)
_SMALL = {
  "lfpc_jax.train": _STEPS,
  "lfpc_jax.evaluate": _QUESTIONS,
}


def _run(command, folder, *flags):
  """Runs a documented command in a folder; gives what it printed."""
  program, _, module, *words = shlex.split(command)
  assert program == "python"
  small = [f"--config.{field}" for field in _SMALL.get(module, ())]
  environment = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    # Programs are run once or twice: what speeds them up takes longer.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "LFPC_COMPILE_CACHE": str(folder / "compiled"),
  }
  done = subprocess.run(
    [sys.executable, "-m", module, *words, *small, *flags],
    cwd=folder, env=environment, capture_output=True, text=True, timeout=1500,
    check=False,
  )  # fmt: skip
  assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
  assert "Traceback" not in done.stderr
  return done.stdout


@pytest.fixture(scope="module")
def commands():
  return doc_commands.run()


def test_the_readme_s_commands_run_one_after_another(commands, tmp_path):
  shutil.copy(agent.ASSETS / "scene.jpg", tmp_path / "photo.jpg")  # any will do
  said = [_run(command, tmp_path) for command in commands["README.md"]]
  assert len(said) == 7
  runs = tmp_path / "runs"
  for name in ("stage1/report.html", "stage1/config.json"):
    assert (runs / name).is_file()
  for name in ("stage1", "pretrained"):
    evaluation = runs / name / "evaluation"
    assert (evaluation / "report.html").is_file()
    assert len((evaluation / "items.jsonl").read_text().splitlines()) == 8
  page = (tmp_path / "page.html").read_text()
  assert "pretrained" in page and "stage1" in page
  assert all("turn 1" in text.lower() for text in said[-2:])


def test_the_commands_for_one_s_own_pictures_run(commands, tmp_path):
  part = doc_commands.below(
    (ROOT / "docs" / "data.md").read_text(), "## Your own pictures"
  )
  _, row, _ = doc_commands.blocks(part)
  name = json.loads(row)["image"]
  path = tmp_path / "mine" / name
  path.parent.mkdir(parents=True)
  (tmp_path / "mine" / "train.jsonl").write_text(row)
  pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  check, build, train = commands["docs/data.md"]
  assert "split train" in _run(check, tmp_path)
  _run(build, tmp_path)
  _run(train, tmp_path)
  rows = (tmp_path / "runs/mine/metrics.jsonl").read_text().splitlines()
  assert len(rows) == 1
