"""Training and evaluation by several processes: the same as by one device."""

import json

import numpy as np
import pytest

from tests import small_scenes
from tests.parallel import processes
from tests.steady import read_metrics


def _run(data, out, number, devices, *changes):
  """A run of so many processes with so many devices each."""
  out.mkdir()
  module = "tests.parallel.run_worker"
  processes.run(module, (data, out, *changes), out, number, devices)
  result = json.loads((out / "result.json").read_text())
  assert result["processes"] == number
  assert result["devices"] == number * devices
  return result, read_metrics(out)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """The folder of a small data set."""
  folder = tmp_path_factory.mktemp("data")
  with small_scenes.prepared(folder):
    yield folder


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
  """What one process on one device finds."""
  return _run(data, tmp_path_factory.mktemp("one") / "run", 1, 1)


def _assert_same(found, wanted):
  result, rows = found
  expected, known = wanted
  assert result["rollouts"] == expected["rollouts"]
  assert result["items"] == expected["items"]
  assert result["records"] == expected["records"]
  assert len(rows) == len(known) == 2
  # Adam's first update has the gradient's sign for a size: the rounding of an
  # entry that is almost nothing moves a parameter, and the second step.
  for row, other, relative in zip(rows, known, (1e-5, 1e-4)):
    assert row.keys() == other.keys()
    gaps = {"sampler_gap"}  # rounding itself
    for name in row.keys() - gaps:
      # The loss of fresh rollouts is a sum that cancels to nothing.
      np.testing.assert_allclose(
        row[name], other[name], rtol=relative, atol=1e-6, err_msg=name
      )
    assert row["sampler_gap"] < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_do_what_one_does(data, alone, tmp_path):
  _assert_same(_run(data, tmp_path / "run", 2, 1), alone)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
  "number, devices, changes",
  [
    (1, 4, ()),
    (4, 1, ()),
    (2, 2, ()),
    # Each process holds half of every matrix, and all prompts.
    (2, 2, ("mesh.sizes=1,4", "mesh.rules=vision_heads=,kv_heads=")),
    (2, 2, ("mesh.sizes=2,2", "mesh.rules=vision_heads=")),
    (2, 2, ("mesh.slices=2,1",)),
    # A prefix that lies on two devices.
    (
      1,
      4,
      (
        "mesh.axes=fsdp,context,tensor",
        "mesh.sizes=-1,2,1",
        "mesh.slices=1,1,1",
        "mesh.rules=prefix=context",
      ),
    ),
  ],
)
def test_any_mesh_does_what_one_device_does(
  data, alone, tmp_path, number, devices, changes
):
  found = _run(data, tmp_path / "run", number, devices, *changes)
  _assert_same(found, alone)
