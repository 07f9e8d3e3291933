"""Finds, opens and checks published safetensors files.

Everything that a download can get wrong is found here, before a tensor is
read. Only safetensors are opened: nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import pathlib
from typing import Any

import safetensors

from lfpc_jax.errors import UserError
from lfpc_jax.models import layout
from lfpc_jax.models.config import PolicyConfig

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
Files = dict[str, tuple[pathlib.Path, str]]  # canonical: (file, stored name)


def find(directory: pathlib.Path) -> Files:
  """Finds the file of every stored tensor, by its canonical name.

  Raises:
    UserError: no safetensors, a missing shard, a damaged index or file.
  """
  files: Files = {}
  for path in _shards(directory):
    with opened(path) as handle:
      stored = list(handle.keys())
    for name in stored:
      known = layout.canonical(name)
      if known in files:
        raise UserError(f"{path}: tensor {name} is stored twice")
      files[known] = (path, name)
  return files


def _shards(directory: pathlib.Path) -> list[pathlib.Path]:
  if (directory / SINGLE).exists():
    return [directory / SINGLE]
  index = directory / INDEX
  if not index.exists():
    raise UserError(
      f"{directory} holds neither {SINGLE} nor {INDEX}: only safetensors "
      "are loaded; convert other formats first"
    )
  try:
    weight_map = dict(json.loads(index.read_text())["weight_map"])
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{index} is no index of shards ({error!r})") from error
  shards: dict[str, pathlib.Path] = {}
  for name, file in sorted(weight_map.items()):
    if not isinstance(file, str) or pathlib.Path(file).name != file:
      raise UserError(f"{index}: {name} is in {file!r}, which is no file name")
    shards.setdefault(file, directory / file)
    if not shards[file].exists():
      raise UserError(
        f"{shards[file]} does not exist, but {index.name} says that it holds "
        f"{name}: download the shard again"
      )
  return list(shards.values())


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Any]:
  """Opens one safetensors file, mapped into memory until it is closed."""
  try:
    handle = safetensors.safe_open(path, "numpy")
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(
      f"{path} is damaged{_first_lost(path)} ({error}): download it again"
    ) from error
  with handle:
    yield handle


def _first_lost(path: pathlib.Path) -> str:
  """Names the first tensor that lies beyond the end of a truncated file."""
  try:
    with path.open("rb") as file:
      length = int.from_bytes(file.read(8), "little")
      header = json.loads(file.read(min(length, path.stat().st_size)))
    header.pop("__metadata__", None)
    end = path.stat().st_size - 8 - length
    lost = [
      (entry["data_offsets"][1], name)
      for name, entry in header.items()
      if entry["data_offsets"][1] > end
    ]
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return ": its header cannot be read"
  return f": tensor {min(lost)[1]} is cut off" if lost else ""


def check(config: PolicyConfig, files: Files, directory: pathlib.Path) -> None:
  """Compares the names and shapes of all tensors before any is loaded.

  Raises:
    UserError: a tensor is missing, unknown, of another shape, or no float.
  """
  wanted = {name: shape for _, _, name, shape in layout.entries(config)}
  # A tied checkpoint may repeat the embedding as its head; nothing reads it.
  known = wanted.keys() | {"lm_head.weight"}
  for problem, names in (
    ("lacks", sorted(wanted.keys() - files.keys())),
    ("holds the unknown", sorted(files.keys() - known)),
  ):
    if names:
      more = f" and {len(names) - 1} more" if len(names) > 1 else ""
      raise UserError(
        f"{directory} {problem} tensor {names[0]}{more}: not the weights of "
        "the Qwen2.5-VL that its config describes"
      )
  for path in dict.fromkeys(path for path, _ in files.values()):
    with opened(path) as handle:
      for name, shape in wanted.items():
        if files[name][0] == path:
          _check_tensor(path, name, handle.get_slice(files[name][1]), shape)


def _check_tensor(path, name, stored, shape: tuple[int, ...]) -> None:
  if tuple(stored.get_shape()) != shape:
    raise UserError(
      f"{path}: tensor {name} has shape {tuple(stored.get_shape())}, the "
      f"config wants {shape}"
    )
  if stored.get_dtype() not in _FLOATS:
    raise UserError(
      f"{path}: tensor {name} is {stored.get_dtype()}, not one of "
      f"{', '.join(_FLOATS)}: quantised weights cannot be loaded"
    )
