"""Whether a process is one of several, and what is said if none is found."""

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
