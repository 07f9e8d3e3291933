"""The small parts that tower, decoder and head share."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp

from lfpc_jax import parallel
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params


def rms_norm(params: Params, x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """Root-mean-square norm over the last axis, computed in float32."""
  wide = x.astype(jnp.float32)
  mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = (wide * jax.lax.rsqrt(mean + epsilon)).astype(x.dtype)
  return normed * params["scale"].astype(x.dtype)


def dense(params: Params, x: jax.Array, inputs: int = 1) -> jax.Array:
  """Contracts the last `inputs` axes of x with the kernel's first ones.

  Adds the bias and the low-rank adapter, (x a) b, that `params` may hold.
  """
  y = _contract(x, params["kernel"], inputs)
  if "bias" in params:
    y = y + params["bias"].astype(x.dtype)
  if "a" in params:
    y = y + _contract(_contract(x, params["a"], inputs), params["b"], 1)
  return y


def precision(dtype: Any) -> jax.lax.Precision | None:
  """How exactly a product of `dtype` is computed, its gradient too.

  XLA's default for float32 is TF32 on GPUs and bfloat16 on TPUs, three and
  two digits; who asks for float32 wants seven. bfloat16 keeps the default,
  which is exact but for the sum.
  """
  wide = jnp.dtype(dtype) == jnp.float32
  return jax.lax.Precision.HIGHEST if wide else None


def _contract(x: jax.Array, kernel: jax.Array, inputs: int) -> jax.Array:
  kernel = kernel.astype(x.dtype)
  if parallel.current_mesh() is None:
    return _matrix_product(x, kernel, inputs)
  # Each axis stays what the mesh knows it as.
  last = tuple(range(x.ndim - inputs, x.ndim))
  axes = (last, tuple(range(inputs))), ((), ())
  return jax.lax.dot_general(x, kernel, axes, precision=precision(x.dtype))


def _matrix_product(x, kernel, inputs):
  """The same, of two matrices.

  The kernel's gradient then sums over one axis; for several, XLA on the CPU
  writes a transposed copy of what comes back before it multiplies.
  """
  rows, width = x.shape[: x.ndim - inputs], math.prod(kernel.shape[:inputs])
  product = jnp.matmul(
    x.reshape(-1, width),
    kernel.reshape(width, -1),
    precision=precision(x.dtype),
  )
  return product.reshape(*rows, *kernel.shape[inputs:])


def remembering(config: PolicyConfig, step: Callable) -> Callable:
  """A layer's step, for `lax.scan`, that keeps what `remat` says.

  For the gradient 'none' keeps all, 'layer' a layer's input alone and computes
  the layer anew. 'products' keeps what products with a kernel gave and computes
  anew what lies between them: norms, gates, rotations and attention. That is
  less than half of the memory for little work (experiments/speed).
  """
  if config.remat == "none":
    return step
  policy = None
  if config.remat == "products":
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  # A scan's backward pass is a loop of its own: no compiler can merge the two.
  return jax.checkpoint(step, policy=policy, prevent_cse=False)


@jax.custom_vjp
def permute(x: jax.Array, order: jax.Array, back: jax.Array) -> jax.Array:
  """x[..., order[..., i], :]; `back` is the inverse permutation.

  The gradient is a gather too, where JAX would emit a slow scatter-add.
  """
  del back
  return jnp.take_along_axis(x, order[..., None], axis=-2)


permute.defvjp(
  lambda x, order, back: (permute(x, order, back), (order, back)),
  lambda saved, g: (permute(g, saved[1], saved[0]), None, None),
)


def swiglu(params: Params, x: jax.Array) -> jax.Array:
  """down(silu(gate(x)) * up(x))."""
  gate = jax.nn.silu(dense(params["gate"], x))
  return dense(params["down"], gate * dense(params["up"], x))
