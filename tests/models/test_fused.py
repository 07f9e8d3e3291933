"""Fused kernels against plain XLA: the same numbers and gradients.

Splash attention is interpreted here; the TPU compiler compiles it in
tests/ahead. cuDNN's is lowered for a GPU that is not there, and not run.
"""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.errors import UserError
from lfpc_jax.models import attention, decoder, fused
from lfpc_jax.models.config import PolicyConfig

ROOT = pathlib.Path(__file__).parents[2]
P, G, T, S, H, K, WIDTH = 2, 2, 5, 7, 4, 2, 16


def _draw(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def _same(ours, theirs, arrays):
  """Two functions have the same values and gradients, to 1e-5."""
  (weight,) = _draw(9, jax.eval_shape(ours, *arrays).shape)

  def both(function):
    def loss(*arrays):
      out = function(*arrays)
      return jnp.sum(out * weight), out

    every = tuple(range(len(arrays)))
    grads, out = jax.jit(jax.grad(loss, every, has_aux=True))(*arrays)
    return out, *grads

  for a, b in zip(both(ours), both(theirs), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_prefix_is_attended_to_causally():
  arrays = _draw(0, (P, S, H, WIDTH), (P, S, K, WIDTH), (P, S, K, WIDTH))
  mask = jnp.tril(jnp.ones((S, S), bool))[None]
  _same(
    lambda *qkv: fused.causal("splash", *qkv),
    lambda *qkv: attention.attend(*qkv, mask)[0],
    arrays,
  )


def test_suffixes_read_their_prefix_and_themselves():
  arrays = _draw(
    1,
    (P, G, T, H, WIDTH),
    (P, G, T, K, WIDTH),
    (P, G, T, K, WIDTH),
    (P, S, K, WIDTH),
    (P, S, K, WIDTH),
  )
  length = jnp.array([3, 7])
  slots = jnp.broadcast_to(jnp.arange(T), (P, G, T))

  def plain(q, k, v, *prefix):
    return decoder.suffix_attention(
      PolicyConfig(), q, k, v, slots, *prefix, length
    )

  _same(lambda *x: fused.grouped("splash", *x, length), plain, arrays)


def test_more_than_a_block_and_less_than_two():
  """Padding of queries and keys, and blocks of unequal size."""
  arrays = _draw(2, (1, 1, 200, 2, 8), *[(1, 1, 200, 1, 8)] * 2)
  arrays += _draw(3, *[(1, 130, 1, 8)] * 2)
  length = jnp.array([129])
  slots = jnp.arange(200)[None, None]

  def plain(q, k, v, *prefix):
    return decoder.suffix_attention(
      PolicyConfig(), q, k, v, slots, *prefix, length
    )

  _same(lambda *x: fused.grouped("splash", *x, length), plain, arrays)


def test_windows_are_kept_apart_and_padding_out():
  shape = (2, 140, 2, 8)
  arrays = _draw(4, shape, shape, shape)
  numbers = np.repeat(np.arange(35), 4)
  window = jnp.asarray([numbers, np.where(numbers < 20, numbers, -1)])
  mask = window[:, :, None] == window[:, None]

  # Rows of padding read padding, of which there is more than a window holds.
  def real(x):
    return jnp.where((window >= 0)[..., None, None], x, 0)

  _same(
    lambda *qkv: real(fused.windows(*qkv, window, 4)),
    lambda *qkv: real(attention.attend(*qkv, mask)[0]),
    arrays,
  )
  valid = window >= 0
  _same(
    lambda *qkv: fused.full("splash", *qkv, valid),
    lambda *qkv: attention.attend(*qkv, valid[:, None])[0],
    arrays,
  )


_ON_A_MESH = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from lfpc_jax import parallel
from lfpc_jax.models import fused

rng = np.random.default_rng(0)
draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
q, k, v = draw(2, 2, 5, 4, 16), draw(2, 2, 5, 2, 16), draw(2, 2, 5, 2, 16)
prefix = draw(2, 7, 2, 16), draw(2, 7, 2, 16)
window = jnp.asarray([[0, 0, 1, 1, 1], [0, 1, 2, -1, -1]])

def loss(q, k, v, *prefix):
  suffix = fused.grouped("splash", q, k, v, *prefix, jnp.array([3, 7]))
  tower = [fused.windows(*[q[:, 0]] * 3, window, 3)]
  tower.append(fused.full("splash", *[q[:, 1]] * 3, window >= 0))
  whole = fused.causal("splash", q[:, 0], k[:, 0], v[:, 0])
  return sum(jnp.sum(jnp.sin(x)) for x in (suffix, whole, *tower))

def grads():
  return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3, 4)))(q, k, v, *prefix)

alone = grads()
with parallel.use_mesh(parallel.make_mesh(("fsdp", "tensor"), (2, 2))):
  split = grads()
same = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), alone, split)
assert all(jax.tree.leaves(same)), same
"""


def test_on_a_mesh_each_device_has_its_prompts_and_heads():
  subprocess.run([sys.executable, "-c", _ON_A_MESH], check=True, cwd=ROOT)


@pytest.mark.parametrize(
  "length, block", [(1, 128), (128, 128), (2049, 256), (4096, 512), (900, 128)]
)
def test_blocks_waste_at_most_an_eighth(length, block):
  assert fused._block_size(length) == block


def test_cudnn_is_lowered_for_a_gpu(monkeypatch):
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
  monkeypatch.setattr(
    cudnn, "check_compute_capability", lambda *args, **more: True
  )
  shapes = [(P, G, T, H, 64), *[(P, G, T, K, 64)] * 2, *[(P, S, K, 64)] * 2]
  arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes]

  def loss(*arrays):
    prefix = fused.causal("cudnn", *(x[:, 0] for x in arrays[:3]))
    out = fused.grouped("cudnn", *arrays, jnp.array([3, 7]))
    valid = jnp.arange(8) < jnp.array([[2], [5]])
    tower = fused.full(
      "cudnn", *[arrays[0].reshape(P, 10, H, 64)[:, :8]] * 3, valid
    )
    return sum(jnp.sum(x.astype(jnp.float32)) for x in (prefix, out, tower))

  text = (
    jax.jit(jax.grad(loss, (0, 3)))
    .trace(*arrays)
    .lower(lowering_platforms=("cuda",))
    .as_text()
  )
  assert "cudnn$fmha" in text and "Backward" in text


@pytest.mark.parametrize(
  "changes, says",
  [
    (dict(attention="flash"), "choose one of auto, xla"),
    (dict(attention="cudnn"), "computes in bfloat16"),
  ],
)
def test_a_kernel_that_cannot_be_is_refused(changes, says):
  with pytest.raises(UserError, match=says):
    PolicyConfig(**changes)


def test_a_machine_without_a_kernel_takes_xla():
  assert fused.chosen(PolicyConfig(dtype="bfloat16")) == "xla"
  assert fused.chosen(PolicyConfig(attention="splash")) == "splash"
