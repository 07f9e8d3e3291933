"""Logical array axes, and one table that maps them to mesh axes.

Model and training code names the axes of an array (`'prompt'`, `'embed'`);
a table of rules, which the config can change, says over which mesh axes each
is split. The same program so runs on one device or on a pod:

  with use_mesh(make_mesh(('fsdp', 'tensor'), (-1, 2)), make_rules()):
    x = constrain(x, ('prompt', 'sequence', None))

Outside of `use_mesh`, `constrain` does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import contextvars
import difflib
import math
from typing import Any

import jax
import numpy as np

from lfpc_jax.errors import UserError

Axes = Sequence[str | None]  # one logical name for each axis of an array
Rules = Mapping[str, tuple[str, ...]]  # logical axis -> mesh axes

# Fully-sharded data parallel x tensor parallel. Activations are split over
# prompts, parameters over their widths; an activation's own width is
# 'features', because 'embed' and 'prompt' are both split over fsdp.
DEFAULT_RULES: Rules = {
  "prompt": ("fsdp",),
  "rollout": (),
  "view": ("fsdp",),  # images of a batch, before they belong to a prompt
  "sequence": (),
  "prefix": (),
  "suffix": (),
  "visual_token": (),
  "features": (),
  "embed": ("fsdp",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "head_dim": (),
  "mlp": ("tensor",),
  "vocab": ("tensor",),
  "layers": (),
  "lora_rank": (),
  "norm": (),
  "vision_embed": ("fsdp",),
  "vision_heads": ("tensor",),
  "vision_mlp": ("tensor",),
  "qkv": (),
  "frames": (),
  "pixels": (),
}

_active: contextvars.ContextVar[tuple[jax.sharding.Mesh, Rules] | None] = (
  contextvars.ContextVar("lfpc_mesh", default=None)
)


def make_rules(
  changes: Mapping[str, str | Sequence[str] | None] | None = None,
) -> Rules:
  """The default table with a config's changes.

  Args:
    changes: logical axis -> mesh axis, several of them, or None for unsplit.

  Raises:
    UserError: a name that is no logical axis.
  """
  rules = dict(DEFAULT_RULES)
  for name, axes in (changes or {}).items():
    _check_name(name, rules)
    axes = (axes,) if isinstance(axes, str) else axes
    rules[name] = tuple(axes or ())
  return rules


@contextlib.contextmanager
def use_mesh(
  mesh: jax.sharding.Mesh, rules: Rules = DEFAULT_RULES
) -> Iterator[jax.sharding.Mesh]:
  """Makes `mesh` and `rules` those of all calls inside the block.

  A function compiled under one table is not compiled again under another of
  the same mesh: use one table for the life of a program.

  Raises:
    UserError: a rule names an axis that the mesh does not have.
  """
  for name, axes in rules.items():
    missing = [a for a in axes if a not in mesh.axis_names]
    if missing:
      raise UserError(
        f"the rule {name} -> {tuple(axes)} names the mesh axis "
        f"{missing[0]!r}, but the mesh has {mesh.axis_names}: change the rule "
        "or add the axis with size 1"
      )
  token = _active.set((mesh, rules))
  try:
    with jax.set_mesh(mesh):
      yield mesh
  finally:
    _active.reset(token)


def current_mesh() -> jax.sharding.Mesh | None:
  """The mesh of the innermost `use_mesh`, or None outside of all."""
  active = _active.get()
  return active[0] if active else None


def spec_for(
  axes: Axes, rules: Rules | None = None
) -> jax.sharding.PartitionSpec:
  """Where an array with these logical axes lies, as a PartitionSpec.

  Args:
    axes: a logical name for each array axis; None leaves one unsplit.
    rules: the table; None takes that of `use_mesh`, or else the default.

  Raises:
    UserError: an unknown name, or two array axes split over one mesh axis.
  """
  if rules is None:
    active = _active.get()
    rules = active[1] if active else DEFAULT_RULES
  taken: dict[str, str] = {}  # mesh axis -> the logical axis that uses it
  entries = []
  for name in axes:
    if name is not None:
      _check_name(name, rules)
    mesh_axes = () if name is None else tuple(rules[name])
    for axis in mesh_axes:
      if axis in taken:
        raise UserError(
          f"array axes {tuple(axes)}: {taken[axis]} and {name} are both "
          f"split over the mesh axis {axis!r}; change the rule of one of them"
        )
      taken[axis] = name
    entries.append(mesh_axes if len(mesh_axes) != 1 else mesh_axes[0])
  return jax.P(*(entry or None for entry in entries))


def named_sharding(
  axes: Axes, shape: Sequence[int] | None = None
) -> jax.sharding.Sharding:
  """The sharding of an array with these logical axes on the active mesh.

  Without a mesh: the first local device alone.

  Args:
    axes: a logical name for each array axis.
    shape: if given, checked: each split axis must divide evenly.

  Raises:
    UserError: as `spec_for`, or a size that does not divide.
  """
  spec = spec_for(axes)
  active = _active.get()
  if active is None:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  if shape is not None:
    _check_divides(axes, shape, spec, active[0])
  return jax.sharding.NamedSharding(active[0], spec)


def tree_shardings(axes_tree: Any, shapes: Any = None) -> Any:
  """`named_sharding` of each tuple of names in a tree.

  Args:
    axes_tree: a tree whose leaves are tuples of logical names.
    shapes: if given, a tree of arrays or ShapeDtypeStructs of the same
      structure, to check the sizes against.
  """

  def is_leaf(x):
    return isinstance(x, tuple)

  if shapes is None:
    return jax.tree.map(named_sharding, axes_tree, is_leaf=is_leaf)
  return jax.tree.map(
    lambda axes, x: named_sharding(axes, x.shape),
    axes_tree,
    shapes,
    is_leaf=is_leaf,
  )


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
  """Pins `x` to where its logical axes lie; the value does not change.

  Outside of `use_mesh` it only checks that there is a name for each axis.

  Raises:
    ValueError: not one name for each axis of `x`.
    UserError: as `named_sharding`.
  """
  if len(axes) != x.ndim:
    raise ValueError(f"{len(axes)} names {tuple(axes)} for shape {x.shape}")
  if _active.get() is None:
    return x
  return jax.lax.with_sharding_constraint(x, named_sharding(axes, x.shape))


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


def _check_name(name: str, rules: Rules) -> None:
  if name in rules:
    return
  near = difflib.get_close_matches(name, rules, n=1)
  hint = f"did you mean {near[0]!r}?" if near else f"known: {sorted(rules)}"
  raise UserError(f"{name!r} is not a logical axis: {hint}")


def _check_divides(
  axes: Axes,
  shape: Sequence[int],
  spec: jax.sharding.PartitionSpec,
  mesh: jax.sharding.Mesh,
) -> None:
  for name, size, entry in zip(axes, shape, spec, strict=True):
    mesh_axes = (entry,) if isinstance(entry, str) else entry or ()
    parts = math.prod(mesh.shape[a] for a in mesh_axes)
    if size % parts:
      raise UserError(
        f"the axis {name} of size {size} does not divide over {parts} "
        f"devices (mesh axes {mesh_axes}, array axes {tuple(axes)}): change "
        f"the mesh, or leave it unsplit with the rule {name} -> ()"
      )
