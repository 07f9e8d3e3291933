"""What has been done so far, so that a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any, Self

from lfpc_jax import files
from lfpc_jax.errors import UserError


class Journal:
  """A file of JSON lines: what the run is about, then an entry a batch.

  A line reaches the file whole or, after a kill, torn as its last line, which
  is then dropped.

  Attributes:
    path: the file.
    entries: what has been kept, plain values, in order.
  """

  def __init__(self, path: pathlib.Path, about: Mapping[str, Any], what: str):
    """Opens the file, or starts it.

    Args:
      path: the file.
      about: plain values that decide the entries.
      what: a word for what they make up, for messages.

    Raises:
      UserError: the file is about something else, or damaged.
    """
    self.path = path
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    about = json.loads(json.dumps(about))
    if not lines:
      lines = [json.dumps(about).encode()]
    known, *entries = self._read(lines)
    if known != about:
      raise UserError(
        f"{path.parent} holds another {what} ({_changes(known, about)}): take "
        f"back the change, give another --workdir, or remove {path.name}"
      )
    self.entries = entries
    files.atomic_write(path, b"".join(line + b"\n" for line in lines))
    self._file = path.open("ab", buffering=0)

  def _read(self, lines: list[bytes]) -> list[dict[str, Any]]:
    """The values of all lines."""
    found = []
    for number, line in enumerate(lines, 1):
      try:
        found.append(dict(json.loads(line)))
      except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
          f"line {number} of {self.path} is damaged ({error}): remove "
          f"{self.path.name} to begin anew, or give another --workdir"
        ) from error
    return found

  def add(self, entry: Mapping[str, Any]) -> None:
    """Keeps a batch, at once."""
    # One write a line: a kill cannot leave two half lines.
    files.append(self._file, json.dumps(entry).encode() + b"\n")

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _changes(known: Any, now: Any, prefix: str = "") -> str:
  """The fields that differ, groups opened: 'a.b 1 -> 2, c 3 -> 4'."""
  found = []
  for name in known | now:
    old, new = known.get(name), now.get(name)
    if isinstance(old, dict) and isinstance(new, dict):
      found.append(_changes(old, new, f"{prefix}{name}."))
    elif old != new:
      found.append(f"{prefix}{name} {old!r} -> {new!r}")
  return ", ".join(filter(None, found))
