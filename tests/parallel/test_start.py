"""Whether a process is one of several, and how Slurm's tasks join."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from lfpc_jax.parallel import start


@pytest.mark.parametrize(
  "environment, several",
  [
    ({}, False),
    ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, True),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
    ({"MEGASCALE_NUM_SLICES": "2"}, True),
    ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-4]"}, True),
    # A batch script's own shell, before srun.
    ({"SLURM_NTASKS": "4"}, False),
    ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node1"}, False),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
  ],
)
def test_a_cluster_is_known_by_its_environment(environment, several):
  assert start.is_cluster(environment) is several


@pytest.mark.parametrize(
  "environment, gpus",
  [
    ({}, None),
    ({"CUDA_VISIBLE_DEVICES": ""}, None),
    # srun --ntasks-per-node=8 --gpus-per-task=1: each task sees its own.
    ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_LOCALID": "5"}, [0]),
    ({"CUDA_VISIBLE_DEVICES": "5", "SLURM_LOCALID": "5"}, [0]),
    # --gpus-per-node=8: all see all, and JAX takes that of SLURM_LOCALID.
    (
      {
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        "SLURM_NTASKS": "8",
        "SLURM_STEP_NUM_NODES": "2",
      },
      None,
    ),
    # One task a node has all of the node's.
    (
      {
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_NODES": "2",
      },
      [0, 1, 2, 3],
    ),
    # --gpus-per-task=2: each of two tasks on a node sees its own two alone.
    (
      {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURM_GPUS_PER_TASK": "2",
        "SLURM_NTASKS": "4",
        "SLURM_STEP_NUM_NODES": "2",
      },
      [0, 1],
    ),
    ({"CUDA_VISIBLE_DEVICES": "0", "JAX_LOCAL_DEVICE_IDS": "0"}, None),
  ],
)
def test_gpus_are_counted_among_those_a_task_sees(environment, gpus):
  assert start.local_gpus(environment) == gpus


_TASK = """
import jax
from lfpc_jax import parallel
from lfpc_jax.parallel import start

start.start()
assert jax.process_count() == 2 and jax.device_count() == 4
assert jax.config.read("jax_cuda_visible_devices") == "0"
print("tasks", parallel.gather([jax.process_index()]))
"""


def _free_job():
  """A Slurm job whose port, as JAX derives it from the number, is free.

  Another run of the tests on this machine looks elsewhere first.
  """
  for number in range(4096):
    job = (os.getpid() + number) % 4096
    port = 65535 - 2**12 + 1 + job  # jax/_src/clusters/slurm_cluster.py
    with socket.socket() as found, contextlib.suppress(OSError):
      found.bind(("", port))
      return job
  raise AssertionError("no port is free")


def test_two_tasks_of_a_slurm_step_find_each_other():
  job, running = _free_job(), []
  for index in range(2):
    step = {
      "SLURM_JOB_ID": str(job),
      "SLURM_STEP_NODELIST": "127.0.0.1",
      "SLURM_STEP_NUM_NODES": "1",
      "SLURM_NTASKS": "2",
      "SLURM_PROCID": str(index),
      "SLURM_LOCALID": str(index),
      "CUDA_VISIBLE_DEVICES": str(index),
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "2",
    }
    running.append(
      subprocess.Popen(
        [sys.executable, "-c", _TASK],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, **step},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  try:
    for process in running:
      out, errors = process.communicate(timeout=1500)
      assert "tasks [0, 1]" in out.splitlines(), errors[-3000:]
  finally:
    for process in running:
      process.kill()
