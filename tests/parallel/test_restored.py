"""A state saved on one mesh comes back on another, bit for bit."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests import small_scenes
from tests.parallel import processes
from tests.steady import read_metrics

ROOT = pathlib.Path(__file__).parents[2]

_OTHER_MESH = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp, numpy as np
from lfpc_jax import checkpoints
from lfpc_jax.parallel import make_mesh, tree_shardings, use_mesh

LAYOUTS = [(4, 1), (2, 2), (1, 1), (8, 1), (2, 4), (1, 8), (4, 1)]
rng = np.random.default_rng(0)

def draw(kind, *shape):
  # Any bits, but no NaN or infinity.
  return np.asarray(rng.normal(size=shape) * 1e3, kind)

def like(kind):
  return {"layers": {"q": draw(kind, 2, 16, 8), "up": draw(kind, 2, 16, 24)},
          "norm": draw(kind, 16), "head": draw(jnp.bfloat16, 16, 40)}

axes = {"layers": {"q": ("layers", "embed", "heads"),
                   "up": ("layers", "embed", "mlp")},
        "norm": ("norm",), "head": ("embed", "vocab")}
state = {"params": like(np.float32),
         "optimizer": {"mu": like(jnp.bfloat16), "nu": like(np.float32),
                       "count": np.int32(7)},
         "step": np.int32(2**31 - 1), "key": jax.random.key(1)}
places = {"params": axes, "step": (), "key": (),
          "optimizer": {"mu": axes, "nu": axes, "count": ()}}

def bits(x):
  is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

wanted = [bits(x) for x in jax.tree.leaves(state)]
assert len(set(wanted)) == len(wanted)
with checkpoints.Checkpointer(sys.argv[1]) as saver:
  for step, sizes in enumerate(LAYOUTS):
    devices = jax.devices()[: sizes[0] * sizes[1]]
    with use_mesh(make_mesh(("fsdp", "tensor"), sizes, devices)):
      shardings = tree_shardings(places, state)
    if step:
      target = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state, shardings)
      state, _ = saver.restore(target)
    else:
      state = jax.tree.map(jax.device_put, state, shardings)
    jax.tree.map(lambda x, s: x.sharding == s or sys.exit(f"{x.sharding}"),
                 state, shardings)
    up = state["params"]["layers"]["up"].addressable_shards
    assert len(up) == len(devices)
    assert up[0].data.shape == (2, 16 // sizes[0], 24 // sizes[1])
    assert [bits(x) for x in jax.tree.leaves(state)] == wanted, sizes
    assert state["optimizer"]["mu"]["norm"].dtype == jnp.bfloat16
    saver.save(step, state)
    jax.tree.map(lambda x: x.delete(), state)  # or a restore might not read
draws = jax.random.normal(saver.restore(target)[0]["key"], (2,))
assert (draws == jax.random.normal(jax.random.key(1), (2,))).all()
print("every mesh agrees")
"""


def test_a_save_on_one_mesh_restores_on_another(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", _OTHER_MESH, str(tmp_path)],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=1500,
  )
  assert "every mesh agrees" in done.stdout, done.stderr


def _train(data, workdir, number, devices, steps, *changes):
  """A run to so many steps, and the states that its worker tells."""
  module = "tests.parallel.resume_worker"
  fields = (f"train.steps={steps}", *changes)
  processes.run(module, (data, workdir, *fields), workdir, number, devices)
  return json.loads((workdir / "states.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_of_two_processes_goes_on_on_one_device_and_on_four(tmp_path):
  data, first = tmp_path / "data", tmp_path / "first"
  first.mkdir()
  with small_scenes.prepared(data):
    pass
  states = _train(data, first, 2, 2, 1)
  assert [step for step, _ in states] == [0, 1] and states[0] != states[1]
  rows = []
  for name, devices, *changes in (
    ("one", 1),
    ("four", 4, "mesh.sizes=2,2", "mesh.rules=vision_heads="),
  ):
    workdir = tmp_path / name
    shutil.copytree(first, workdir)
    found = _train(data, workdir, 1, devices, 2, *changes)
    assert found[0] == states[1], "not the state that was saved"
    assert found[1][0] == 2 and found[1][1] != states[1][1]
    rows.append(read_metrics(workdir))
    assert rows[-1][0] == read_metrics(first)[0] and len(rows[-1]) == 2
  one, four = (row[1] for row in rows)
  assert one.keys() == four.keys()
  for name in one.keys() - {"sampler_gap"}:  # rounding itself
    np.testing.assert_allclose(
      one[name], four[name], rtol=1e-4, atol=1e-6, err_msg=name
    )
