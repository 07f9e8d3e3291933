"""What has been answered so far, so that a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any, Self

from lfpc_jax import files
from lfpc_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Entry:
  """One batch of answers.

  Attributes:
    level: the view's budget in visual tokens.
    ids: the examples'.
    answers: the policy's, in the same order.
    tokens: visual tokens of each view.
    seconds: what the batch took, compilation left out.
    compile_seconds: spent on the program for this batch; mostly 0.
  """

  level: int
  ids: Sequence[str]
  answers: Sequence[str]
  tokens: Sequence[int]
  seconds: float
  compile_seconds: float


class Journal:
  """A file of JSON lines: what the run is about, then an entry a batch.

  A line reaches the file whole or, after a kill, torn as its last line, which
  is then dropped.
  """

  def __init__(self, path: pathlib.Path, about: Mapping[str, Any]):
    """Opens the file, or starts it.

    Args:
      path: the file.
      about: plain values that decide the answers.

    Raises:
      UserError: the file is about something else.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    about = json.loads(json.dumps(about))
    if not lines:
      lines = [json.dumps(about).encode()]
    known = json.loads(lines[0])
    if known != about:
      names = [k for k in about | known if about.get(k) != known.get(k)]
      changes = ", ".join(
        f"{k} {known.get(k)!r} -> {about.get(k)!r}" for k in names
      )
      raise UserError(
        f"{path.parent} holds another selection ({changes}): take back the "
        "change, or give another --workdir"
      )
    self.entries = [Entry(**json.loads(line)) for line in lines[1:]]
    files.atomic_write(path, b"".join(line + b"\n" for line in lines))
    self._file = path.open("ab", buffering=0)

  def add(self, entry: Entry) -> None:
    """Keeps a batch, at once."""
    self.entries.append(entry)
    # One write a line: a kill cannot leave two half lines.
    self._file.write(json.dumps(dataclasses.asdict(entry)).encode() + b"\n")

  def known(self, level: int) -> dict[str, tuple[str, int]]:
    """Answer and visual tokens by example, of one level."""
    return {
      name: (answer, tokens)
      for entry in self.entries
      if entry.level == level
      for name, answer, tokens in zip(entry.ids, entry.answers, entry.tokens)
    }

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
