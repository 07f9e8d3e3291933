r"""Updates a second: ours and a careful PyTorch loop, on the same rollouts.

  python -m experiments.speed.update --workdir=runs/speed \
    --peers=runs/speed/peers/bin/python --size=miniature --prompts=8 --group=8

Both take one policy-gradient step: forward, backward, clipping, AdamW. Loss
and gradient norm have to agree, or nothing is timed. A temperature of 20 makes
the calls' tokens uncertain, so that there is a gradient; the probabilities
that the rollouts had before are drawn near the policy's own.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import measure, problem
from lfpc_jax import agent as agent_lib
from lfpc_jax.ahead import cost
from lfpc_jax.models.config import REMATS
from lfpc_jax.rl import token_losses, trainer
from lfpc_jax.rl.types import Lesson
from lfpc_jax.rollout.types import Batch, Trajectory

_TEMPERATURE, _NOISE = 20.0, 0.05
_PRODUCT = 3000  # rows of the large product
_CLOSE = 5e-3  # the peer's crops come from Pillow's other rounding


class Ours:
  """The update's program and its state, which every call replaces."""

  def __init__(self, asked: problem.Problem):
    """Plays the episodes; compiles the update at the first call."""
    self._asked = asked
    episodes = dataclasses.replace(
      asked.agent.episodes, temperature=_TEMPERATURE
    )
    agent = dataclasses.replace(asked.agent, episodes=episodes)
    learner = trainer.make_learner(asked.config, agent, problem.VIEW)
    batch = asked.pack()
    trajectory = jax.jit(asked.rollout())(
      asked.params, batch, asked.agent.texts, jax.random.key(0)
    )
    self.lesson = self._lesson(episodes, batch, trajectory)
    self._update = jax.jit(learner.update, donate_argnums=0)
    # The first step gives the parameters away.
    params = jax.tree.map(jnp.copy, asked.params)
    self._state = agent_lib.committed(learner.init(params, 0))

  def _lesson(self, episodes, batch: Batch, trajectory: Trajectory) -> Lesson:
    asked, rng = self._asked, np.random.default_rng(0)
    now, _ = jax.jit(
      functools.partial(
        token_losses.token_log_probabilities,
        asked.agent.policy,
        episodes,
        problem.VIEW,
      )
    )(asked.params, batch, trajectory)
    old = now + _NOISE * rng.normal(size=now.shape).astype(np.float32)
    advantages = rng.normal(size=now.shape[:2]).astype(np.float32)
    return Lesson(
      batch,
      dataclasses.replace(trajectory, logp=jnp.asarray(old)),
      jnp.asarray(advantages),
      jnp.ones(advantages.shape, bool),
    )

  def export(self) -> None:
    """Writes what the peer's step needs beside its own rollouts."""
    trajectory = jax.device_get(self.lesson.trajectory)
    written, old = (
      x.reshape(-1, x.shape[-1]) for x in (trajectory.written, trajectory.logp)
    )
    np.savez(
      self._asked.folder / "lesson.npz",
      advantages=np.asarray(self.lesson.advantages).reshape(-1),
      old=np.stack([row[mask] for row, mask in zip(old, written)]),
      temperature=_TEMPERATURE,
    )

  def compile(self):
    """The program that every call runs."""
    return self._update.lower(self._state, self.lesson).compile()

  def __call__(self) -> dict[str, jax.Array]:
    """One step's metrics."""
    self._state, found = self._update(self._state, self.lesson)
    return found


def operations(asked: problem.Problem) -> float:
  """Of an update, by formula, filled slots and others."""
  rollout = asked.config.rollout
  prefix = asked.agent.packer.text_capacity + problem.VIEW
  sizes = cost.Sizes(rollout.prompts, prefix, problem.VIEW, replicas=1)
  return cost.update(
    asked.agent.policy, asked.agent.episodes, sizes, frozen=False
  ).flops


def main() -> None:
  """Measures one size."""
  parser = problem.parser(__doc__.splitlines()[0])
  parser.add_argument("--peers", required=True, help="python of the peers")
  parser.add_argument("--micro", type=int, default=1, help="slices, of both")
  parser.add_argument("--remat", choices=REMATS, default="", help="of ours")
  given = parser.parse_args()
  asked = problem.make(
    *(given.workdir, given.size, given.prompts, given.group),
    micro_batches=given.micro,
    remat=given.remat,
  )
  ours = Ours(asked)
  ours.export()
  rate = asked.config.optimizer.learning_rate
  with measure.Peer(given.peers, asked.folder, os.cpu_count()) as peer:
    peer.ask("rollout")
    step = lambda: peer.ask("update", rate=rate, micro=given.micro)
    first, theirs = jax.device_get(ours()), step()
    for name in ("loss", "gradient_norm"):
      print(f"{name}: ours {first[name]:.6f}, the peer's {theirs[name]:.6f}")
      if abs(first[name] / theirs[name] - 1) > _CLOSE:
        raise SystemExit(f"{name} differs: these are not the same step")
    seconds = measure.alternate(
      {"ours": ours, "peer": lambda: step()["seconds"]}, given.rounds
    )
    memory, faults = step()["gibibytes"], measure.page_faults(ours)
    product = peer.ask("product", size=_PRODUCT)["product"]
    versions = peer.versions
  peak, peers_peak = measure.product_rate(_PRODUCT), 2 * _PRODUCT**3 / product
  print(
    f"{given.size}: {asked.parameters / 1e6:.1f} M parameters, "
    f"{given.prompts} x {given.group} episodes, {given.micro} slices, jax "
    f"{jax.__version__}, "
    + ", ".join(f"{name} {v}" for name, v in versions.items())
  )
  lines = [
    [n, f"{s:.3f}", f"{s / seconds['ours']:.1f}"] for n, s in seconds.items()
  ]
  print(measure.table(["update", "seconds", "over ours"], lines), flush=True)
  least = operations(asked) / peak
  print(
    f"{operations(asked) / 1e12:.2f} e12 operations by formula, "
    f"{100 * least / seconds['ours']:.0f} % of a large "
    f"product's rate, {peak / 1e9:.0f} GFLOP/s ({peers_peak / 1e9:.0f} in "
    f"PyTorch); at all of it {seconds['peer'] / least:.1f} times the peer's "
    f"speed; the peer's largest memory {memory:.1f} GiB; "
    f"a step of ours faults in {faults:,} pages"
  )


if __name__ == "__main__":
  main()
