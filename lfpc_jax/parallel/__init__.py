"""The device mesh, and one table that says which array axis lies where."""

from lfpc_jax.parallel.mesh import make_mesh, resolve_sizes
from lfpc_jax.parallel.sharding import (
  DEFAULT_RULES,
  Rules,
  constrain,
  current_mesh,
  local_slice,
  make_rules,
  named_sharding,
  shard_batch,
  spec_for,
  tree_shardings,
  use_mesh,
)

__all__ = [
  "DEFAULT_RULES",
  "Rules",
  "constrain",
  "current_mesh",
  "local_slice",
  "make_mesh",
  "make_rules",
  "named_sharding",
  "resolve_sizes",
  "shard_batch",
  "spec_for",
  "tree_shardings",
  "use_mesh",
]
