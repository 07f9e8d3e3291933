"""One process of a small run: trains, evaluates, writes what it found.

  python -m tests.parallel.run_worker DATA OUT CHANGES...

Joins the others that JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID name. CHANGES are fields of the config.
"""

import json
import os
import pathlib
import sys

import jax
import numpy as np

from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax import parallel
from lfpc_jax.data import loader
from lfpc_jax.evaluation import command
from lfpc_jax.evaluation.runner import Runner
from lfpc_jax.parallel import start
from lfpc_jax.rl.trainer import Trainer
from tests import small_scenes

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "tiny.py"
CHANGES = (
  "gap.mode=random",
  "gap.draw=prompt",
  "gap.tokens=4",
  "gap.levels=4,16",
  "gap.full_tokens=16",
  "rollout.prompts=4",
  "rollout.group=2",
  "rl.micro_batches=1",
  "optimizer.warmup_steps=0",
  "train.steps=2",
  "train.report_every=1",
  "train.tensorboard=False",
  "checkpoint.every=2",
  "eval.batch=4",
  "eval.items=3",  # fewer than a batch: the last share is cut
  "eval.budgets=16",
  "eval.probes=other",
  "eval.records=2",
)


class Watched(Trainer):
  """Keeps the tokens of this process's rollouts."""

  def train_step(self, state, prepared, reference=None):
    """As the trainer's own."""
    before = len(compilations)
    found = super().train_step(state, prepared, reference)
    compiled.append(len(compilations) - before)
    tokens.append(parallel.fetch(self.seen.trajectory.tokens))
    return found


tokens: list[np.ndarray] = []
compiled: list[int] = []  # programs that each step has compiled
compilations: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
  lambda name, *_, **__: (
    name.endswith("backend_compile_duration") and compilations.append(name)
  )
)


def main(out: pathlib.Path, changes: list[str]) -> None:
  """Both runs, and the file result.json of what process 0 knows."""
  start.start()
  config = config_lib.freeze(
    config_lib.load_config(f"{CONFIG}:smoke", (*CHANGES, *changes))
  )
  with parallel.configured(config.mesh):
    trainer = Watched(config, out)
    state = trainer.run()
    assert compiled[0] > 0 and compiled[1:] == [0], compiled
    own = [step.tolist() for step in tokens]
    shares = dict(parallel.gather([(trainer.share.index, own)]))
    rollouts = [
      np.concatenate([shares[i][step] for i in sorted(shares)]).tolist()
      for step in range(len(tokens))
    ]
    restored = agent_lib.load_params(trainer.agent, str(out))
    pairs = jax.tree.map(lambda *ab: ab, restored, state.params)
    for a, b in jax.tree.leaves(pairs, is_leaf=lambda x: type(x) is tuple):
      assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
    source = loader.open_data(config.data, "test")
    examples = loader.first(source, config.eval["items"], "")
    runner = Runner(config)
    found = runner.run("policy", restored, examples)
    command.evaluate_into(out / "evaluation", config, runner, "x", str(out))
  if parallel.is_first():
    result = {
      "devices": jax.device_count(),
      "processes": jax.process_count(),
      "rollouts": rollouts,
      "items": [repr(row) for row in found.rows],
      "records": [record.id for record in found.records],
    }
    (out / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("LFPC_COMPILE_CACHE")
  )
  with small_scenes.prepared(sys.argv[1]) as fields:
    main(pathlib.Path(sys.argv[2]), [*fields, *sys.argv[3:]])
