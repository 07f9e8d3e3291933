"""A clock for the loader of batches that stands still unless it waits."""

import threading
import types

from lfpc_jax.data import loader


class Clock:
  """Passes while a batch is waited for, and by as much as a test says."""

  def __init__(self, patch):
    self._now, self._waiting = 0.0, False
    self._changed = threading.Condition()
    clock = types.SimpleNamespace(perf_counter=self._read)
    patch.setattr(loader, "time", clock)

  def _read(self):
    """The loader reads it before and after it waits."""
    with self._changed:
      self._waiting = not self._waiting
      self._changed.notify_all()
      return self._now

  def advance(self, seconds):
    """Called by what makes a batch: waits until one is waited for."""
    with self._changed:
      assert self._changed.wait_for(lambda: self._waiting, 600)
      self._now += seconds
