"""Logical array axes, and one table that maps them to mesh axes.

Model and training code names the axes of an array (`'prompt'`, `'embed'`);
a table of rules, which the config can change, says over which mesh axes each
is split. The same program so runs on one device or on a pod:

  with use_mesh(make_mesh(('fsdp', 'tensor'), (-1, 2)), make_rules()):
    x = constrain(x, ('prompt', 'sequence', None))

Outside of `use_mesh`, `constrain` does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import contextvars
import difflib
import math
from typing import Any, NamedTuple

import jax

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


class _Active(NamedTuple):
  mesh: jax.sharding.Mesh
  rules: Rules
  rollout_rules: Rules


_active: contextvars.ContextVar[_Active | None] = contextvars.ContextVar(
  "lfpc_mesh", default=None
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


def parse_rules(changes: Sequence[str], base: Rules = DEFAULT_RULES) -> Rules:
  """A table with a config's changes, which are text.

  Args:
    changes: 'embed=fsdp' each; several mesh axes are joined by '+', and
      'embed=' leaves the axis unsplit.
    base: what is changed.

  Raises:
    UserError: no '=', or a name that is no logical axis.
  """
  rules = dict(base)
  for change in changes:
    name, equals, axes = str(change).partition("=")
    if not equals:
      raise UserError(
        f"the rule {change!r}: write the logical axis, '=' and mesh axes, "
        "such as 'prefix=context', 'prompt=fsdp+context' or 'embed='"
      )
    _check_name(name, rules)
    rules[name] = tuple(axis for axis in axes.split("+") if axis)
  return rules


def check_rules(mesh: jax.sharding.Mesh, *tables: Rules) -> None:
  """Refuses tables that name an axis that the mesh does not have.

  Raises:
    UserError: there is one.
  """
  for name, axes in (item for rules in tables for item in rules.items()):
    missing = [a for a in axes if a not in mesh.axis_names]
    if missing:
      raise UserError(
        f"the rule {name} -> {tuple(axes)} names the mesh axis "
        f"{missing[0]!r}, but the mesh has {mesh.axis_names}: change the rule "
        "or add the axis with size 1"
      )


@contextlib.contextmanager
def use_mesh(
  mesh: jax.sharding.Mesh,
  rules: Rules = DEFAULT_RULES,
  rollout_rules: Rules | None = None,
  absent: bool = False,
) -> Iterator[jax.sharding.Mesh]:
  """Makes `mesh` and `rules` those of all calls inside the block.

  A function compiled under one table is not compiled again under another of
  the same mesh: use one table for the life of a program.

  Args:
    mesh: the devices.
    rules: where arrays lie.
    rollout_rules: where parameters lie while a rollout decodes; None: as
      always.
    absent: the devices are not there; programs are only compiled for them.

  Raises:
    UserError: a rule names an axis that the mesh does not have.
  """
  rollout_rules = rules if rollout_rules is None else rollout_rules
  check_rules(mesh, rules, rollout_rules)
  token = _active.set(_Active(mesh, rules, rollout_rules))
  try:
    with contextlib.nullcontext() if absent else jax.set_mesh(mesh):
      yield mesh
  finally:
    _active.reset(token)


@contextlib.contextmanager
def host_only() -> Iterator[None]:
  """Takes the mesh away: for small sums over what one host holds."""
  token = _active.set(None)
  try:
    with jax.set_mesh(None):
      yield
  finally:
    _active.reset(token)


def current_mesh() -> jax.sharding.Mesh | None:
  """The mesh of the innermost `use_mesh`, or None outside of all."""
  active = _active.get()
  return active.mesh if active else None


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
    rules = active.rules if active else DEFAULT_RULES
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
  axes: Axes, shape: Sequence[int] | None = None, rules: Rules | None = None
) -> jax.sharding.Sharding:
  """The sharding of an array with these logical axes on the active mesh.

  Without a mesh: the first local device alone.

  Args:
    axes: a logical name for each array axis.
    shape: if given, checked: each split axis must divide evenly.
    rules: the table; None takes that of `use_mesh`.

  Raises:
    UserError: as `spec_for`, or a size that does not divide.
  """
  spec = spec_for(axes, rules)
  mesh = current_mesh()
  if mesh is None:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  if shape is not None:
    _check_divides(axes, shape, spec, mesh)
  return jax.sharding.NamedSharding(mesh, spec)


def tree_shardings(axes_tree: Any, shapes: Any = None) -> Any:
  """`named_sharding` of each tuple of names in a tree.

  Args:
    axes_tree: a tree whose leaves are tuples of logical names.
    shapes: if given, a tree of arrays or ShapeDtypeStructs of the same
      structure, to check the sizes against.
  """
  if shapes is None:
    return jax.tree.map(named_sharding, axes_tree, is_leaf=_is_axes)
  return jax.tree.map(
    lambda axes, x: named_sharding(axes, x.shape),
    axes_tree,
    shapes,
    is_leaf=_is_axes,
  )


def _is_axes(x: Any) -> bool:
  return isinstance(x, tuple)


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


def constrain_tree(tree: Any, axes_tree: Any, rollout: bool = False) -> Any:
  """`constrain` of each array of a tree by the tuple at its place.

  Args:
    tree: arrays; None and whatever has no tuple of its own stays as it is.
    axes_tree: tuples of logical names.
    rollout: take the table of parameters in a rollout.
  """
  active = _active.get()
  if active is None:
    return tree
  rules = active.rollout_rules if rollout else active.rules

  def pin(axes, x):
    sharding = named_sharding(axes, x.shape, rules)
    return jax.lax.with_sharding_constraint(x, sharding)

  return jax.tree.map(pin, axes_tree, tree, is_leaf=_is_axes)


def per_shard(
  function: Callable[..., Any], in_axes: Sequence[Axes], out_axes: Axes
) -> Callable[..., Any]:
  """`function` run by each device on its own part of the arrays.

  For loops over a split axis, which the compiler would run on all devices
  for all of its elements. Without a mesh: the function itself.

  Args:
    function: takes arrays or trees of them; its results have the same parts
      as its arguments and do not depend on other parts.
    in_axes: for each argument, the logical names of its arrays' leading axes;
      further axes are whole.
    out_axes: the same for all results.
  """
  active = _active.get()
  if active is None:
    return function
  used = {
    axis
    for names in (*in_axes, out_axes)
    for name in names
    for axis in active.rules.get(name, ())
  }

  def checked(*args):
    for names, tree in zip(in_axes, args, strict=True):
      for x in jax.tree.leaves(tree):
        named_sharding(names, x.shape[: len(names)])
    return mapped(*args)

  # The other mesh axes stay the compiler's.
  mapped = jax.shard_map(
    function,
    mesh=active.mesh,
    in_specs=tuple(map(spec_for, in_axes)),
    out_specs=spec_for(out_axes),
    axis_names=used,
    check_vma=False,
  )
  return checked if used else function


def parts(axis: str, rollout: bool = False) -> int:
  """How many parts an array axis of this name is split into.

  Args:
    axis: its logical name.
    rollout: take the table of parameters in a rollout.
  """
  active = _active.get()
  if active is None:
    return 1
  rules = active.rollout_rules if rollout else active.rules
  return math.prod(active.mesh.shape[a] for a in rules[axis])


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': what programs are compiled for."""
  mesh = current_mesh()
  if mesh is None:
    return jax.default_backend()
  return mesh.devices.flat[0].platform


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
        f"mesh.sizes, or leave it unsplit with mesh.rules={name}="
      )
