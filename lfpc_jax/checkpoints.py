"""Training state on disk, through Orbax: asynchronous, atomic, any mesh.

A step lies in `<directory>/<step>/` and appears there whole or not at all: it
is written under another name and renamed at the end, so a kill at any moment
leaves the previous one usable. Leaves are stored under the names of their
path (`params.layers.q.kernel`), so that a part can be read alone and a
mismatch can be named. A restore asks for shapes, types and shardings, and so
works on another mesh than the save.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import json
import logging
import os
from types import TracebackType
from typing import Any, Self

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from lfpc_jax import notes
from lfpc_jax.checkpoint_io import (
  EXTRA,
  STATE,
  check_finite,
  check_fits,
  first_line,
  flatten,
  key_data_of,
  nest,
  read_leaves,
  reading,
  saved_leaves,
  with_key,
  without_keys,
)
from lfpc_jax.errors import UserError

SUBFOLDER = "checkpoints"  # of a run's directory
_PARAMS = "params"  # the state's field that `restore_params` reads


class Checkpointer:
  """Saves a training state every few steps and restores the latest one.

  with Checkpointer(directory, every=10, keep=3) as checkpointer:
    if checkpointer.latest_step is not None:
      state, extra = checkpointer.restore(abstract(state))
    ...
    checkpointer.save(step, state, extra)
  """

  def __init__(
    self, directory: epath.PathLike, every: int = 1, keep: int | None = None
  ):
    """Makes the directory and removes what a killed save left in it.

    Args:
      directory: where the steps lie; local or `gs://`.
      every: steps between two saves.
      keep: how many of the latest to keep; None keeps all.

    Raises:
      UserError: the directory cannot be made or written.
    """
    if every < 1 or (keep is not None and keep < 1):
      raise UserError(
        f"checkpoints every {every} steps, keeping {keep}: both must be at "
        "least 1 (keep may be None: all)"
      )
    self.directory = epath.Path(directory)
    self.every = every
    notes.silence_orbax()
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    )
    with self._writing("open"):
      self.directory = located(directory)
      self.directory.mkdir(parents=True, exist_ok=True)
      self._manager = ocp.CheckpointManager(self.directory, options=options)

  @property
  def latest_step(self) -> int | None:
    """The latest whole checkpoint's step, or None."""
    return self._manager.latest_step()

  @property
  def steps(self) -> tuple[int, ...]:
    """The whole checkpoints' steps, ascending."""
    return tuple(sorted(self._manager.all_steps()))

  def save(
    self,
    step: int,
    state: Any,
    extra: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
  ) -> bool:
    """Starts to save if `step` is due; writing goes on in the background.

    The arrays are copied before the call returns: they may be donated.

    Args:
      step: the number of steps done.
      state: a pytree of arrays; PRNG keys may be typed.
      extra: plain values for JSON: the config, the data position.
      force: save also when not due; a step that is there is not saved twice.

    Returns:
      Whether a save was started.

    Raises:
      UserError: this save or the one before it could not be written.
    """
    if not force and step % self.every:
      return False
    extra = dict(extra or {})
    try:
      json.dumps(extra)
    except (TypeError, ValueError) as error:
      raise UserError(f"extra of checkpoint {step}: {error}") from error
    with self._writing(step):
      self._manager.wait_until_finished()  # tells of a failed earlier save
      if step in self._manager.all_steps():
        return False
      args = ocp.args.Composite(
        state=ocp.args.PyTreeSave(without_keys(flatten(state))),
        extra=ocp.args.JsonSave(extra),
      )
      return bool(self._manager.save(step, args=args, force=True))

  def wait(self) -> None:
    """Returns when the last save is whole on disk.

    Raises:
      UserError: it could not be written.
    """
    with self._writing("the last step"):
      self._manager.wait_until_finished()

  def restore(
    self, target: Any, step: int | None = None
  ) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      target: the state's tree, of arrays or of ShapeDtypeStructs with
        shardings (`abstract`); it may be sharded otherwise than the save.
      step: which one; None takes the latest.

    Returns:
      The state, bit by bit as it was saved, and `extra`.

    Raises:
      UserError: nothing there, damaged, not finite, or of another shape than
        `target`.
    """
    self.wait()
    path = find_step(self.directory, step)
    return _restore_tree(path, target), read_extra(path)

  def close(self) -> None:
    """Waits for the last save, then stops the background threads."""
    with self._writing("the last step"):
      self._manager.wait_until_finished()
      self._manager.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    try:
      self.close()
    except UserError:
      if error is None:  # else the error on its way says more
        raise

  @contextlib.contextmanager
  def _writing(self, step: int | str) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      if not (isinstance(error, OSError | ValueError) or _is_of_bucket(error)):
        raise
      raise UserError(
        f"cannot write checkpoints to {self.directory} ({step}): "
        f"{first_line(error)}. Check free space and permissions; earlier "
        "checkpoints there are untouched"
      ) from error


def _is_of_bucket(error: Exception) -> bool:
  """Whether it comes from what serves gs:// paths, whose kinds are its own."""
  package = type(error).__module__.partition(".")[0]
  return package in ("gcsfs", "google", "aiohttp")


def abstract(state: Any) -> Any:
  """The tree of ShapeDtypeStructs, with shardings, of a tree of arrays."""

  def describe(x):
    if isinstance(x, jax.ShapeDtypeStruct):
      return x
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    sharding = getattr(x, "sharding", None)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(describe, state)


def located(path: epath.PathLike) -> epath.Path:
  """A directory as Orbax wants it: absolute, or a URL as it stands.

  Args:
    path: local or `gs://`.

  Raises:
    UserError: nothing here serves such a URL, or its bucket does not answer.
  """
  path = epath.Path(path)
  if "://" not in os.fspath(path):
    return path.resolve()  # which would make a URL a local path
  logging.getLogger("gcsfs").setLevel(logging.WARNING)  # how it reads ahead
  try:
    path.exists()  # loads what serves it
  except ImportError as error:
    raise UserError(
      f"{path}: {first_line(error)}: `pip install gcsfs` serves gs:// paths"
    ) from error
  except Exception as error:  # of gcsfs, aiohttp, Google's libraries
    raise UserError(
      f"{path} does not answer: {first_line(error)}. Check the bucket's name, "
      "the network and your credentials (gcloud auth application-default login)"
    ) from error
  return path


def find_step(path: epath.PathLike, step: int | None = None) -> epath.Path:
  """The directory of a whole checkpoint.

  Args:
    path: a step's directory, the directory that holds the steps, or a run's
      directory, which holds that one as `checkpoints`.
    step: which step; None takes the latest.

  Raises:
    UserError: there is none.
  """
  path = located(path)
  if step is None and _is_step(path):
    return path
  if not path.exists():
    raise UserError(f"no checkpoint at {path}: there is no such directory")
  for folder in (path, path / SUBFOLDER):
    steps = {int(p.name): p for p in _children(folder) if _is_step(p)}
    if steps and step is None:
      return steps[max(steps)]
    if step in steps:
      return steps[step]
    if steps:
      raise UserError(
        f"no checkpoint of step {step} in {folder}: there are {sorted(steps)}"
      )
  raise UserError(
    f"no checkpoint in {path}: give a run's directory, or one of its "
    f"{SUBFOLDER}/<step>"
  )


def read_extra(path: epath.PathLike) -> dict[str, Any]:
  """The plain values saved with a checkpoint; `path` as for `find_step`.

  Raises:
    UserError: nothing there, or damaged.
  """
  path = find_step(path)
  with reading(path):
    text = (path / EXTRA / "metadata").read_text()
    return json.loads(text)


def restore_params(path: epath.PathLike, target: Any = None) -> Any:
  """Reads a checkpoint's parameters, and nothing else of its state.

  Args:
    path: a run's directory (its latest step) or a step's directory.
    target: the parameters' tree of arrays or ShapeDtypeStructs, which gives
      shardings and may ask for another floating-point type; None gives a
      nested dictionary as saved, on the first local device.

  Raises:
    UserError: nothing there, damaged, not finite, or of another shape than
      `target`.
  """
  path = find_step(path)
  if target is not None:
    return _restore_tree(path, {_PARAMS: target}, cast=True)[_PARAMS]
  prefix = _PARAMS + "."
  wanted = {k: v for k, v in saved_leaves(path).items() if k.startswith(prefix)}
  if not wanted:
    raise UserError(f"the checkpoint {path} holds no parameters")
  arrays = read_leaves(path, wanted)
  check_finite(path, arrays)
  return nest({k[len(prefix) :]: v for k, v in arrays.items()})


def _restore_tree(path: epath.Path, target: Any, cast: bool = False) -> Any:
  wanted = flatten(abstract(target))
  saved = saved_leaves(path)
  plain = {k: key_data_of(v) for k, v in wanted.items()}
  check_fits(path, saved, plain, cast)
  arrays = read_leaves(path, plain)
  check_finite(path, arrays)
  leaves = [with_key(arrays[k], v) for k, v in wanted.items()]
  return jax.tree.unflatten(jax.tree.structure(target), leaves)


def _is_step(path: epath.Path) -> bool:
  return (
    path.name.isdigit()
    and (path / STATE).is_dir()
    and ocp.utils.is_checkpoint_finalized(path)
  )


def _children(folder: epath.Path) -> list[epath.Path]:
  return list(folder.iterdir()) if folder.is_dir() else []
