r"""Where a rollout's and an update's time goes: parts alone, and operations.

  python -m experiments.speed.parts --workdir=runs/speed --size=100M

Compiles each part as a program of its own and prints its seconds, then the
operations of a turn of decoding and of an update that took longest, by XLA's
profiler, summed over the threads. --tiles 128 cuts crops in smaller tiles.
"""

import collections
from collections.abc import Callable
import dataclasses
import functools
import gzip
import json
import pathlib
import re
import tempfile
from typing import Any

import jax

from experiments.speed import measure, problem, update
from lfpc_jax.image import resample, views
from lfpc_jax.rollout import decoding, encoding, episode

_SHOWN = 12  # operations
_OPERATION = re.compile(
  r"%?([\w.\-]+) = (\S+?)\{?[\d,]*\}? .*op_name=\"([^\"]*)"
)


def parts(asked: problem.Problem) -> dict[str, tuple[Callable, tuple]]:
  """Functions and their arguments, by name; they are to be compiled."""
  policy, params, batch = asked.agent.policy, asked.params, asked.pack()
  view, limits = asked.config.gap.tokens, asked.agent.episodes
  texts, key = asked.agent.texts, jax.random.key(0)
  whole = asked.rollout()
  found = jax.jit(whole)(params, batch, texts, key)
  prompt = functools.partial(encoding.encode_prompt, policy, capacity=view)
  prefix = jax.jit(prompt)(params, batch)
  turn = episode.Rollout(policy, dataclasses.replace(limits, max_turns=1), view)
  crops = (found.boxes[:, :, 0], found.grids[:, :, 0], found.crops > 0)

  def encode_crops(params, originals, *crops):
    return encoding.encode_crops(
      policy, params, originals, *crops, limits.crop_max_tokens
    )

  def cut(originals, *crops):
    return views.render_crops(originals, *crops, limits.crop_max_tokens)

  return {
    "rollout, whole": (whole, (params, batch, texts, key)),
    "prompts, with their views": (prompt, (params, batch)),
    "one turn of decoding": (
      lambda p, b, t, k, prefix: turn(p, b, t, k, None, prefix),
      (params, batch, texts, key, prefix),
    ),
    "crops, cut and resized": (cut, (batch.originals, *crops)),
    "crops, encoded too": (encode_crops, (params, batch.originals, *crops)),
  }


def hottest(compiled: Any, run: Callable[[], Any]) -> list[list[str]]:
  """Milliseconds, calls, name and origin of a program's longest operations."""
  known = {
    m[1]: m for m in map(_OPERATION.search, compiled.as_text().split("\n")) if m
  }
  jax.block_until_ready(run())
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(run())
    (path,) = pathlib.Path(folder).rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  total, calls = collections.Counter(), collections.Counter()
  for event in events:
    name = event.get("name")
    if "dur" in event and name in known and not name.startswith("while"):
      total[name] += event["dur"] / 1e3
      calls[name] += 1
  return [
    [f"{ms:.0f}", calls[name], name, known[name][2], known[name][3][-48:]]
    for name, ms in total.most_common(_SHOWN)
  ]


def main() -> None:
  """Measures one size."""
  parser = problem.parser(__doc__.splitlines()[0])
  parser.add_argument("--tiles", type=int, nargs="+", default=resample.TILES)
  parser.add_argument(
    "--whole_cache",
    action="store_true",
    help="decoding reads all slots, filled or not",
  )
  given = parser.parse_args()
  if given.whole_cache:
    decoding.extents = lambda slots: (slots,)
  resample.TILES = tuple(given.tiles)
  asked = problem.make(given.workdir, given.size, given.prompts, given.group)
  programs = {
    name: functools.partial(jax.jit(function), *args)
    for name, (function, args) in parts(asked).items()
  }
  seconds = measure.alternate(programs, given.rounds)
  rows = [[name, f"{took:.3f}"] for name, took in seconds.items()]
  print(measure.table(["part", "seconds"], rows), flush=True)
  function, args = parts(asked)["one turn of decoding"]
  turn = jax.jit(function).lower(*args).compile()
  step = update.Ours(asked)
  head = ["ms", "calls", "operation", "result", "from"]
  print(measure.table(head, hottest(turn, functools.partial(turn, *args))))
  print(measure.table(head, hottest(step.compile(), step)))


if __name__ == "__main__":
  main()
