r"""Rollouts a second: ours, a host's loop, and transformers' generate.

  python -m experiments.speed.rollout --workdir=runs/speed \
    --peers=runs/speed/peers/bin/python --size=miniature --prompts=8 --group=8

All write the same tokens, which is checked. Prints a table; run.sh has all
sizes.
"""

import os

import jax
import numpy as np

from experiments.speed import measure, problem
from experiments.speed.host_loop import HostLoop
from lfpc_jax.ahead import cost

OURS, TWO_LOOPS, PEER = "ours", ("host loop", "host loop, shared"), "peer"


class Ours:
  """The compiled program, with all that comes before and after it."""

  def __init__(self, asked: problem.Problem):
    """Compiles at the first call."""
    self._asked = asked
    self._program = jax.jit(asked.rollout())

  def __call__(self) -> list[list[list[int]]]:
    """Token ids of each row's turns."""
    asked = self._asked
    found = self._program(
      asked.params, asked.pack(), asked.agent.texts, jax.random.key(0)
    )
    names = ("tokens", "turn_start", "turn_end")
    tokens, start, end = jax.device_get([getattr(found, n) for n in names])
    return [
      [tokens[p, g, a:b].tolist() for a, b in zip(start[p, g], end[p, g])]
      for p in range(tokens.shape[0])
      for g in range(tokens.shape[1])
    ]


def check(name: str, ours, theirs) -> None:
  """Refuses a comparison of different work."""
  if ours != theirs:
    wrong = sum(a != b for a, b in zip(ours, theirs))
    raise SystemExit(
      f"{name} wrote other tokens in {wrong} of {len(ours)} rows"
    )


def least(asked: problem.Problem, written: int) -> tuple[float, float]:
  """Seconds that a rollout needs at the machine's limits.

  All products, by formula, at the rate of a large one; and every decoding
  step's reading of decoder and head at the memory's rate.

  Args:
    asked: the policy and its questions.
    written: new tokens. Only they go through the head.
  """
  policy, rollout = asked.agent.policy, asked.config.rollout
  rows = rollout.prompts * rollout.group
  prefix = asked.agent.packer.text_capacity + problem.VIEW
  sizes = cost.Sizes(rollout.prompts, prefix, problem.VIEW, replicas=1)
  episodes = asked.agent.episodes
  flops = cost.rollout(policy, episodes, sizes, encodes=True).flops
  flops -= cost.head_flops(policy, rows * episodes.slots - written)
  parts = [asked.params[name] for name in ("layers", "head")]
  weights = sum(x.nbytes for x in jax.tree.leaves(parts))
  return (
    flops / measure.product_rate(),
    weights * written / rows / measure.memory_rate(),
  )


def main() -> None:
  """Measures one size."""
  parser = problem.parser(__doc__.splitlines()[0])
  parser.add_argument("--peers", required=True, help="python of the peers")
  given = parser.parse_args()
  asked = problem.make(given.workdir, given.size, given.prompts, given.group)
  ours = Ours(asked)
  loops = [HostLoop(asked, share) for share in (False, True)]
  threads = os.cpu_count()
  with measure.Peer(given.peers, asked.folder, threads) as peer:
    wanted = ours()
    for name, loop in zip(TWO_LOOPS, loops):
      check(name, wanted, loop())
    found = peer.ask("rollout")
    check("the peer", wanted, found["rows"])
    inside = []

    def generate() -> float:
      answer = peer.ask("rollout")
      inside.append(answer["generating"])
      return answer["seconds"]

    functions = {OURS: ours}
    functions |= dict(zip(TWO_LOOPS, loops))
    seconds = measure.alternate(functions | {PEER: generate}, given.rounds, 0)
    versions = peer.versions
  seconds["peer, generate alone"] = float(np.median(inside))
  _print(asked, given, wanted, seconds, versions)


def _print(asked, given, rows, seconds, versions) -> None:
  tokens = sum(len(turn) for row in rows for turn in row)
  arithmetic, memory = least(asked, tokens)
  print(
    f"{given.size}: {asked.parameters / 1e6:.1f} M parameters, "
    f"{given.prompts} x {given.group} episodes, {tokens} new tokens, jax "
    f"{jax.__version__}, "
    + ", ".join(f"{name} {v}" for name, v in versions.items())
  )
  lines = [
    [
      name,
      f"{took:.3f}",
      f"{tokens / took:,.0f}",
      f"{took / seconds[OURS]:.1f}",
    ]
    for name, took in seconds.items()
  ]
  head = ["rollout", "seconds", "tokens/s", "over ours"]
  print(measure.table(head, lines), flush=True)
  print(
    f"products, by formula: {arithmetic:.3f} s at a large product's rate, "
    f"{100 * arithmetic / seconds[OURS]:.0f} % of ours; at all of it "
    f"{seconds[PEER] / arithmetic:.1f} times the peer's speed. Reading the "
    f"parameters in each step: {memory:.3f} s"
  )


if __name__ == "__main__":
  main()
