"""TPU generations: what a chip can do, and the devices of a topology."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from lfpc_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of one chip (cloud.google.com/tpu/docs).

  Attributes:
    flops: bfloat16 operations a second.
    memory: bytes of HBM; of v5e what its compiler grants a program.
    bandwidth: of HBM, bytes a second.
    links: of the interconnect, bytes a second over all links.
    dimensions: of a topology.
    accelerator: what the runtime calls a slice of it.
    devices: of a chip, as the runtime counts them.
  """

  flops: float
  memory: float
  bandwidth: float
  links: float
  dimensions: int
  accelerator: str
  devices: int = 1


GENERATIONS = {
  "v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9, 3, "v4-8"),
  "v5e": Chip(197e12, 15.75 * 2**30, 819e9, 200e9, 2, "v5litepod-4"),
  "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9, 3, "v5p-8"),
  "v6e": Chip(918e12, 32 * 2**30, 1640e9, 448e9, 2, "v6e-4"),
  "tpu7x": Chip(2307e12, 192 * 2**30, 7380e9, 1200e9, 3, "tpu7x-8", 2),
}
# Bytes a second of one device to other slices: an assumption, 200 Gbit/s a host
# of four chips. Hosts and data centres differ.
BETWEEN_SLICES = 6.25e9
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice to compile for.

  Attributes:
    name: such as 'v5e:4x4'.
    chip: one device's figures; some generations have two devices a chip.
    devices: all of them; nothing can run there.
    slices: how many slices they are.
  """

  name: str
  chip: Chip
  devices: list[jax.Device]
  slices: int = 1


def device_of(generation: str, share: float | None = None) -> Chip:
  """The figures of one device.

  Args:
    generation: one of `GENERATIONS`.
    share: of a chip that a device is; None: as the runtime counts them.

  Raises:
    UserError: there is no such generation.
  """
  chip = GENERATIONS.get(generation)
  if chip is None:
    raise UserError(
      f"--topology={generation}: known are {', '.join(GENERATIONS)}"
    )
  share = 1 / chip.devices if share is None else share
  return dataclasses.replace(
    chip,
    flops=chip.flops * share,
    memory=chip.memory * share,
    bandwidth=chip.bandwidth * share,
    links=chip.links * share,
  )


def standard_slices(name: str) -> list[tuple[str, int]]:
  """The slices of a generation that can be rented, with their devices.

  Args:
    name: 'v5e', or 'v5e:4x4' for that one alone.

  Raises:
    UserError: there is no such generation, or no such slice.
  """
  generation, _, shape = name.partition(":")
  chip = device_of(generation)
  shapes = _FLAT if chip.dimensions == 2 else _DEEP
  if shape and shape not in shapes:
    raise UserError(
      f"--topology={name}: slices of {generation} are {', '.join(shapes)}"
    )
  shapes = (shape,) if shape else shapes
  return [
    (
      f"{generation}:{shape}",
      chip.devices * math.prod(map(int, shape.split("x"))),
    )
    for shape in shapes
  ]


def find(name: str, slices: int = 1) -> Topology:
  """The devices of a topology, from libtpu's compiler; no TPU is needed.

  Args:
    name: generation and chips along each axis, 'v5e:4x4' or 'v5p:2x2x4'.
    slices: how many of them, joined by a slower network.

  Raises:
    UserError: no such topology, or libtpu is not installed.
  """
  generation, _, shape = name.partition(":")
  chip = GENERATIONS.get(generation)
  if chip is None or not re.fullmatch(r"\d+(x\d+)+", shape):
    raise UserError(
      f"--topology={name}: give a generation and its chips along each axis, "
      f"such as v5e:4x4 or v5p:2x2x4; known are {', '.join(GENERATIONS)}"
    )
  sizes = [int(n) for n in shape.split("x")]
  if len(sizes) != chip.dimensions or min(sizes) < 1:
    raise UserError(
      f"--topology={name}: {generation} has {chip.dimensions} axes, such as "
      f"{generation}:{'x'.join('2' * chip.dimensions)}"
    )
  _check_compiler()
  # The runtime must not look for chips, nor for a pod's other hosts.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Nor must it want to be alone, as one that drives chips must.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", chip.accelerator)
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  more = {"num_slices": slices} if slices > 1 else {}
  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **more
    )
  except Exception as error:  # the plugin's own kinds
    text = " ".join(str(error).split())
    raise UserError(
      f"--topology={name}: the TPU compiler knows no such slice ({text})"
    ) from error
  devices = list(found.devices)
  share = slices * math.prod(sizes) / len(devices)
  return Topology(name, device_of(generation, share), devices, slices)


def _check_compiler() -> None:
  named = os.environ.get("TPU_LIBRARY_PATH")
  if named and os.path.isfile(named):
    return
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      "no TPU compiler: it comes with libtpu, for Linux on x86-64; install it "
      "with `pip install 'jax[tpu]'` (no TPU is needed)"
    )
