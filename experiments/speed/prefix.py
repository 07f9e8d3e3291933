r"""What a shared prefix saves: the rollout and the update, on against off.

  python -m experiments.speed.prefix --workdir=runs/speed \
    --groups=1,4,16 --views=16,256,1024

Off, every rollout is a prompt of its own, a group of one: the same numbers
come out, which is checked, by the same programs. Prints seconds, and the
memory that the programs need beside their arguments.
"""

import argparse
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import measure, problem
from lfpc_jax import agent as agent_lib
from lfpc_jax.rl import trainer
from lfpc_jax.rollout import episode
from lfpc_jax.rollout.types import Batch

_MEBI = 2**20


@dataclasses.dataclass
class Way:
  """One of the two: a rollout and an update, compiled.

  Attributes:
    rollout, update: called without arguments.
    memory: MiB that each needs beside its arguments.
    logp: of the rollout's tokens, f32[P * G, T].
    gradient: of the update, leaf by leaf.
  """

  rollout: Any
  update: Any
  memory: tuple[float, float]
  logp: np.ndarray
  gradient: list[np.ndarray]


def _each(tree: Any, group: int) -> Any:
  return jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), tree)


def _compile(function, *args):
  compiled = jax.jit(function).lower(*args).compile()
  memory = compiled.memory_analysis().temp_size_in_bytes / _MEBI
  return functools.partial(compiled, *args), memory


def make(asked: problem.Problem, view: int, batch: Batch, shared: bool) -> Way:
  """Compiles a way, on the policy's own rollouts."""
  group = asked.config.rollout.group
  agent, rows = asked.agent, asked.config.rollout.prompts
  if not shared:
    episodes = dataclasses.replace(agent.episodes, group=1)
    agent = dataclasses.replace(agent, episodes=episodes)
    # Each prompt keeps one picture: the batch shares them.
    pictures = batch.originals
    batch = _each(dataclasses.replace(batch, originals=None), group)
    batch = dataclasses.replace(batch, originals=pictures)
    rows *= group
  play = episode.Rollout(agent.policy, agent.episodes, view)
  rollout, first = _compile(
    play, asked.params, batch, agent.texts, jax.random.key(0)
  )
  trajectory = rollout()
  learner = trainer.make_learner(asked.config, agent, view)
  lesson = problem.lesson(batch, trajectory)
  trained, frozen = asked.params, {}

  def gradient(lesson):
    return learner._gradients(trained, frozen, lesson, None)[0]

  update, second = _compile(gradient, lesson)
  return Way(
    rollout,
    update,
    (first, second),
    np.asarray(trajectory.logp).reshape(-1, trajectory.logp.shape[-1]),
    [np.asarray(x) for x in jax.tree.leaves(update())],
  )


def compare(
  folder: pathlib.Path, size: str, prompts: int, view: int, group: int
):
  """A line for each program: seconds and memory of both ways."""
  asked = problem.make(folder, size, prompts, group, view=view)
  budgets = [view] * prompts
  batch = agent_lib.device_batch(
    asked.agent.packer.pack(asked.examples, budgets)
  )
  on, off = (make(asked, view, batch, shared) for shared in (True, False))
  np.testing.assert_allclose(on.logp, off.logp, atol=2e-4)
  for a, b in zip(on.gradient, off.gradient):
    np.testing.assert_allclose(a, b, atol=2e-3 * max(1e-6, np.abs(b).max()))
  seconds = measure.alternate(
    {
      "rollout on": on.rollout,
      "rollout off": off.rollout,
      "update on": on.update,
      "update off": off.update,
    },
    rounds=3,
  )
  slots = asked.agent.packer.text_capacity + view
  for k, name in enumerate(("rollout", "update")):
    a, b = (seconds[f"{name} {way}"] for way in ("on", "off"))
    yield [
      *(name, slots, group),
      *(f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}"),
      *(f"{on.memory[k]:.0f}", f"{off.memory[k]:.0f}"),
      f"{off.memory[k] / on.memory[k]:.2f}",
    ]


def main() -> None:
  """Measures all pairs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  numbers = lambda text: [int(x) for x in text.split(",")]
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--size", choices=problem.SIZES, default="miniature")
  parser.add_argument("--prompts", type=int, default=2)
  parser.add_argument("--groups", type=numbers, default=[1, 4, 16])
  parser.add_argument("--views", type=numbers, default=[16, 256, 1024, 4096])
  given = parser.parse_args()
  head = ["program", "prefix", "G", "s on", "s off", "ratio"]
  head += ["MiB on", "MiB off", "ratio"]
  rows = []
  for view in given.views:
    for group in given.groups:
      found = compare(given.workdir, given.size, given.prompts, view, group)
      for row in found:
        rows.append(row)
        print(row, flush=True)
  print(measure.table(head, rows))


if __name__ == "__main__":
  main()
