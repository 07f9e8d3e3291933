"""Faults at random points of tiny runs: nothing is lost, nothing is half.

Each run is compared with one that was left alone: at each resume the state
from which it goes on, and at its end the state and every row of its metrics,
bit for bit.
"""

import collections
import contextlib
import json
import os
import pathlib
import queue
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from lfpc_jax import checkpoints, files
from lfpc_jax.errors import UserError
from tests.faults.worker import EVERY, STEPS
from tests.steady import read_metrics

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
CACHE = os.environ.get("LFPC_COMPILE_CACHE")  # of an earlier call of the test
PATIENCE = 900  # seconds without any event: a run hangs

# How many of each are injected; twenty are kill -9.
FAULTS = {
  "killed": 13,
  "killed in a save": 7,
  "paused": 7,
  "terminated": 6,
  "interrupted": 6,
  "disk full": 9,
  "out of memory": 8,
}
assert sum(FAULTS.values()) == 56
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of what is being saved


class Worker:
  """A process of tests.faults.worker, and the events that it tells."""

  def __init__(self, folder):
    command = [sys.executable, "-m", "tests.faults.worker"]
    self.process = subprocess.Popen(
      [*command, str(folder / "data"), CACHE or str(folder / "compiled")],
      cwd=ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.errors = collections.deque(maxlen=60)
    self._events = queue.Queue()
    for work in (self._read_events, self._read_errors):
      threading.Thread(target=work, daemon=True).start()

  def _read_events(self):
    for line in self.process.stdout:
      self._events.put(json.loads(line))
    self._events.put({"event": "died", "status": self.process.wait()})

  def _read_errors(self):
    self.errors.extend(self.process.stderr)

  def event(self, patience=PATIENCE):
    """The next event; None if there is none in time."""
    try:
      return self._events.get(timeout=patience)
    except queue.Empty:
      return None

  def say(self, *words):
    """Tells it something, unless it is gone."""
    with contextlib.suppress(BrokenPipeError):
      print(*words, file=self.process.stdin, flush=True)

  def signal(self, number):
    if self.process.poll() is None:
      self.process.send_signal(number)

  def limit(self, what, soft):
    """Sets a soft limit of the process; None lifts it."""
    if self.process.poll() is None:
      _, hard = resource.prlimit(self.process.pid, what)
      soft = hard if soft is None else soft
      resource.prlimit(self.process.pid, what, (soft, hard))

  def close(self):
    self.process.kill()
    self.process.wait()


class Runs:
  """Runs in one directory after another, each broken until it has ended."""

  def __init__(self, folder, expected, seed):
    self._folder, self._expected = folder, expected
    self._rng = random.Random(seed)
    self._worker = None
    self._running = self._in_loop = False
    self._number = 0
    self.counts = collections.Counter()
    self.outcomes = collections.Counter()
    self._new_directory()

  def _new_directory(self):
    self._number += 1
    self._workdir = self._folder / f"run{self._number}"
    self._begun = self._whole = 0  # steps; the latest checkpoint's step

  def close(self):
    if self._worker is not None:
      self._worker.close()

  # ---- A run's way ----

  def _start(self):
    """Lets a worker begin the run, or go on with it."""
    if self._worker is None:
      self._worker = Worker(self._folder)
      self._take("ready")
    self._worker.say("run", self._workdir)
    self._running = True
    self._take("begun")

  def _take(self, wanted=None):
    """Takes the next event into account."""
    event = self._worker.event()
    errors = "".join(self._worker.errors)
    assert event is not None, errors
    self._note(event)
    assert wanted in (None, event["event"]), (event, errors)

  def _note(self, event):
    name = event["event"]
    if name == "state":
      # What it goes on from is the last whole checkpoint, bit for bit.
      assert event["step"] == self._whole
      assert event["digest"] == self._expected["states"][event["step"]]
      self._in_loop = True
    elif name == "step":
      self._begun = event["step"]
    elif name in ("ended", "died"):
      self._ended(event)

  def _ended(self, event):
    if event["event"] == "died":
      self._worker.close()
      self._worker = None
      if not self._running:
        return
    self._running = self._in_loop = False
    if self._worker is not None:
      self._worker.limit(resource.RLIMIT_FSIZE, None)
      self._check_words(event)
    self.outcomes[event["status"]] += 1
    self._check_files()
    if event["status"] == 0:
      assert event["digest"] == self._expected["states"][STEPS]
      assert read_metrics(self._workdir) == self._expected["rows"]
      assert not list(self._workdir.rglob(".*.part"))
      self.counts["runs"] += 1
      self._new_directory()

  def _check_words(self, event):
    """A user reads one line, or nothing."""
    said = event["said"]
    if event["status"] == 1:
      assert said.startswith("error: ") and said.count("\n") == 1, said
    else:
      assert said in ("", "stopped\n"), said

  def _check_files(self):
    """What is on the disk is whole, and no checkpoint has gone."""
    folder = self._workdir / checkpoints.SUBFOLDER
    try:
      whole = int(checkpoints.find_step(folder).name)
    except UserError:
      whole = 0
    assert whole >= self._whole, f"{whole} after {self._whole}"
    # A step's checkpoint is on the disk before the next one begins.
    assert whole > self._begun - 1 - 2 * EVERY
    self._whole = whole
    config = self._workdir / "config.json"
    if config.exists():
      json.loads(config.read_text())
    page = self._workdir / "report.html"
    if page.exists():
      assert page.read_text().rstrip().endswith("</html>")
    if (self._workdir / "metrics.jsonl").exists():
      rows = read_metrics(self._workdir)
      known = self._expected["rows"]
      assert rows == known[: len(rows)] and len(rows) >= whole

  # ---- Faults ----

  def inject(self, fault):
    """Breaks a run at a random point; tries again where it came too late."""
    act = getattr(self, "_" + fault.replace(" ", "_"))
    while True:
      self._go_somewhere()
      before = self.counts["runs"]
      if act() and self.counts["runs"] == before:
        self.counts[fault] += 1
        return

  def _go_somewhere(self):
    """Lets a run take a random number of steps and a part of one."""
    if not self._running:
      self._start()
    for _ in range(self._rng.randrange(5)):
      self._take()
      if not self._running:
        self._start()
    time.sleep(self._rng.uniform(0, 0.5))

  def finish(self):
    """Lets the last run end."""
    number = self.counts["runs"]
    while self.counts["runs"] == number:
      if not self._running:
        self._start()
      self._take()

  def _to_its_end(self):
    while self._running:
      self._take()
    return True

  def _killed(self):
    self._worker.signal(signal.SIGKILL)
    while self._worker is not None:
      self._take()
    return True

  def _killed_in_a_save(self):
    """What is under another name then is nothing that a resume finds."""
    folder = self._workdir / checkpoints.SUBFOLDER
    # What an earlier kill has left is gone once a run is in its loop.
    while not (self._in_loop and list(folder.glob(f"*{_UNFINISHED}*"))):
      if (event := self._worker.event(0.002)) is not None:
        self._note(event)
      if not self._running:
        return False
    time.sleep(self._rng.uniform(0, 0.03))
    self._killed()
    return any(folder.glob(f"*{_UNFINISHED}*"))  # else it came too late

  def _terminated(self):
    self._worker.signal(signal.SIGTERM)
    return self._to_its_end()

  def _interrupted(self):
    """Ctrl-C, sometimes twice."""
    self._worker.signal(signal.SIGINT)
    if self._rng.random() < 0.5:
      time.sleep(self._rng.uniform(0, 0.3))
      self._worker.signal(signal.SIGINT)
    return self._to_its_end()

  def _paused(self):
    """It holds its directory meanwhile, and goes on afterwards."""
    self._worker.signal(signal.SIGSTOP)
    time.sleep(self._rng.uniform(0, 0.5))
    while (event := self._worker.event(0.2)) is not None:  # of before
      self._note(event)
    if not self._running:
      self._worker.signal(signal.SIGCONT)
      return False
    if self._in_loop and self._begun < STEPS:
      holder = f"process {self._worker.process.pid}: wait"
      with pytest.raises(UserError, match=holder), files.locked(self._workdir):
        raise AssertionError("two runs in one directory")
    self._worker.signal(signal.SIGCONT)
    self._take()
    return True

  def _disk_full(self):
    """A file cannot grow, or a write says that there is no space."""
    if self._rng.random() < 0.4:
      place = self._rng.choice(["whole file", "row"])
      self._worker.say("fail", place, self._rng.randrange(1, 3))
    else:
      size = self._rng.choice([0, 64, 4096, 60_000, 400_000])
      self._worker.limit(resource.RLIMIT_FSIZE, size)
    return self._to_its_end()

  def _out_of_memory(self):
    place = self._rng.choice(["checkpoint", "batch", "device"])
    self._worker.say("fail", place, self._rng.randrange(1, 3))
    return self._to_its_end()


def _left_alone(folder):
  """The states before each step and at the end, and the metrics, of a run."""
  worker = Worker(folder)
  worker.say("watch", folder / "alone")
  states = {}
  try:
    while True:
      event = worker.event()
      assert event is not None, "".join(worker.errors)
      if event["event"] == "state":
        states[event["step"]] = event["digest"]
      if event["event"] in ("ended", "died"):
        break
  finally:
    worker.close()
  assert event["status"] == 0, (event, "".join(worker.errors))
  states[STEPS] = event["digest"]
  assert len(set(states.values())) == STEPS + 1
  return {"states": states, "rows": read_metrics(folder / "alone")}


@pytest.mark.timeout(7200)
def test_faults_lose_nothing(tmp_path):
  seed = int(os.environ.get("LFPC_FAULT_SEED", 0))
  faults = [name for name, number in FAULTS.items() for _ in range(number)]
  random.Random(seed).shuffle(faults)
  runs = Runs(tmp_path, _left_alone(tmp_path), seed)
  try:
    for number, fault in enumerate(faults, 1):
      runs.inject(fault)
      print(
        f"{number}/{len(faults)} {fault}: {dict(runs.outcomes)}", flush=True
      )
    runs.finish()
  finally:
    runs.close()
  found = dict(runs.counts)
  print(f"{found}; exit statuses {dict(runs.outcomes)}")
  assert found.pop("runs") >= 3  # came to their end, none unlike the other
  assert found == FAULTS
