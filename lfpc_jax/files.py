"""Files that are either whole or not there."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import re
import socket
from typing import IO

from lfpc_jax.errors import UserError

_LOCK = ".lock"
_PART = ".lfpc.part"
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
  """Opens a binary file that replaces `path` when the block ends well.

  A reader of `path` sees the old content or the new, also after a kill or a
  full disk; an exception in the block leaves the old content.  Missing parent
  folders are made, and what killed writers have left in the folder is removed.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  _remove_abandoned(path.parent)
  part = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}{_PART}")
  try:
    with _open_held(part) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
      part.replace(path)  # while it is held
  except BaseException:
    part.unlink(missing_ok=True)
    raise


def _open_held(part: pathlib.Path) -> IO[bytes]:
  """Opens a new file and locks it, which says that its writer lives."""
  while True:
    file = open(part, "r+b", opener=_create)  # noqa: SIM115
    with contextlib.suppress(OSError):  # of a file system without locks
      fcntl.flock(file, fcntl.LOCK_EX)
    if _is_at(file, part):
      file.truncate(0)  # not before it is held
      return file
    file.close()  # it was taken for an abandoned one before it was locked


def _create(path: str, flags: int) -> int:
  return os.open(path, flags | os.O_CREAT, 0o666)


def _is_at(file: IO[bytes], path: pathlib.Path) -> bool:
  """Whether the path still leads to the open file."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  except FileNotFoundError:
    return False


def _remove_abandoned(folder: pathlib.Path) -> None:
  """Removes the parts in a folder that no process writes any more."""
  # Another host's locks may not be seen here.
  for part in folder.glob(f".*.{_HOST}.[0-9]*{_PART}"):
    with contextlib.suppress(OSError), part.open("r+b") as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_at(file, part):
        part.unlink()


@contextlib.contextmanager
def locked(
  folder: str | os.PathLike[str], enabled: bool = True
) -> Iterator[None]:
  """Keeps a second run out of a folder; the system frees it after a kill.

  What a killed run left half written in the folder, and in those in it, goes.

  Args:
    folder: made if missing. One in an object store cannot be locked.
    enabled: False does nothing.

  Raises:
    UserError: another run holds it, or it cannot be written.
  """
  if not enabled or "://" in os.fspath(folder):
    yield
    return
  path = pathlib.Path(folder) / _LOCK
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b", buffering=0)
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {error.strerror}; give a --workdir that can be "
      "written"
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      holder = file.read(32).decode(errors="replace") or "unknown"
      raise UserError(
        f"{folder} is in use by another run, process {holder}: wait for its "
        "end, or give another --workdir"
      ) from None
    _write_holder(file)
    for place in (path.parent, *path.parent.glob("*/")):
      _remove_abandoned(place)
    yield


def _write_holder(file: IO[bytes]) -> None:
  try:
    file.truncate(0)
    append(file, str(os.getpid()).encode())
  except OSError as error:
    raise UserError(
      f"cannot write {file.name}: {error.strerror}; free some space, or give "
      "another --workdir"
    ) from error


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes `data` as the whole content of `path`, or changes nothing."""
  with atomic_writer(path) as file:
    file.write(data)


def append(file: IO[bytes], data: bytes) -> None:
  """Appends to an unbuffered file with one write; a kill cannot tear it.

  Raises:
    OSError: a part did not fit onto the disk, or all of it.
  """
  written = file.write(data)
  if written != len(data):  # the system says so only at the next write
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
