"""Mesh sizes from a config, and what a wrong one says."""

import jax
import pytest

from lfpc_jax.errors import UserError
from lfpc_jax.parallel import make_mesh, resolve_sizes


@pytest.mark.parametrize(
  "sizes, devices, expected",
  [
    ((-1, 1), 1, (1, 1)),
    ((-1, 2), 8, (4, 2)),
    ((2, -1), 8, (2, 4)),
    ((4, 2), 8, (4, 2)),
  ],
)
def test_minus_one_takes_what_the_other_axes_leave(sizes, devices, expected):
  assert resolve_sizes(("fsdp", "tensor"), sizes, devices) == expected


@pytest.mark.parametrize(
  "axes, sizes, devices, says",
  [
    (("fsdp", "tensor"), (-1, 3), 8, "8 device"),
    (("fsdp", "tensor"), (2, 2), 8, "8 device"),
    (("fsdp", "tensor"), (4, 4), 8, "8 device"),
    (("fsdp", "tensor"), (-1, -1), 8, "one of them may be -1"),
    (("fsdp", "tensor"), (0, 8), 8, "positive"),
    (("fsdp", "tensor"), (2.0, 4), 8, "positive"),
    (("fsdp",), (2, 4), 8, "one size for each axis"),
    ((), (), 1, "one size for each axis"),
    (("fsdp", "fsdp"), (2, 4), 8, "twice"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(axes, sizes, devices, says):
  with pytest.raises(UserError, match=says):
    resolve_sizes(axes, sizes, devices)


def test_the_mesh_leaves_propagation_to_the_compiler():
  mesh = make_mesh(("fsdp", "tensor"), (-1, 1), jax.devices()[:1])
  assert mesh.shape == {"fsdp": 1, "tensor": 1}
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
