"""Keeps other packages' notes out of a command's output."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import logging
import sys

_SILENT: set[str] = set()
_AFTERMATH = ("Event loop is closed", "error while reading array index")


def silence(package: str) -> None:
  """Drops what a package logs through absl; its errors are still raised.

  Args:
    package: name of its folder, `orbax` or `tensorflow_datasets`.
  """
  _SILENT.add(package)
  logger = logging.getLogger("absl")
  if not any(f is _is_wanted for f in logger.filters):
    logger.addFilter(_is_wanted)


def silence_orbax() -> None:
  """Drops what Orbax logs, and what it prints after it has failed.

  When an array cannot be read or written, Orbax raises that and drops what is
  under way of the others. Each of them then prints a traceback through
  Python's hook, some of them seconds later: so the filter stays.
  """
  silence("orbax")
  if not isinstance(sys.unraisablehook, _WithoutAftermath):
    sys.unraisablehook = _WithoutAftermath(sys.unraisablehook)


@dataclasses.dataclass(frozen=True)
class _WithoutAftermath:
  """Passes on what nobody could be told, less what follows a known error."""

  before: Callable[[sys.UnraisableHookArgs], object]

  def __call__(self, lost: sys.UnraisableHookArgs) -> None:
    if not any(text in str(lost.exc_value) for text in _AFTERMATH):
      self.before(lost)


def _is_wanted(record: logging.LogRecord) -> bool:
  return not any(package in record.pathname for package in _SILENT)
