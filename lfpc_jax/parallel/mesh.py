"""The device mesh, from the axis names and sizes of a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import math
from typing import Any

import jax
from jax.experimental import mesh_utils

from lfpc_jax.errors import UserError
from lfpc_jax.parallel import sharding


def resolve_sizes(
  axes: Sequence[str], sizes: Sequence[int], devices: int
) -> tuple[int, ...]:
  """Mesh sizes with the one -1 replaced by what the devices leave for it.

  Args:
    axes: the mesh axes' names, each once, for example `('fsdp', 'tensor')`.
    sizes: devices along each axis; at most one is -1.
    devices: how many devices the mesh must use, all of them.

  Returns:
    Sizes whose product is `devices`.

  Raises:
    UserError: names and sizes do not pair up, or do not match the devices.
  """
  axes, sizes = tuple(axes), tuple(sizes)
  shown = f"mesh axes {axes} with sizes {sizes}"
  if not axes or len(axes) != len(sizes):
    raise UserError(
      f"{shown}: give one size for each axis, for example axes "
      "('fsdp', 'tensor') with sizes (-1, 1)"
    )
  if len(set(axes)) != len(axes):
    raise UserError(f"{shown}: an axis is named twice; give each its own name")
  wrong = [s for s in sizes if not isinstance(s, int) or (s < 1 and s != -1)]
  if wrong or sizes.count(-1) > 1:
    raise UserError(
      f"{shown}: sizes are positive integers; one of them may be -1"
    )
  given = math.prod(s for s in sizes if s != -1)
  if devices % given or (-1 not in sizes and given != devices):
    raise UserError(
      f"{shown} do not match {devices} device(s): the product of the sizes "
      f"must be {devices}; set one of them to -1 to take what the rest leave"
    )
  return tuple(devices // given if s == -1 else s for s in sizes)


def make_mesh(
  axes: Sequence[str],
  sizes: Sequence[int],
  devices: Sequence[jax.Device] | None = None,
  slices: Sequence[int] = (),
) -> jax.sharding.Mesh:
  """A mesh over all devices, whose shardings the compiler propagates.

  Args:
    axes: the mesh axes' names.
    sizes: devices along each axis; one may be -1.
    devices: the devices to use; None takes all of every process.
    slices: for several slices, which only a slow network connects: how many
      of them lie along each axis; () and ones are a single slice.

  Raises:
    UserError: as `resolve_sizes`, or slices that do not match the devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = resolve_sizes(axes, sizes, len(devices))
  # make_mesh's own default, Explicit axes, wants a sharding on each operation.
  auto = (jax.sharding.AxisType.Auto,) * len(sizes)
  if math.prod(slices) > 1:
    grid = _hybrid_grid(axes, sizes, tuple(slices), devices)
    return jax.sharding.Mesh(grid, tuple(axes), axis_types=auto)
  _check_one_slice(devices)
  return jax.make_mesh(sizes, tuple(axes), axis_types=auto, devices=devices)


def _check_one_slice(devices: Sequence[jax.Device]) -> None:
  """Refuses a mesh that takes several slices for one."""
  found = {getattr(d, "slice_index", None) for d in devices}
  if len(found) > 1:
    raise UserError(
      f"the devices lie in {len(found)} slices: say along which axis, as with "
      f"--config.mesh.slices={len(found)},1"
    )


def _hybrid_grid(axes, sizes, slices, devices):
  """Devices as an array in which each axis is (slices, within a slice)."""
  shown = f"mesh.slices={slices} with axes {tuple(axes)} of sizes {sizes}"
  if len(slices) != len(sizes) or any(
    n < 1 or size % n for n, size in zip(slices, sizes)
  ):
    raise UserError(
      f"{shown}: give each axis a number of slices that divides its size"
    )
  # GPUs and CPUs have no slices: there, what one process holds counts as one.
  numbers = {getattr(d, "slice_index", None) for d in devices}
  by_process = len(numbers) != math.prod(slices)
  if by_process:
    numbers = {d.process_index for d in devices}
  if len(numbers) != math.prod(slices):
    raise UserError(
      f"{shown} is {math.prod(slices)} slices, but the devices lie in "
      f"{len(numbers)}"
    )
  inside = [size // n for n, size in zip(slices, sizes)]
  return mesh_utils.create_hybrid_device_mesh(
    inside, slices, devices, process_is_granule=by_process
  )


@contextlib.contextmanager
def configured(
  section: Mapping[str, Any] | None,
  devices: Sequence[jax.Device] | None = None,
  absent: bool = False,
) -> Iterator[jax.sharding.Mesh | None]:
  """Makes a config's mesh that of all calls inside the block.

  One device needs no mesh: programs are then those without one.

  Args:
    section: a config's `mesh`: axes, sizes, slices, rules, rollout_rules;
      None: no mesh.
    devices: the devices to use; None takes all of every process.
    absent: see `use_mesh`; one device then has a mesh too.

  Raises:
    UserError: the section contradicts itself or the devices.
  """
  if section is None:
    yield None
    return
  rules = sharding.parse_rules(section["rules"])
  gathered = sharding.parse_rules(section["rollout_rules"], rules)
  mesh = make_mesh(
    section["axes"], section["sizes"], devices, section["slices"]
  )
  sharding.check_rules(mesh, rules, gathered)
  if mesh.size == 1 and not absent:
    yield None
    return
  with sharding.use_mesh(mesh, rules, gathered, absent):
    yield mesh
