"""Where a rollout's arrays lie on a mesh; without one, nothing is changed."""

from __future__ import annotations

import jax

from lfpc_jax import parallel
from lfpc_jax.models import parameters
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.decoder import SuffixCache
from lfpc_jax.models.parameters import Params
from lfpc_jax.rollout.types import Trajectory


def gathered(config: PolicyConfig, params: Params) -> Params:
  """The parameters where `mesh.rollout_rules` has them, cast once for all.

  Otherwise each decoded token would bring them together, and cast them, anew.
  """
  if parallel.current_mesh() is None:
    return params
  cast = {
    # The tower adds two kernels up before it rounds them.
    name: part
    if name == "vision"
    else jax.tree.map(lambda x: x.astype(config.dtype), part)
    for name, part in params.items()
  }
  return parameters.pinned(config, cast, rollout=True)


def by_prompt(trajectory: Trajectory) -> Trajectory:
  """The same, each device with the rollouts of its own prompts."""

  def pin(x):
    if x.ndim < 2:
      return x
    axes = ("prompt", "rollout") + (None,) * (x.ndim - 2)
    return parallel.constrain(x, axes)

  return jax.tree.map(pin, trajectory)


def suffix(cache: SuffixCache) -> SuffixCache:
  """The same, each device with the heads and prompts that it works on."""
  axes = ("layers", "prompt", "rollout", "kv_heads")
  return SuffixCache(
    parallel.constrain(cache.k, (*axes, "head_dim", "suffix")),
    parallel.constrain(cache.v, (*axes, "suffix", "head_dim")),
  )
