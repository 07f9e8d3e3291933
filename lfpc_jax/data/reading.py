"""Reads of a built data set whose files may be damaged."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os

from lfpc_jax.errors import UserError


@contextlib.contextmanager
def reading(what: str | os.PathLike[str]) -> Iterator[None]:
  """Turns whatever a damaged data set raises into one line that names it.

  Args:
    what: the data set's folder, or a part of it.

  Raises:
    UserError: anything was raised, but for an index beyond the end, and for a
      right that the user lacks.
  """
  try:
    yield
  except (UserError, IndexError, MemoryError, PermissionError):
    raise
  # ArrayRecord, protocol buffers and JSON each raise their own kinds.
  except Exception as error:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    raise UserError(
      f"{os.fspath(what)} cannot be read ({text}): a file of the data set is "
      "missing or damaged; remove its folder and build it again"
    ) from error
