"""Keeps other packages' notes out of a command's output."""

from __future__ import annotations

import logging

_SILENT: set[str] = set()


def silence(package: str) -> None:
  """Drops what a package logs through absl; its errors are still raised.

  Args:
    package: name of its folder, `orbax` or `tensorflow_datasets`.
  """
  _SILENT.add(package)
  logger = logging.getLogger("absl")
  if not any(f is _is_wanted for f in logger.filters):
    logger.addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
  return not any(package in record.pathname for package in _SILENT)
