"""What published sizes need of TPU generations, at the paper's settings.

  python -m experiments.pods.table                         the table, by formula
  python -m experiments.pods.table --confirm=7b:v5e:1024   compiles one cell

256 prompts x 16 rollouts, 2,048 response tokens, global views of 1,024 and of
16,384 tokens, pictures of up to 2048 x 2048 pixels; everything else as
configs/stage1.py has it. A cell is the smallest standard slice that holds a
step. Cells that the compiler confirmed stand in compiled.json and are marked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
import os
import pathlib
import sys
from typing import Any

SIZES = ("3b", "7b", "32b", "72b")
GENERATIONS = ("v5e", "v5p", "v6e")
TOKENS = (1024, 16_384)
FOLDER = pathlib.Path(__file__).parent
STAGE = FOLDER.parents[1] / "configs" / "stage1.py"
GIB = 2**30


def cells() -> Iterator[tuple[str, int, str]]:
  """Size, visual tokens and generation of each cell."""
  for size in SIZES:
    for tokens in TOKENS:
      for generation in GENERATIONS:
        yield size, tokens, generation


def name_of(size: str, tokens: int, generation: str) -> str:
  """'7b:v5e:1024'."""
  return f"{size}:{generation}:{tokens}"


def subject(size: str, tokens: int) -> Any:
  """The config of a cell, see `checking.subject`."""
  from lfpc_jax import config as config_lib
  from lfpc_jax.ahead import checking

  changes = [f"gap.tokens={tokens}", "data.image_capacity=2048,2048"]
  config = config_lib.load_config(f"{STAGE}:{size}", changes)
  return checking.subject(config, size)


def estimate(size: str, tokens: int) -> Any:
  """A cell's step, whatever the generation."""
  from lfpc_jax.ahead import layouts

  about = subject(size, tokens)
  return layouts.make_step(about.config, about.agent, about.learner)


def confirm(name: str, path: pathlib.Path) -> None:
  """Compiles a cell, and keeps what the compiler says."""
  import jax

  from lfpc_jax.ahead import layouts, proposing

  size, generation, tokens = name.split(":")
  about = subject(size, int(tokens))
  step = layouts.make_step(about.config, about.agent, about.learner)
  done = proposing.confirm(about, step, generation)
  kept = read(path)
  kept[name] = {
    "topology": done.proposal.topology,
    "layout": vars(done.proposal.layout),
    "jax": jax.__version__,
    "programs": {
      x.program.name: {
        "GiB": {kind: n / GIB for kind, n in x.memory.items()},
        "seconds": round(x.seconds),
        "collective_bytes": sum(c.bytes * c.times for c in x.collectives),
      }
      for x in done.outcomes
    },
    "refused": [
      {"topology": where, "layout": vars(layout), "program": program}
      | {"GiB": used / GIB}
      for where, layout, program, used in done.refused
    ],
  }
  path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def read(path: pathlib.Path) -> dict[str, Any]:
  """What the compiler has confirmed, by cell."""
  return json.loads(path.read_text()) if path.exists() else {}


def row(cell: tuple[str, int, str], step: Any, known: dict[str, Any]) -> str:
  """A cell as a line of Markdown."""
  from lfpc_jax.ahead import chips, layouts, search, times

  size, tokens, generation = cell
  found = search.smallest(search.proposals(step, generation))
  compiled = known.get(name_of(*cell))
  start = f"| {size} | {tokens:,} | {generation} |"
  if compiled:
    layout = layouts.Layout(**compiled["layout"])
    place, mark = compiled["topology"], "compiled"
    used = [
      compiled["programs"].get(name, {"GiB": {"used": 0}})["GiB"]["used"]
      for name in search.PROGRAMS
    ]
  elif found is None:
    return f"{start} none up to 16x16 or 8x8x8 | | | | | | | | estimate |"
  else:
    layout, place, mark = found.layout, found.topology, "estimate"
    used = [found.memory[name] / GIB for name in search.PROGRAMS]
  spent = times.of_step(step, layout, chips.device_of(generation))
  bound = " | ".join(
    "{1:,.0f} s, {0}".format(*times.slowest(spent[name]))
    for name in ("rollout", "update")
  )
  cut = f"{layout.waves} / {layout.micro_batches} x {layout.rollout_slices}"
  gibs = " | ".join(f"{x:.1f}" for x in used)
  star = "" if layout.gathered else " *"
  return (
    f"{start} {place.partition(':')[2]} | {layout.fsdp} x {layout.tensor}{star}"
    f" | {cut} | {gibs} | {bound} | {mark} |"
  )


HEAD = """\
| policy | view | chips | slice | fsdp x tensor | waves / micro-batches x \
slices | encode | rollout | update | rollout at best | update at best | |
|---|---:|---|---|---|---|---:|---:|---:|---|---|---|"""


def main() -> None:
  """Prints the table, or compiles a cell."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--confirm", default="", help="SIZE:GENERATION:TOKENS")
  parser.add_argument("--results", default=FOLDER / "compiled.json")
  flags = parser.parse_args()
  path = pathlib.Path(flags.results)
  if flags.confirm:
    if flags.confirm not in {name_of(*cell) for cell in cells()}:
      sys.exit(f"error: --confirm={flags.confirm}: no such cell")
    confirm(flags.confirm, path)
    return
  known, steps = read(path), {}
  print(HEAD)
  for cell in cells():
    if cell[:2] not in steps:
      steps[cell[:2]] = estimate(*cell[:2])
    print(row(cell, steps[cell[:2]], known), flush=True)


if __name__ == "__main__":
  # The TPU compiler is no backend: what must compute here does so on the CPU.
  os.environ["JAX_PLATFORMS"] = "cpu"
  main()
