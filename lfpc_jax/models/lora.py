"""Low-rank adapters on the decoder: y = x W + alpha / rank * (x A) B.

The adapters are the part "lora" of the parameters. In training they stay
apart and everything else is frozen; an export has them merged into W. A tree
without that part is the policy without adapters, under any config.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from lfpc_jax.models import parameters
from lfpc_jax.models.config import LoraConfig, PolicyConfig
from lfpc_jax.models.parameters import Params

PART = "lora"


def initialise(
  config: PolicyConfig, seed: int, shardings: Any = None
) -> Params:
  """Fresh float32 adapters, which change nothing: B is zero.

  Args:
    config: the policy; its `lora.rank` is at least 1.
    seed: of A.
    shardings: a tree like the result; None takes the default device.

  Returns:
    {target: {"a": [L, *inputs, rank], "b": [L, rank, *outputs]}}.
  """
  make = jax.jit(
    lambda key: parameters.declared(config, key)[PART], out_shardings=shardings
  )
  return make(jax.random.key(seed))


def with_fresh(config: PolicyConfig, params: Params, seed: int = 0) -> Params:
  """The parameters with fresh adapters, if the config wants some they lack."""
  if not config.lora.rank or PART in params:
    return params
  return params | {PART: initialise(config, seed)}


def frozen_parts(parts: Collection[str], frozen: Collection[str]) -> set[str]:
  """Which of the parameters' parts are not trained.

  Args:
    parts: names of all top-level parts.
    frozen: those to freeze if there are no adapters; with adapters all other
      parts are frozen.
  """
  return (set(parts) if PART in parts else set(frozen)) - {PART}


def adapt(config: PolicyConfig, params: Params) -> Params:
  """The decoder's layers, each target with its adapter beside its kernel.

  The scale is already in B: `layers.dense` adds (x A) B.
  """
  layers = params["layers"]
  if PART not in params:
    return layers
  scale = config.lora.scale
  adapters = {
    name: layers[name] | {"a": pair["a"], "b": pair["b"] * scale}
    for name, pair in params[PART].items()
  }
  return layers | adapters


def merge(config: PolicyConfig, params: Params) -> Params:
  """The same policy without adapters: W + alpha / rank * A B.

  The sum is float32, the result in W's precision.
  """
  if PART not in params:
    return params
  rest = {name: part for name, part in params.items() if name != PART}
  kernels = {
    name: layer | {"kernel": _merged(config.lora, layer["kernel"], pair)}
    for name, pair in params[PART].items()
    for layer in [params["layers"][name]]
  }
  return rest | {"layers": params["layers"] | kernels}


def merged_layer(
  config: PolicyConfig, params: Params, path: str, layer: int, kernel: Any
) -> Any:
  """One layer's parameter at a dotted path, its adapter merged if it has one.

  Args:
    config: the policy.
    params: its parameters.
    path: such as "layers.q.kernel".
    layer: number of the layer.
    kernel: that layer's parameter, without the layer axis.
  """
  group, name, leaf = (path.split(".") + [""] * 3)[:3]
  pair = params.get(PART, {}).get(name)
  if group != "layers" or leaf != "kernel" or pair is None:
    return kernel
  pair = jax.tree.map(lambda x: x[layer : layer + 1], pair)
  return _merged(config.lora, kernel[None], pair)[0]


def _merged(config: LoraConfig, kernel: jax.Array, pair: Params) -> jax.Array:
  a, b = (jnp.asarray(pair[x], jnp.float32) for x in "ab")
  product = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1, precision="highest"))
  change = config.scale * product(a, b)
  return (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
