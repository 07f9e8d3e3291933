"""One process of a training run: tells its first and its last state.

  python -m tests.parallel.resume_worker DATA OUT CHANGES...

Process 0 writes [[step, digest], ..] of every bit, whatever the mesh, into
states.json of OUT.
"""

import hashlib
import json
import os
import pathlib
import sys

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from lfpc_jax import config as config_lib
from lfpc_jax import parallel
from lfpc_jax.parallel import start
from lfpc_jax.rl.trainer import Trainer
from tests import small_scenes
from tests.parallel.run_worker import CHANGES, CONFIG


def told(state):
  """The step, and a digest of all that the processes hold together."""
  total = hashlib.sha256()
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    total.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode())
    whole = multihost_utils.process_allgather(x, tiled=True)
    total.update(np.asarray(whole).tobytes())
  return int(state.step), total.hexdigest()


class Watched(Trainer):
  """Tells the state that it begins or goes on from."""

  def train_step(self, state, prepared, reference=None):
    """As the trainer's own."""
    if not states:
      states.append(told(state))
    return super().train_step(state, prepared, reference)


states: list[tuple[int, str]] = []


def main(out: pathlib.Path, changes: list[str]) -> None:
  """Trains, as the command would."""
  start.start()
  config = config_lib.freeze(
    config_lib.load_config(
      f"{CONFIG}:smoke", (*CHANGES, "checkpoint.every=1", *changes)
    )
  )
  with parallel.configured(config.mesh):
    states.append(told(Watched(config, out).run()))
  if parallel.is_first():
    (out / "states.json").write_text(json.dumps(states))


if __name__ == "__main__":
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("LFPC_COMPILE_CACHE")
  )
  with small_scenes.prepared(sys.argv[1]) as fields:
    main(pathlib.Path(sys.argv[2]), [*fields, *sys.argv[3:]])
