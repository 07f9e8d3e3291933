"""Stops a long run cleanly: the step ends, the state is saved, then exit."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils
import numpy as np

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
  """Turns SIGTERM and Ctrl-C into a flag that a loop looks at.

  with StopSignal() as stop:
    for step in range(steps):
      ...
      if stop.requested():
        save, say so, and leave the loop

  A second Ctrl-C (or SIGTERM) aborts at once, with KeyboardInterrupt. Must be
  entered on the main thread, as Python's signal handlers must.
  """

  def __init__(self) -> None:
    """Starts without a request; handlers are set on entering."""
    self.name: str | None = None  # of the signal that came, 'SIGTERM'
    self._before: dict[int, object] = {}

  def requested(self) -> bool:
    """Whether to stop now; in a run of many processes, one for all.

    Every process must call it at the same step: the answer is agreed on.
    """
    mine = self.name is not None
    if jax.process_count() == 1:
      return mine
    flags = multihost_utils.process_allgather(np.asarray(mine), tiled=False)
    return bool(np.any(flags))

  def __enter__(self) -> Self:
    for number in _SIGNALS:
      self._before[number] = signal.signal(number, self._on_signal)
    self._hook_before = sys.unraisablehook
    sys.unraisablehook = self._on_lost
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
    sys.unraisablehook = self._hook_before

  def _on_lost(self, lost: sys.UnraisableHookArgs) -> None:
    """Aborts again where nobody could be told, as in a garbage collector."""
    if lost.exc_type is KeyboardInterrupt:
      # A little later: what is raised in here is lost as well.
      threading.Timer(0.05, _thread.interrupt_main, (signal.SIGINT,)).start()
    else:
      self._hook_before(lost)

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    if self.name is not None:
      raise KeyboardInterrupt
    self.name = signal.Signals(number).name
    # print() may be the very call that the signal interrupted.
    os.write(
      2,
      f"\n{self.name}: will save and stop after this step "
      "(Ctrl-C again to abort now)\n".encode(),
    )
