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


def bound(asked: problem.Problem, tokens: int) -> tuple[float, float]:
  """Seconds that decoding `tokens` needs at the machine's limits.

  Two operations a token and parameter at the rate of a large product, and
  every step's reading of the parameters at the memory's rate. The tower and
  the embeddings do not take part in decoding; the head does.
  """
  parts = {k: asked.params[k] for k in ("layers", "head")}
  numbers = sum(x.size for x in jax.tree.leaves(parts))
  rollout = asked.config.rollout
  steps = tokens / (rollout.prompts * rollout.group)
  return (
    2.0 * numbers * tokens / measure.product_rate(),
    4.0 * numbers * steps / measure.memory_rate(),
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
  arithmetic, memory = bound(asked, tokens)
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
      f"{100 * max(arithmetic, memory) / took:.0f} %",
    ]
    for name, took in seconds.items()
  ]
  head = ["rollout", "seconds", "tokens/s", "over ours", "of the limit"]
  print(measure.table(head, lines), flush=True)
  print(
    f"limits of decoding: {arithmetic:.3f} s of products, {memory:.3f} s of "
    "reading parameters"
  )


if __name__ == "__main__":
  main()
