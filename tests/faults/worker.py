"""A process that trains where it is told to, so that a test can break it.

  python -m tests.faults.worker DATA CACHE

One trainer serves all its runs: what is compiled once is not compiled again.
Lines of standard input tell it what to do, lines of JSON on standard output
tell what comes of it.

  run WORKDIR     trains there as `python -m lfpc_jax.train` would
  watch WORKDIR   the same, and tells the state before each step
  fail PLACE N    the N-th call of PLACE from now fails, see `places`

  {"event": "begun"}                            a run begins
  {"event": "state", "step": 4, "digest": ..}   what the run goes on from
  {"event": "step", "step": 5}                  steps that have been started
  {"event": "failing", "place": ..}             a call has been made to fail
  {"event": "ended", "status": 0, "said": ..}   as the command would
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import queue
import signal
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax import checkpoints, metrics
from lfpc_jax import config as config_lib
from lfpc_jax.rl.trainer import Trainer
from tests import small_scenes

STEPS, EVERY = 10, 2  # of a run; from one checkpoint to the next
CHANGES = (
  "gap.tokens=4",
  "gap.full_tokens=16",
  "rollout.prompts=2",
  "rl.micro_batches=1",
  "train.report_every=3",
  "train.report_prompts=1",
  f"train.steps={STEPS}",
  f"checkpoint.every={EVERY}",
)


def digest(state):
  """Of every bit of a state: parameters, moments, step, random key."""
  total = hashlib.sha256()
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    total.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode())
    total.update(np.asarray(x).tobytes())
  return total.hexdigest()


class Traps:
  """Makes the call of a place fail when it is told to."""

  def __init__(self, tell):
    self._tell = tell
    self._left = {}  # calls of a place until it fails

  def arm(self, place, calls):
    self._left[place] = calls

  def disarm(self):
    self._left.clear()

  def due(self, place):
    """Whether this call of the place is the one to fail."""
    self._left[place] = self._left.get(place, 0) - 1
    if self._left[place]:
      return False
    self._tell(event="failing", place=place)
    return True

  def before(self, owner, name, error, place):
    """Lets the function of an owner fail before it does anything."""
    function = getattr(owner, name)

    def trapped(*args, **kwargs):
      if self.due(place):
        raise error()
      return function(*args, **kwargs)

    setattr(owner, name, trapped)


def _no_space():
  return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_device_memory():
  return jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory allocating 123456789 bytes."
  )


def places(trainer):
  """A name for each, what is called, and how it fails."""
  return {
    "whole file": (os, "fsync", _no_space),  # its bytes have been written
    "row": (metrics.MetricsWriter, "write", _no_space),
    "checkpoint": (checkpoints.Checkpointer, "save", MemoryError),
    "batch": (trainer, "prepare", MemoryError),  # in a thread
    "device": (trainer, "train_step", _no_device_memory),
  }


@contextlib.contextmanager
def _as_a_command():
  """Signals have their usual effect; between two runs they have none."""
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  try:
    yield
  finally:
    _ignore_signals()


def _ignore_signals():
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Worker:
  """A trainer, and what goes on with it."""

  def __init__(self, config, events):
    self._events = events
    self._lock = threading.Lock()  # a batch's thread tells something too
    self.traps = Traps(self.tell)
    self.trainer = Trainer(config, "")
    self._tells_state = 1  # before so many more steps
    step = self.trainer.train_step  # before a trap is laid around it

    def train_step(state, *args):
      number = int(state.step)
      if self._tells_state:
        self._tells_state -= 1
        self.tell(event="state", step=number, digest=digest(state))
      self.tell(event="step", step=number + 1)
      return step(state, *args)

    self.trainer.train_step = train_step

  def tell(self, **event):
    with self._lock:
      self._events.write(json.dumps(event) + "\n")
      self._events.flush()

  def run(self, word, workdir):
    """One run, and how the command would have ended."""
    self._tells_state = STEPS if word == "watch" else 1
    self.trainer.workdir = pathlib.Path(workdir)
    with _as_a_command():
      self.tell(event="begun")
      event = self._run()
    self.traps.disarm()
    self.tell(event="ended", **event)

  def _run(self):
    said, state, status = io.StringIO(), None, 0
    with contextlib.redirect_stderr(said):
      try:
        with config_lib.plain_errors():
          state = self.trainer.run()
        status = 130 if state is None else 0
      except SystemExit as stop:
        status = stop.code
    last = None if state is None else digest(state)
    return dict(status=status, said=said.getvalue(), digest=last)


def _listen(worker, runs):
  """Passes runs on and lays traps, until the input ends."""
  for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word in ("run", "watch"):
      runs.put((word, rest))
    else:
      place, _, calls = rest.rpartition(" ")
      worker.traps.arm(place, int(calls))
  runs.put(None)


def main(data, cache):
  """Runs until its input ends."""
  # What the command itself prints is not for the reader of the events.
  events = os.fdopen(os.dup(1), "w")
  sys.stdout = io.StringIO()
  jax.config.update("jax_disable_most_optimizations", True)
  config_lib.setup_jax(cache)
  _ignore_signals()
  with small_scenes.prepared(data) as fields:
    changes = (*fields, *CHANGES)
    file = f"{small_scenes.CONFIG}:smoke"
    config = config_lib.freeze(config_lib.load_config(file, changes))
    worker = Worker(config, events)
    for name, (owner, function, error) in places(worker.trainer).items():
      worker.traps.before(owner, function, error, name)
    runs = queue.Queue()
    threading.Thread(target=_listen, args=(worker, runs), daemon=True).start()
    worker.tell(event="ready")
    while (run := runs.get()) is not None:
      worker.run(*run)


if __name__ == "__main__":
  main(*sys.argv[1:])
