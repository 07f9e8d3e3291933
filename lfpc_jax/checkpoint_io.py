"""The leaves of a checkpoint: names, stored form, reading, and its errors."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import re
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lfpc_jax import finite, notes
from lfpc_jax.errors import UserError

STATE, EXTRA = "state", "extra"  # a step's two parts: arrays, plain values
Flat = dict[str, Any]  # path of a leaf -> leaf
_REMEDY = (
  "copy it again, or move that directory away to go on from the step before it"
)


def flatten(tree: Any) -> Flat:
  """The leaves of a tree under the names of their paths, in its order."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  names = [
    jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves
  ]
  return dict(zip(names, (leaf for _, leaf in leaves), strict=True))


def nest(flat: Flat) -> dict[str, Any]:
  """Nested dictionaries from leaves named by path."""
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split(".")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def without_keys(flat: Flat) -> Flat:
  """Arrays as they are stored: a typed PRNG key as its data."""
  return {
    k: jax.random.key_data(v)
    if _is_key(v)
    else (v if isinstance(v, jax.Array) else np.asarray(v))
    for k, v in flat.items()
  }


def key_data_of(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  """The stored form of an abstract key; other leaves pass through."""
  if not _is_key(x):
    return x
  data = jax.eval_shape(jax.random.key_data, x)
  return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=x.sharding)


def with_key(data: jax.Array, wanted: jax.ShapeDtypeStruct) -> jax.Array:
  """A typed key from its data where one is wanted; others pass through."""
  if not _is_key(wanted):
    return data
  kinds = []  # an abstract key does not tell its kind; a traced one does
  jax.eval_shape(lambda k: kinds.append(jax.random.key_impl(k)), wanted)
  return jax.random.wrap_key_data(data, impl=kinds[0])


def _is_key(x: Any) -> bool:
  return jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key)


def saved_leaves(path: epath.Path) -> Flat:
  """Shape and type of each leaf in a checkpoint."""
  notes.silence_orbax()
  with reading(path):
    metadata = ocp.PyTreeCheckpointHandler().metadata(path / STATE)
    return {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype)
      for name, x in metadata.tree.items()
    }


def read_leaves(path: epath.Path, wanted: Flat) -> Flat:
  """Reads leaves as the ShapeDtypeStructs in `wanted` say."""
  first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  restore_args = {
    name: ocp.ArrayRestoreArgs(
      sharding=x.sharding or first, dtype=x.dtype, global_shape=x.shape
    )
    for name, x in wanted.items()
  }
  args = ocp.args.PyTreeRestore(
    item=wanted, restore_args=restore_args, partial_restore=True
  )
  with (
    reading(path),
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader,
  ):
    return reader.restore(path / STATE, args=args)


def check_fits(path: epath.Path, saved: Flat, wanted: Flat, cast: bool) -> None:
  """Refuses a checkpoint that lacks a wanted leaf or has it otherwise.

  Args:
    path: the step's directory, for the message.
    saved: ShapeDtypeStructs of what is there.
    wanted: ShapeDtypeStructs of what is asked for.
    cast: whether one floating-point type may stand for another.

  Raises:
    UserError: names the first leaf that differs.
  """
  problems = []
  for name, x in wanted.items():
    there = saved.get(name)
    if there is None:
      problems.append(f"{name} is not in it")
      continue
    both_float = jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(
      there.dtype, jnp.floating
    )
    if there.shape != x.shape or (
      there.dtype != x.dtype and not (cast and both_float)
    ):
      problems.append(f"{name} is {_show(there)} there and {_show(x)} here")
  if problems:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise UserError(
      f"the checkpoint {path} is of another policy or optimiser: "
      f"{problems[0]}{more}. Use the config it was trained with, or start in "
      "a new --workdir"
    )


def check_finite(path: epath.Path, arrays: Flat) -> None:
  """Refuses NaN and infinity in what was read.

  Raises:
    UserError: names the first leaf that has one.
  """
  if found := finite.first_bad(arrays):
    raise UserError(
      f"the checkpoint {path} holds NaN or infinity in {found[0]}: {_REMEDY}"
    )


@contextlib.contextmanager
def reading(path: epath.Path) -> Iterator[None]:
  """Turns whatever a broken checkpoint raises into one line that names it."""
  try:
    yield
  except (UserError, MemoryError, jax.errors.JaxRuntimeError):
    raise  # no fault of the files
  except Exception as error:  # tensorstore and Orbax raise many kinds
    raise UserError(
      f"cannot read the checkpoint {path}: {first_line(error)}. If a file of "
      f"it is missing or damaged, {_REMEDY}"
    ) from error


def _show(x: jax.ShapeDtypeStruct) -> str:
  return f"{x.dtype}{list(x.shape)}"


def first_line(error: BaseException) -> str:
  """The root cause in a line; Orbax wraps it in pages of detail."""
  while error.__cause__ is not None:
    error = error.__cause__
  text = re.sub(r"\s*\[source locations=.*", "", str(error), flags=re.DOTALL)
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return (lines[0] if lines else type(error).__name__)[:200]
