"""Training and evaluation by several processes: the same as by one device."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import small_scenes
from tests.steady import read_metrics

ROOT = pathlib.Path(__file__).parents[2]


def _run(data, out, processes, devices, *changes):
  """A run of so many processes with so many devices each."""
  out.mkdir()
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command = [sys.executable, "-m", "tests.parallel.run_worker"]
  running = []
  for index in range(processes):
    environment = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": str(devices),
    }
    if processes > 1:
      environment |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(index),
      }
    log = (out / f"log{index}.txt").open("w")
    running.append(
      subprocess.Popen(
        [*command, str(data), str(out), *changes],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
      )
    )
  try:
    codes = [process.wait(timeout=1500) for process in running]
  finally:
    for process in running:
      process.kill()
  logs = "\n".join(p.read_text()[-3000:] for p in sorted(out.glob("log*")))
  assert codes == [0] * processes, logs
  result = json.loads((out / "result.json").read_text())
  assert result["processes"] == processes
  assert result["devices"] == processes * devices
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
  "processes, devices, changes",
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
  data, alone, tmp_path, processes, devices, changes
):
  found = _run(data, tmp_path / "run", processes, devices, *changes)
  _assert_same(found, alone)
