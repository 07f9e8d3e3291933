"""The TPU compiler takes the fused kernels at the 7b's shapes, on a mesh."""

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax import parallel
from lfpc_jax.ahead import chips
from lfpc_jax.models import fused
from tests.ahead.test_chips import needs_libtpu

pytestmark = [needs_libtpu, pytest.mark.slow]


def _compiled(function, *arrays):
  """The text of a gradient, of arrays (shape, axes, type) on four chips."""
  devices = chips.find("v5e:2x2").devices
  mesh = parallel.make_mesh(("fsdp", "tensor"), (2, 2), devices)
  with parallel.use_mesh(mesh, absent=True):
    arguments = [
      jax.ShapeDtypeStruct(
        shape, kind, sharding=parallel.named_sharding(axes, shape)
      )
      for shape, axes, kind in arrays
    ]

    def loss(*arrays):
      return jnp.sum(function(*arrays).astype(jnp.float32))

    program = jax.jit(jax.grad(loss, (0, 1, 2)))
    return program.lower(*arguments).compile().as_text()


def test_suffixes_and_their_prefix():
  rows = ("prompt", None, None)
  q = (2, 2, 2049, 28, 128), (*rows, "heads", None), jnp.bfloat16
  k = (2, 2, 2049, 4, 128), (*rows, "kv_heads", None), jnp.bfloat16
  prefix = (2, 2048, 4, 128), ("prompt", None, "kv_heads", None), jnp.bfloat16
  length = (2,), ("prompt",), jnp.int32
  function = lambda *x: fused.grouped("splash", *x)
  text = _compiled(function, q, k, k, prefix, prefix, length)
  assert "splash_mha_fwd" in text and "splash_mha_dkv" in text


def test_windows_of_the_tower():
  x = (2, 4096, 16, 80), ("view", None, "vision_heads", None), jnp.bfloat16
  window = (2, 4096), ("view", None), jnp.int32
  function = lambda *x: fused.windows(*x, 64)
  text = _compiled(function, x, x, x, window)
  assert "splash_mha_fwd" in text and "splash_mha_dq" in text
