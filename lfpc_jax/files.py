"""Files that are either whole or not there."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
from typing import IO


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
  """Opens a binary file that replaces `path` when the block ends well.

  A reader of `path` sees the old content or the new, also after a kill or a
  full disk; an exception in the block leaves the old content.  Missing parent
  folders are made.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    with part.open("wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    part.replace(path)
  except BaseException:
    part.unlink(missing_ok=True)
    raise


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes `data` as the whole content of `path`, or changes nothing."""
  with atomic_writer(path) as file:
    file.write(data)
