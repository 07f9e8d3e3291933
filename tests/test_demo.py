"""The demonstration, killed on its way, ended, and called once more."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
RUNS = ("baseline", "stage1", "stage2")


def _start(workdir):
  command = [sys.executable, "-m", "lfpc_jax.demo", "--quick"]
  return subprocess.Popen(
    [*command, f"--workdir={workdir}"],
    cwd=ROOT,
    env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "COLUMNS": "200"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _finish(workdir):
  process = _start(workdir)
  output, _ = process.communicate()
  assert process.returncode == 0, output
  return output


def _written(workdir):
  """All files of results and when each was written."""
  kinds = ("metrics.jsonl", "items.jsonl", "evaluation.json")
  return {
    path: path.stat().st_mtime_ns
    for path in sorted(workdir.rglob("*"))
    if path.name in kinds or path.parent.name == "checkpoints"
  }


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A demonstration that was killed in stage 1's training."""
  folder = tmp_path_factory.mktemp("demo")
  process = _start(folder)
  rows = folder / "stage1" / "metrics.jsonl"
  while process.poll() is None and not (rows.exists() and rows.read_bytes()):
    time.sleep(0.2)
  process.send_signal(signal.SIGKILL)
  output, _ = process.communicate()
  assert process.returncode == -signal.SIGKILL, output
  assert not (folder / "report.html").exists()
  return folder


@pytest.fixture(scope="module")
def ended(workdir):
  """What was there at the kill, and the output of the call that went on."""
  before = _written(workdir)
  return before, _finish(workdir)


def test_it_goes_on_after_a_kill(workdir, ended):
  before, output = ended
  baseline = [p for p in before if workdir / "baseline" in p.parents]
  assert len(baseline) >= 2  # metrics and a checkpoint
  after = _written(workdir)
  assert all(after[path] == before[path] for path in baseline)
  for name in RUNS:
    lines = (workdir / name / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
  assert "training: stage2" in output and "[17/17]" in output


def test_tables_and_page_are_there(workdir, ended):
  output = ended[1]
  page = (workdir / "report.html").read_text()
  for name in ("pretrained", "baseline (no gap)", "+ stage 1", "+ stage 2"):
    assert name in output and name in page
  for title in ("Held-out easy scenes", "Held-out hard scenes"):
    assert title in output and title in page
  assert f"report: {(workdir / 'report.html').resolve().as_uri()}" in output
  assert not re.findall(r"Traceback|Warning", output)


def test_a_second_call_does_nothing_again(workdir, ended):
  before = _written(workdir)
  output = _finish(workdir)
  assert _written(workdir) == before
  assert not re.findall(r"\d/2 .*reward", output)  # no step of training
  assert output.splitlines()[-1].startswith("report: file://")
