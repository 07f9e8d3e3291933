"""A stop request ends a loop after its step; a second one aborts."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from lfpc_jax.stopping import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_flag_and_the_loop_ends_well(number, capfd):
  done = []
  with StopSignal() as stop:
    for step in range(5):
      if step == 2:
        os.kill(os.getpid(), number)
      done.append(step)
      if stop.requested():
        break
  assert done == [0, 1, 2] and stop.name == signal.Signals(number).name
  assert "will save and stop" in capfd.readouterr().err


def test_the_second_request_aborts():
  with pytest.raises(KeyboardInterrupt), StopSignal():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back():
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  with StopSignal():
    assert signal.getsignal(signal.SIGTERM) != before[0]
  after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  assert after == before


_LOOP = """
import sys, time
import numpy as np
from lfpc_jax.checkpoints import Checkpointer
from lfpc_jax.stopping import StopSignal
with StopSignal() as stop, Checkpointer(sys.argv[1], every=10**6) as saver:
  for step in range(1, 10**6):
    print(step, flush=True)
    time.sleep(0.05)
    if stop.requested():
      saver.save(step, {"step": np.int32(step)}, {"step": step}, force=True)
      break
"""


def test_sigterm_saves_the_step_that_was_running(tmp_path):
  from lfpc_jax import checkpoints

  run = subprocess.Popen(
    [sys.executable, "-c", _LOOP, str(tmp_path)],
    cwd=pathlib.Path(__file__).parents[1],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    first = run.stdout.readline()
    run.send_signal(signal.SIGTERM)
    # `communicate` would pass over the lines that were read with the first.
    out, err = run.stdout.read(), run.stderr.read()
  finally:
    run.kill()
  assert run.wait() == 0 and "SIGTERM" in err, err
  last = int((first + out).split()[-1])
  assert checkpoints.read_extra(tmp_path) == {"step": last}


def test_an_abort_in_a_garbage_collector_is_not_lost(capfd):
  def collect(phase, _):
    if phase == "start" and stop.name and not hit:
      hit.append(1)
      os.kill(os.getpid(), signal.SIGINT)
      sum(range(10))  # so that the handler runs here

  hit = []
  gc.callbacks.append(collect)
  try:
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
      os.kill(os.getpid(), signal.SIGINT)
      gc.collect()
      for _ in range(6000):  # a minute at most
        time.sleep(0.01)
  finally:
    gc.callbacks.remove(collect)
  assert hit and "Traceback" not in capfd.readouterr().err
