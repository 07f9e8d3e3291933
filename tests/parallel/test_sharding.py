"""Logical axes, the rules table, and arrays laid out on four devices."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from lfpc_jax.errors import UserError
from lfpc_jax.parallel import (
  constrain,
  current_mesh,
  local_slice,
  make_mesh,
  make_rules,
  named_sharding,
  spec_for,
  tree_shardings,
  use_mesh,
)


def _one_device():
  return make_mesh(("fsdp", "tensor"), (1, 1), jax.devices()[:1])


def test_a_spec_follows_the_table():
  assert spec_for(("prompt", None, "mlp")) == jax.P("fsdp", None, "tensor")
  rules = make_rules({"embed": ("fsdp", "tensor"), "mlp": None})
  assert spec_for(("embed", "mlp"), rules) == jax.P(("fsdp", "tensor"), None)


def test_a_rule_may_be_one_name():
  assert make_rules({"sequence": "tensor"})["sequence"] == ("tensor",)


def test_one_mesh_axis_cannot_split_two_array_axes():
  with pytest.raises(UserError, match="heads and mlp .* 'tensor'"):
    spec_for(("heads", "mlp"))


@pytest.mark.parametrize(
  "call", [lambda: spec_for(("promt",)), lambda: make_rules({"promt": None})]
)
def test_an_unknown_logical_axis_names_the_nearest(call):
  with pytest.raises(UserError, match="'promt'.*did you mean 'prompt'"):
    call()


def test_a_rule_must_name_axes_of_the_mesh():
  mesh = make_mesh(("data",), (1,), jax.devices()[:1])
  with pytest.raises(UserError, match="mesh axis 'fsdp'"):
    with use_mesh(mesh):
      pass


def test_without_a_mesh_nothing_is_pinned():
  x = np.zeros((2, 3))
  assert constrain(x, ("prompt", "embed")) is x
  assert named_sharding(("prompt",)).num_devices == 1
  assert local_slice(6) == slice(0, 6)
  with pytest.raises(ValueError, match="1 names"):
    constrain(x, ("prompt",))


def test_the_mesh_ends_with_its_block_also_after_an_error():
  with pytest.raises(KeyError):
    with use_mesh(_one_device()) as mesh:
      assert current_mesh() is mesh
      raise KeyError
  assert current_mesh() is None


def test_constrain_keeps_values_and_gradients():
  def loss(x):
    return (constrain(x, ("prompt", "features")) ** 2).sum()

  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  with use_mesh(_one_device()):
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x), 2 * x)


def test_trees_of_axes_become_trees_of_shardings():
  axes = {"a": {"kernel": ("embed", "mlp")}, "b": ()}
  with use_mesh(_one_device()):
    tree = tree_shardings(axes)
  assert tree["a"]["kernel"].spec == jax.P("fsdp", "tensor")
  assert tree["b"].spec == jax.P()


_FOUR = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
import numpy as np
from lfpc_jax import parallel
from lfpc_jax.errors import UserError

mesh = parallel.make_mesh(("fsdp", "tensor"), (-1, 2))
assert mesh.shape == {"fsdp": 2, "tensor": 2}, mesh
try:
  parallel.make_mesh(("fsdp", "tensor"), (3, -1))
  raise SystemExit("3 of 4 devices were accepted")
except UserError as error:
  assert "4 device" in str(error), error

x = np.arange(8 * 6, dtype=np.float32).reshape(8, 6)
w = np.linspace(-1, 1, 6 * 4, dtype=np.float32).reshape(6, 4)

@jax.jit
def forward(x, w):
  return parallel.constrain(x @ w, ("prompt", "mlp"))

with parallel.use_mesh(mesh):
  assert parallel.local_slice(8) == slice(0, 8)
  batch = parallel.shard_batch({"x": x, "id": np.arange(8)})
  assert batch["x"].sharding.spec == jax.P("fsdp", None)
  assert batch["x"].addressable_shards[0].data.shape == (4, 6)
  np.testing.assert_array_equal(batch["id"], np.arange(8))
  w4 = jax.device_put(w, parallel.named_sharding(("embed", "mlp"), w.shape))
  y = forward(batch["x"], w4)
  assert {s.data.shape for s in y.addressable_shards} == {(4, 2)}
  np.testing.assert_allclose(y, x @ w, rtol=1e-5, atol=1e-5)
  for call in (
    lambda: parallel.shard_batch(np.zeros((3, 2))),
    lambda: parallel.named_sharding(("kv_heads",), (1,)),
    lambda: jax.eval_shape(lambda x: parallel.constrain(x, ("mlp",)),
                           jax.ShapeDtypeStruct((5,), jnp.float32)),
  ):
    try:
      call()
      raise SystemExit("an uneven split was accepted")
    except UserError as error:
      assert "does not divide over 2 devices" in str(error), error
print("four devices agree")
"""


def test_four_devices_hold_their_parts_and_agree_with_numpy():
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(
    [sys.executable, "-c", _FOUR],
    cwd=root,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=1500,
  )
  assert "four devices agree" in done.stdout, done.stderr
