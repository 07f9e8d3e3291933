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
from lfpc_jax.models.config import PolicyConfig
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


def with_fresh(
  config: PolicyConfig, params: Params, seed: int = 0, dtype: Any = jnp.float32
) -> Params:
  """The parameters with fresh adapters, if the config wants some they lack.

  Args:
    config: the policy.
    params: its parameters.
    seed: of the adapters' A.
    dtype: precision that the adapters are kept in.
  """
  if not config.lora.rank or PART in params:
    return params
  fresh = initialise(config, seed)
  return params | {PART: jax.tree.map(lambda x: x.astype(dtype), fresh)}


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
  scale = jnp.float32(config.lora.scale)
  adapters = {
    name: layers[name] | {"a": pair["a"], "b": pair["b"] * scale}
    for name, pair in params[PART].items()
  }
  return layers | adapters


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

  Returns:
    W + alpha / rank * A B in float32, for the caller to round once; a
    parameter without an adapter as it is.
  """
  group, name, leaf = (path.split(".") + [""] * 3)[:3]
  pair = params.get(PART, {}).get(name)
  if group != "layers" or leaf != "kernel" or pair is None:
    return kernel
  a, b = (jnp.asarray(pair[x][layer], jnp.float32) for x in "ab")
  change = config.lora.scale * jnp.tensordot(a, b, 1, precision="highest")
  return kernel.astype(jnp.float32) + change
