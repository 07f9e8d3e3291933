"""Two processes of two devices each: shares, what they read, what they join."""

import os
import pathlib
import subprocess
import sys

from tests.parallel import processes

_WORKER = """
import jax
import jax.numpy as jnp
import numpy as np
from lfpc_jax import parallel
from lfpc_jax.parallel import start
from lfpc_jax.stopping import StopSignal

start.start()
me = jax.process_index()
section = dict(axes=("fsdp", "tensor"), slices=(1, 1), rules=(),
               rollout_rules=("embed=",))
rows = np.arange(24, dtype=np.float32).reshape(8, 3)

with parallel.configured(section | dict(sizes=(-1, 1))):
  share = parallel.batch_share(8)
  assert (share.index, share.count) == (me, 2), share
  x = parallel.shard_batch(rows[share.rows])
  assert x.shape == (8, 3)
  np.testing.assert_array_equal(parallel.fetch(x), rows[share.rows])
  np.testing.assert_array_equal(parallel.fetch(jnp.ones(3)), np.ones(3))
  # Each device loops over its own rows alone.
  @jax.jit
  def last(x):
    own = parallel.per_shard(
      lambda x: jax.lax.fori_loop(
        0, len(x), lambda i, y: y.at[i].add(len(x)), x
      ),
      (("prompt",),), ("prompt",),
    )
    return own(x)
  y = last(x)
  assert "all-gather" not in last.lower(x).compile().as_text()
  np.testing.assert_array_equal(parallel.fetch(y), rows[share.rows] + 2)
  assert parallel.gather([me, "a" * me]) == [0, "", 1, "a"]
  with StopSignal() as stop:
    stop.name = "SIGTERM" if me else None
    assert stop.requested()
  with parallel.host_only():
    assert parallel.current_mesh() is None
    assert float(jnp.sum(jnp.full(2, me))) == 2 * me
  assert parallel.current_mesh() is not None

with parallel.configured(section | dict(sizes=(1, -1))):
  share = parallel.batch_share(8)
  assert (share.index, share.count) == (0, 1), share
  x = parallel.shard_batch(rows)
  assert x.shape == (8, 3)
  np.testing.assert_array_equal(parallel.fetch(x), rows)
  y = jax.jit(lambda x: parallel.constrain(x, (None, "mlp")))(rows.T @ rows @
    np.ones((3, 4), np.float32))
  assert {s.data.shape for s in y.addressable_shards} == {(3, 1)}
  assert parallel.fetch(y).shape == (3, 2)

# Slices are processes here.
with parallel.configured(section | dict(sizes=(-1, 1), slices=(2, 1))) as mesh:
  owners = [d.process_index for d in mesh.devices[:, 0]]
  assert owners == [0, 0, 1, 1], owners
print("process", me, "agrees")
"""


def test_two_processes_share_a_batch_and_join_what_they_found():
  with processes.held_port() as port:
    texts = _said(port)
  for index, text in enumerate(texts):
    assert f"process {index} agrees" in text, text[-3000:]


def _said(port):
  """What each of the two prints."""
  running = [
    subprocess.Popen(
      [sys.executable, "-c", _WORKER],
      cwd=pathlib.Path(__file__).parents[2],
      env={
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(2)
  ]
  try:
    return [process.communicate(timeout=1500)[0] for process in running]
  finally:
    for process in running:
      process.kill()
