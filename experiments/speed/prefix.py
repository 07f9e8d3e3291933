r"""What a shared prefix saves: the rollout and the update, on against off.

  python -m experiments.speed.prefix --workdir=runs/speed

Off, every rollout is a prompt of its own, a group of one: the same numbers
come out, which is checked, by the same programs. Views are encoded ahead, as
for a tower that is not trained, so that the decoder alone is compared. Prints
seconds, and the memory that the programs need beside their arguments, by
XLA's own analysis. Where all rollouts' prefixes together have more than
--largest slots, the programs are compiled alone.
"""

import argparse
import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import measure, problem
from lfpc_jax import config as config_lib
from lfpc_jax.rl import trainer
from lfpc_jax.rollout import encoding, episode
from lfpc_jax.rollout.types import Batch

_MEBI = 2**20
_CELL = 28  # pixels of a visual token's side


@dataclasses.dataclass
class Way:
  """One of the two: a rollout and an update, compiled.

  Attributes:
    rollout, update: the programs.
    given: the rollout's arguments.
    trained, frozen: the update's parameters.
    batch: the prompts.
  """

  rollout: Any
  update: Any
  given: tuple[Any, ...]
  trained: Any
  frozen: Any
  batch: Batch

  @property
  def memory(self) -> tuple[float, float]:
    """MiB that each program needs beside its arguments."""
    programs = (self.rollout, self.update)
    return tuple(
      program.memory_analysis().temp_size_in_bytes / _MEBI
      for program in programs
    )

  def run(self) -> tuple[dict[str, Any], np.ndarray, list[np.ndarray]]:
    """Both programs as functions, the tokens' log-probabilities, a gradient."""
    trajectory = self.rollout(*self.given)
    lesson = problem.lesson(self.batch, trajectory)
    functions = {
      "rollout": lambda: self.rollout(*self.given),
      "update": lambda: self.update(self.trained, self.frozen, lesson),
    }
    logp = np.asarray(trajectory.logp)
    leaves = jax.tree.leaves(functions["update"]())
    return (
      functions,
      logp.reshape(-1, logp.shape[-1]),
      [np.asarray(x) for x in leaves],
    )


def _off(batch: Batch, group: int) -> Batch:
  """A prompt for each rollout; the pictures, for crops, stay as they are."""
  each = dataclasses.replace(batch, originals=None)
  each = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), each)
  return dataclasses.replace(each, originals=batch.originals)


def compile_way(asked: problem.Problem, batch: Batch, shared: bool) -> Way:
  """Compiles a way; nothing runs."""
  agent, view = asked.agent, asked.config.gap.tokens
  if not shared:
    batch = _off(batch, agent.episodes.group)
    episodes = dataclasses.replace(agent.episodes, group=1)
    agent = dataclasses.replace(agent, episodes=episodes)
  play = episode.Rollout(agent.policy, agent.episodes, view)
  given = (asked.params, batch, agent.texts, jax.random.key(0))
  learner = trainer.make_learner(asked.config, agent, view)
  trained = {k: x for k, x in asked.params.items() if k != "vision"}
  frozen = {"vision": asked.params["vision"]}

  def gradient(trained, frozen, lesson):
    return learner._gradients(trained, frozen, lesson, None)[0]

  lesson = problem.lesson(batch, jax.eval_shape(play, *given))
  return Way(
    jax.jit(play).lower(*given).compile(),
    jax.jit(gradient).lower(trained, frozen, lesson).compile(),
    *(given, trained, frozen, batch),
  )


def prepare(
  folder: pathlib.Path, size: str, prompts: int, prefix: int, group: int
) -> tuple[problem.Problem, Batch]:
  """The questions, their views encoded, in prefixes of so many slots.

  The view is the largest square that leaves room for the text.
  """
  root = math.isqrt(prefix - problem.TEXT)
  doublings = max(0, math.ceil(math.log2(root * _CELL / problem.SIDE)))
  asked = problem.make(
    *(folder, size, prompts, group, root**2),
    side=problem.SIDE * 2**doublings,
    text=prefix - root**2,
  )
  batch = asked.pack()
  policy = asked.agent.policy
  visual = jax.jit(
    lambda params, batch: encoding.encode_views(policy, params, batch, root**2)
  )(asked.params, batch)
  return asked, dataclasses.replace(batch, visual=visual)


def compare(asked: problem.Problem, batch: Batch, runs: bool, rounds: int):
  """A line for each program: seconds and memory of both ways.

  Raises:
    AssertionError: the two ways' numbers differ.
  """
  on, off = (compile_way(asked, batch, shared) for shared in (True, False))
  seconds = {}
  if runs:
    (first, logp, gradient), (second, other, slope) = on.run(), off.run()
    np.testing.assert_allclose(logp, other, atol=2e-4)
    for a, b in zip(gradient, slope):
      np.testing.assert_allclose(a, b, atol=2e-3 * max(1e-6, np.abs(b).max()))
    functions = {(name, True): f for name, f in first.items()}
    functions |= {(name, False): f for name, f in second.items()}
    seconds = measure.alternate(functions, rounds, warm=0)
  for k, name in enumerate(("rollout", "update")):
    times = ["", "", ""]
    if runs:
      a, b = seconds[name, True], seconds[name, False]
      times = [f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}"]
    a, b = on.memory[k], off.memory[k]
    yield [name, *times, f"{a:.0f}", f"{b:.0f}", f"{b / a:.2f}"]


def main() -> None:
  """Measures all pairs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  numbers = lambda text: [int(x) for x in text.split(",")]
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--size", choices=problem.SIZES, default="miniature")
  parser.add_argument("--prompts", type=int, default=1)
  parser.add_argument("--groups", type=numbers, default=[1, 4, 16])
  parser.add_argument("--prefixes", type=numbers, default=[64, 256, 1024, 4096])
  parser.add_argument("--largest", type=int, default=16_384)
  parser.add_argument("--rounds", type=int, default=3)
  given = parser.parse_args()
  config_lib.setup_jax()
  rows = []
  for prefix in given.prefixes:
    for group in given.groups:
      asked, batch = prepare(
        given.workdir, given.size, given.prompts, prefix, group
      )
      runs = prefix * group * given.prompts <= given.largest
      for name, *found in compare(asked, batch, runs, given.rounds):
        rows.append([name, prefix, group, *found])
        print(*rows[-1], flush=True)
  head = ["program", "prefix", "G", "s on", "s off", "ratio"]
  head += ["MiB on", "MiB off", "ratio"]
  print(measure.table(head, rows))


if __name__ == "__main__":
  main()
