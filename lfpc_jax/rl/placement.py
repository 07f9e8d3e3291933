"""Where a training state lies: each moment beside its parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from lfpc_jax import parallel
from lfpc_jax.models import parameters
from lfpc_jax.models.config import PolicyConfig
from lfpc_jax.models.parameters import Params
from lfpc_jax.rl.types import TrainState
from lfpc_jax.rl.update import Learner


def abstract_params(
  policy: PolicyConfig, precision: Mapping[str, str]
) -> Params:
  """Shapes and shardings of the parameters on the active mesh.

  Args:
    policy: its sizes.
    precision: of each top-level part.
  """
  shapes = parameters.abstract(policy, precision)
  shardings = parameters.shardings(policy)
  if shardings is None:
    return shapes
  return jax.tree.map(_placed, shapes, shardings)


def abstract_state(
  learner: Learner, precision: Mapping[str, str]
) -> TrainState:
  """Shapes and shardings of the state before the first step.

  What the optimiser keeps of a parameter lies where the parameter lies;
  everything else, such as counts, is whole on all devices.
  """
  params = abstract_params(learner.policy, precision)
  state = jax.eval_shape(lambda p: learner.init(p, 0), params)
  if parallel.current_mesh() is None:
    return state
  known = dict(jax.tree_util.tree_leaves_with_path(params))

  def place(path, x):
    for start in range(len(path)):
      twin = known.get(path[start:])
      if twin is not None and twin.shape == x.shape:
        return _placed(x, twin.sharding)
    return _placed(x, parallel.named_sharding((None,) * x.ndim))

  return jax.tree_util.tree_map_with_path(place, state)


def state_shardings(
  learner: Learner, precision: Mapping[str, str]
) -> TrainState | None:
  """The shardings of `abstract_state`; None without a mesh."""
  if parallel.current_mesh() is None:
    return None
  return jax.tree.map(lambda x: x.sharding, abstract_state(learner, precision))


def _placed(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
