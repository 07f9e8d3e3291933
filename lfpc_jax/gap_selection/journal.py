"""What has been answered so far, so that a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, Self

from lfpc_jax import journal


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
  """The entries of a selection, in a `journal.Journal`."""

  def __init__(self, path: pathlib.Path, about: Mapping[str, Any]):
    """Opens the file, or starts it; see `journal.Journal`."""
    self._journal = journal.Journal(path, about, "selection")
    self.entries = [Entry(**entry) for entry in self._journal.entries]

  def add(self, entry: Entry) -> None:
    """Keeps a batch, at once."""
    self.entries.append(entry)
    self._journal.add(dataclasses.asdict(entry))

  def known(self, level: int) -> dict[str, tuple[str, int]]:
    """Answer and visual tokens by example, of one level."""
    return {
      name: (answer, tokens)
      for entry in self.entries
      if entry.level == level
      for name, answer, tokens in zip(entry.ids, entry.answers, entry.tokens)
    }

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self._journal.close()
