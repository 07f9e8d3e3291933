"""Files below a root: images, JSON, JSON lines. Nothing leaves the root."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from lfpc_jax.data.sources.rows import RowError
from lfpc_jax.errors import UserError

# Above any encoded image or list of rows that is published; a limit only
# keeps a wrong file from filling the memory.
MAX_IMAGE_BYTES = 1 << 29
MAX_JSON_BYTES = 1 << 30
MAX_LINE_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class PathImage:
  """An image in a file of its own, already found to be inside its root."""

  path: pathlib.Path
  size: int

  def read(self) -> bytes:
    """See `rows.ImageFile`."""
    if self.size > MAX_IMAGE_BYTES:
      raise RowError(f"{self.path} has {self.size:,} bytes: too many to read")
    try:
      return self.path.read_bytes()
    except OSError as error:
      raise RowError(f"{self.path}: {error.strerror}") from error


def find_image(root: pathlib.Path, name: str, *folders: str) -> PathImage:
  """An image by the path that a row gives.

  Args:
    root: the data set's folder.
    name: relative to it; `file://` is dropped.
    folders: tried next, in which the path may be as well. An absolute path of
      another machine is looked for from such a folder's name on.

  Raises:
    RowError: no such file, or one outside the root: by '..', as an absolute
      path, or through a link.
  """
  name = name.removeprefix("file://")
  outside = None
  places = [os.path.join(folder, name) for folder in ("", *folders)]
  for place in (*places, *_tails(name, folders)):
    try:
      path = inside(root, place)
      if path.is_file():
        return PathImage(path, path.stat().st_size)
    except RowError as error:
      outside = outside or error
    # A name that no file can have: too long, a zero byte, a loop of links.
    except (OSError, ValueError, RuntimeError) as error:
      raise RowError(f"the image's path {name[:80]!r}: {error}") from error
  raise outside or RowError(f"no image {name!r} below {root}")


def _tails(name: str, folders: Sequence[str]) -> Iterator[str]:
  """What an absolute path says from a folder's name on, the longest first."""
  parts = pathlib.PurePosixPath(name).parts if name.startswith("/") else ()
  for k, part in enumerate(parts):
    if part in folders:
      yield "/".join(parts[k:])


def inside(root: pathlib.Path, name: str) -> pathlib.Path:
  """The real path of a name below a root.

  Raises:
    RowError: it leads out of the root.
  """
  base = root.resolve()
  path = (base / name).resolve()
  if not path.is_relative_to(base):
    raise RowError(
      f"the path {name!r} leads out of {root}: keep all files below it, as"
      " files and not as links"
    )
  return path


def read_json(root: pathlib.Path, name: str) -> Any:
  """The value of a JSON file below the root.

  Raises:
    UserError: it cannot be read, leads out of the root, or is no JSON.
  """
  path = _inside(root, name)
  try:
    if path.stat().st_size > MAX_JSON_BYTES:
      raise UserError(f"{path} has more than {MAX_JSON_BYTES:,} bytes")
    return load_json(path.read_bytes())
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error
  except RowError as error:
    raise UserError(f"{path} {error}: fetch it again") from error


def read_json_list(root: pathlib.Path, name: str) -> list:
  """A JSON file that holds a list.

  Raises:
    UserError: as `read_json`, or it holds something else.
  """
  value = read_json(root, name)
  if not isinstance(value, list):
    raise UserError(
      f"{root / name} holds a {type(value).__name__}, no list of rows: fetch"
      " it again"
    )
  return value


def load_json(data: bytes) -> Any:
  """Parses JSON.

  Raises:
    RowError: it is none, or nested too deeply.
  """
  try:
    return json.loads(data.decode("utf-8-sig"))
  except (ValueError, RecursionError) as error:
    raise RowError(f"is no valid JSON ({error})") from error


def read_lines(
  root: pathlib.Path, name: str
) -> Iterator[tuple[int, bytes | RowError]]:
  """The lines of a file, from 1, empty ones left out.

  A line of more than `MAX_LINE_BYTES` is given as an error and skipped.

  Raises:
    UserError: the file cannot be read or leads out of the root.
  """
  path = _inside(root, name)
  try:
    with path.open("rb") as file:
      number = 0
      while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
          while (rest := file.readline(MAX_LINE_BYTES)) and rest[-1:] != b"\n":
            pass
          yield number, RowError(f"more than {MAX_LINE_BYTES:,} bytes long")
        elif line.strip():
          yield number, line
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error


def _inside(root: pathlib.Path, name: str) -> pathlib.Path:
  try:
    return inside(root, name)
  except (RowError, OSError, RuntimeError, ValueError) as error:
    raise UserError(f"{root / name}: {error}") from error
