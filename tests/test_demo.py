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


def _interrupt(folder, sign, number):
  """Starts it, and sends a signal as soon as a file that grows is there."""
  process = _start(folder)
  while process.poll() is None and not any(
    path.is_file() and path.stat().st_size for path in folder.glob(sign)
  ):
    time.sleep(0.1)
  process.send_signal(number)
  output, _ = process.communicate()
  # A run that has been asked to stop saves and says so.
  expected = -signal.SIGKILL if number == signal.SIGKILL else 130
  assert process.returncode == expected, output
  assert "Traceback" not in output
  return output


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A demonstration that was interrupted again and again."""
  folder = tmp_path_factory.mktemp("demo")
  _interrupt(folder, "data/scenes/*/incomplete.*/*", signal.SIGKILL)
  _interrupt(folder, "data/scenes/easy*/*/dataset_info.json", signal.SIGINT)
  _interrupt(folder, "baseline/metrics.jsonl", signal.SIGINT)
  _interrupt(folder, "stage1/metrics.jsonl", signal.SIGKILL)
  _interrupt(folder, "evaluation/*/*/evaluation.json", signal.SIGKILL)
  assert not (folder / "report.html").exists()
  return folder


def _workers():
  """Processes that draw scenes for nobody."""
  found = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True)
  lines = [line.split(None, 1) for line in found.stdout.decode().splitlines()]
  return [
    line
    for line in lines
    if line[0] == "1" and "multiprocessing.spawn" in line[1]
  ]


def test_a_kill_leaves_no_workers(workdir):
  assert not _workers()


@pytest.fixture(scope="module")
def ended(workdir):
  """What was there at the kill, and the output of the call that went on."""
  before = _written(workdir)
  return before, _finish(workdir)


def test_it_goes_on_where_it_was(workdir, ended):
  before, output = ended
  baseline = [p for p in before if workdir / "baseline" in p.parents]
  assert len(baseline) >= 2  # metrics and a checkpoint
  after = _written(workdir)
  assert all(after[path] == before[path] for path in baseline)
  for name in RUNS:
    lines = (workdir / name / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
  assert "[17/17]" in output


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
