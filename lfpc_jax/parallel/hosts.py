"""Between a host's own memory and global arrays; one process or many.

Each process loads a contiguous part of a batch, `local_slice`, and makes
global arrays of it with all others, `shard_batch`. What it reads back,
`fetch`, is the same part.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import math
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from lfpc_jax.errors import UserError
from lfpc_jax.parallel.sharding import (
  Axes,
  current_mesh,
  named_sharding,
  spec_for,
)


def is_first() -> bool:
  """Whether this process writes and prints for all."""
  return jax.process_index() == 0


@dataclasses.dataclass(frozen=True)
class Share:
  """This process's part of a batch, one of `count` equal ones.

  Processes that hold other parts of the model have the same share.

  Attributes:
    index: which part.
    count: of how many.
    size: elements of the whole batch.
  """

  index: int
  count: int
  size: int

  @property
  def rows(self) -> slice:
    """The elements of the part."""
    local = self.size // self.count
    return slice(self.index * local, (self.index + 1) * local)


def batch_share(size: int) -> Share:
  """This process's part of a batch of `size` prompts.

  Raises:
    UserError: the size does not divide over the mesh, or the parts of the
      processes overlap without being the same.
  """
  if jax.process_count() > 1 and current_mesh() is None:
    raise UserError(
      f"{jax.process_count()} processes without a mesh: give the config a "
      "mesh section, as configs/tiny.py has it"
    )
  rows = local_slice(size)
  local = rows.stop - rows.start
  if size % local or rows.start % local:
    raise UserError(
      f"process {jax.process_index()} holds the prompts {rows.start} to "
      f"{rows.stop} of {size}, no whole share: put the mesh axis that splits "
      "the prompts first"
    )
  return Share(rows.start // local, size // local, size)


def local_slice(size: int, axis: str = "prompt") -> slice:
  """Which part of a global axis this process must load.

  Args:
    size: the axis's global size, for example P.
    axis: its logical name.

  Returns:
    The contiguous range that this process's devices hold.

  Raises:
    UserError: the size does not divide, or the range has gaps.
  """
  sharding = named_sharding((axis,), (size,))
  parts = sharding.addressable_devices_indices_map((size,)).values()
  ranges = sorted({part[0].indices(size)[:2] for part in parts})
  start, stop = ranges[0][0], max(r[1] for r in ranges)
  if sum(b - a for a, b in ranges) != stop - start:
    raise UserError(
      f"process {jax.process_index()} holds the ranges {ranges} of {axis}, "
      "not one: put the mesh axis that splits it first"
    )
  return slice(start, stop)


def shard_batch(batch: Any, axes: Axes = ("prompt",)) -> Any:
  """Puts a host's share of a batch on the devices as global arrays.

  Args:
    batch: a pytree of NumPy arrays; each leading axis is this process's
      `local_slice` of the global axis.
    axes: logical names of the leading axes; the others are not split.

  Returns:
    The same tree of jax.Arrays.

  Raises:
    UserError: the leading axis does not divide over the mesh.
  """

  def put(x):
    x = np.asarray(x)
    names = tuple(axes) + (None,) * (x.ndim - len(axes))
    sharding = named_sharding(names)
    if current_mesh() is None:
      return jax.device_put(x, sharding)
    shape = (_global_size(x.shape[0], names[0]), *x.shape[1:])
    sharding = named_sharding(names, shape)
    # Of many processes' shards this counts as a hidden copy, which it is not.
    with jax.transfer_guard_host_to_device("allow"):
      return jax.make_array_from_process_local_data(sharding, x, shape)

  return jax.tree.map(put, batch)


def _global_size(local: int, axis: str | None) -> int:
  """Global size of a leading axis of which this process holds `local`."""
  if jax.process_count() == 1:
    return local
  mesh_axes = spec_for((axis,))[0] or ()
  mesh_axes = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
  parts = math.prod(current_mesh().shape[a] for a in mesh_axes)
  mine = local_slice(parts, axis)  # with one element a part
  return local * parts // (mine.stop - mine.start)


def fetch(tree: Any) -> Any:
  """The arrays as NumPy; of a global one, the part that this process holds.

  Raises:
    ValueError: the part is no box: its shards lie apart.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)  # all copies at once
  return jax.tree.map(_fetch, tree)


def _fetch(x: Any) -> np.ndarray:
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return jax.device_get(x)
  if x.is_fully_replicated:
    return jax.device_get(x.addressable_data(0))
  pieces = {}
  for shard in x.addressable_shards:
    bounds = [i.indices(n)[:2] for i, n in zip(shard.index, x.shape)]
    pieces[tuple(bounds)] = shard.data
  low = [min(b[k][0] for b in pieces) for k in range(x.ndim)]
  high = [max(b[k][1] for b in pieces) for k in range(x.ndim)]
  whole = np.empty([b - a for a, b in zip(low, high)], x.dtype)
  if sum(piece.size for piece in pieces.values()) != whole.size:
    raise ValueError(f"this process holds scattered parts of {x.sharding}")
  for bounds, piece in pieces.items():
    place = tuple(slice(a - k, b - k) for (a, b), k in zip(bounds, low))
    whole[place] = jax.device_get(piece)
  return whole


def gather(values: Sequence[Any]) -> list[Any]:
  """The values of all processes, in the order of the processes.

  They travel as JSON, also to a process that is alone, and so are plain: a
  tuple arrives as a list. Every process must call this, and all get the result.

  Raises:
    TypeError: JSON has no form for a value.
  """
  data = np.frombuffer(json.dumps(list(values)).encode(), np.uint8)
  if jax.process_count() == 1:
    return json.loads(data.tobytes())
  sizes = multihost_utils.process_allgather(np.int64(data.size)).reshape(-1)
  padded = np.zeros(int(max(sizes)), np.uint8)
  padded[: data.size] = data
  rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
  lists = (json.loads(row[:n].tobytes()) for row, n in zip(rows, sizes))
  return [x for part in lists for x in part]
