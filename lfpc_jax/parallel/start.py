"""Starts the processes of one run, where there are several."""

from __future__ import annotations

from collections.abc import Mapping
import os

import jax

from lfpc_jax.errors import UserError

_COORDINATOR = "JAX_COORDINATOR_ADDRESS"
_COUNT, _INDEX = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def is_cluster(environment: Mapping[str, str]) -> bool:
  """Whether the environment says that there are several processes.

  True where JAX's own detection finds the others by itself: a TPU pod on GKE
  or with its worker list set, a Slurm step of several tasks, Open MPI.
  """
  workers = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
  return (
    _COORDINATOR in environment
    or len(workers) > 1
    or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1
    or int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1
    # A batch script's own shell belongs to no step.
    or (
      "SLURM_STEP_NODELIST" in environment
      and int(environment.get("SLURM_NTASKS") or 1) > 1
    )
  )


def local_gpus(environment: Mapping[str, str]) -> list[int] | None:
  """The GPUs of this process, counted among those that it sees.

  JAX takes the one of the task's number on its host. That is right where every
  task sees all of the host's, and wrong where Slurm shows each task its own.

  Returns:
    None where JAX's way is right, or the environment says otherwise.
  """
  seen = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
  number = len([x for x in seen if x.strip()])
  alone = environment.get("SLURM_NTASKS") == environment.get(
    "SLURM_STEP_NUM_NODES", ""
  )
  if "JAX_LOCAL_DEVICE_IDS" in environment or not number:
    return None
  # A task that was given several sees them alone, too.
  own = environment.get("SLURM_GPUS_PER_TASK") == str(number)
  return list(range(number)) if number == 1 or alone or own else None


def start(distributed: bool | None = None) -> None:
  """Joins this process to the others of its run; before any computation.

  Args:
    distributed: True: there are others, on a TPU VM found by its metadata,
      elsewhere as JAX detects them, or named by JAX_COORDINATOR_ADDRESS,
      JAX_NUM_PROCESSES and JAX_PROCESS_ID; False: there are none; None: if
      `is_cluster`.

  Raises:
    UserError: there is nothing that names the others, or they do not come.
  """
  if distributed is None:
    distributed = is_cluster(os.environ)
  if not distributed or jax.distributed.is_initialized():
    return
  named = {
    "num_processes": os.environ.get(_COUNT),
    "process_id": os.environ.get(_INDEX),
  }
  try:
    jax.distributed.initialize(
      local_device_ids=local_gpus(os.environ),
      **{name: int(x) for name, x in named.items() if x is not None},
    )
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f"no other processes found ({' '.join(str(error).split())}): start one "
      "process a host by Slurm, GKE or on a TPU VM, or give each "
      f"{_COORDINATOR}=HOST:PORT, {_COUNT} and {_INDEX}; --nodistributed "
      "runs this process alone"
    ) from error
