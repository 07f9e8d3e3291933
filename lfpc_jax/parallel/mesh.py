"""The device mesh, from the axis names and sizes of a config."""

from __future__ import annotations

from collections.abc import Sequence
import math

import jax

from lfpc_jax.errors import UserError


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
) -> jax.sharding.Mesh:
  """A mesh over all devices, whose shardings the compiler propagates.

  Args:
    axes: the mesh axes' names.
    sizes: devices along each axis; one may be -1.
    devices: the devices to use; None takes all of every process.

  Raises:
    UserError: as `resolve_sizes`.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = resolve_sizes(axes, sizes, len(devices))
  # make_mesh's own default, Explicit axes, wants a sharding on each operation.
  auto = (jax.sharding.AxisType.Auto,) * len(sizes)
  return jax.make_mesh(sizes, tuple(axes), axis_types=auto, devices=devices)
