"""A row of the table: what is wrong, and what the one line must say."""

from typing import NamedTuple


class Row(NamedTuple):
  """A bad input.

  Attributes:
    kind: of the input.
    name: what is wrong.
    act: what happens on a `bench.Bench`; gives the command's outcome.
    says: words of the error: what is wrong, and what to do.
  """

  kind: str
  name: str
  act: object
  says: tuple[str, ...]


def rows(kind, found):
  """Rows of a kind: name -> (act, words...)."""
  return [Row(kind, name, act, says) for name, (act, *says) in found.items()]


def field(change, *says):
  """A field of the config alone is wrong."""
  return (lambda at: at.train(change), *says)
