r"""How a rollout's and an update's time grow with the sizes of a step.

  python -m experiments.speed.scaling --workdir=runs/speed

Prompts, rollouts of a prompt, visual tokens of the view, crops of an episode
and the originals' sides are raised alone, twice each, from one small case.
Prints a table beside the operations by formula (lfpc_jax/ahead/cost.py, and
the resizing of images, which it leaves out) and draws scaling.svg.
"""

import argparse
from collections.abc import Callable
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import matplotlib
import matplotlib.figure

from experiments.speed import measure, problem
from lfpc_jax import config as config_lib
from lfpc_jax.ahead import cost
from lfpc_jax.report import plots
from lfpc_jax.rl import trainer

_BASE = {"prompts": 4, "group": 8, "view": 16, "crops": 1, "side": 512}
_SWEEPS = {
  "prompts": (4, 8, 16),
  "group": (8, 16, 32),
  "view": (16, 64, 256),
  "crops": (1, 2, 4),
  "side": (512, 1024, 2048),
}
_TITLES = {
  "prompts": "prompts",
  "group": "rollouts of a prompt",
  "view": "visual tokens of the view",
  "crops": "crops of an episode",
  "side": "side of the originals, pixels",
}
_PROGRAMS = ("rollout", "update")
_CELL, _BLOCK = 28, 112  # pixels of a visual token's side, of a resized block


@dataclasses.dataclass(frozen=True)
class Case:
  """Both programs at some sizes, in the order of _PROGRAMS.

  Attributes:
    run: called without arguments.
    operations: by formula.
  """

  run: tuple[Callable[[], Any], ...]
  operations: tuple[float, ...]


def resizing(height: float, width: float, grid: tuple[int, int]) -> float:
  """Operations of resizing a box to a view of `grid` cells.

  The first pass is a product of each pixel, three channels, with a block's
  columns; the second of each row of it with a block's rows.
  """
  wide = _CELL * grid[1]
  return 2 * 3 * _BLOCK * height * (width + wide)


def operations(asked: problem.Problem, trajectory: Any) -> tuple[float, ...]:
  """Of a rollout and of an update, by formula, filled slots and others."""
  rollout, view = asked.config.rollout, asked.config.gap.tokens
  policy, episodes = asked.agent.policy, asked.agent.episodes
  prefix = asked.agent.packer.text_capacity + view
  sizes = cost.Sizes(rollout.prompts, prefix, view, replicas=1)
  images = 0.0
  for example in asked.examples:
    grid = asked.agent.packer.view_grid(example, view)
    images += resizing(*example.image.shape[:2], grid)
  boxes, grids = jax.device_get((trajectory.boxes, trajectory.grids))
  for (x1, y1, x2, y2), grid in zip(boxes.reshape(-1, 4), grids.reshape(-1, 2)):
    images += resizing(y2 - y1, x2 - x1, grid)
  works = (
    cost.rollout(policy, episodes, sizes, encodes=True),
    cost.update(policy, episodes, sizes, frozen=False),
  )
  return tuple(work.flops + images for work in works)


def build(folder: pathlib.Path, size: str, sizes: dict[str, int]) -> Case:
  """Compiles a case, and checks that every row has all of its crops."""
  asked = problem.make(folder, size, **sizes)
  batch, agent = asked.pack(), asked.agent
  arguments = (asked.params, batch, agent.texts, jax.random.key(0))
  rollout = functools.partial(jax.jit(asked.rollout()), *arguments)
  trajectory = rollout()
  if (jax.device_get(trajectory.crops) != sizes["crops"]).any():
    raise SystemExit(f"{sizes}: not every rollout has made its crops")
  learner = trainer.make_learner(asked.config, agent, sizes["view"])
  state = learner.init(asked.params, 0)
  update = functools.partial(
    jax.jit(learner.update), state, problem.lesson(batch, trajectory)
  )
  jax.block_until_ready(update())
  return Case((rollout, update), operations(asked, trajectory))


def rows_of(
  sweep: str, program: int, seconds: list[float], flops: list[float]
) -> list[str]:
  """A line of the table; growth is over the last raise."""
  grown, due = (pair[-1] / pair[-2] for pair in (seconds, flops))
  return [
    _TITLES[sweep],
    " / ".join(map(str, _SWEEPS[sweep])),
    _PROGRAMS[program],
    " / ".join(f"{s:.2f}" for s in seconds),
    " / ".join(f"{f / 1e9:.1f}" for f in flops),
    f"{grown:.2f}",
    f"{due:.2f}",
  ]


def draw(
  measured: dict[tuple[str, int], tuple[list[float], list[float]]],
  path: pathlib.Path,
) -> None:
  """A panel for each sweep: times over the smallest case's, as by formula.

  Args:
    measured: seconds and operations by sweep and program.
    path: of the figure.
  """
  with matplotlib.rc_context(plots.style(dark=False)):
    figure = matplotlib.figure.Figure((2.3 * len(_SWEEPS), 2.7))
    axes = figure.subplots(1, len(_SWEEPS), sharey=True)
    for axis, (sweep, values) in zip(axes, _SWEEPS.items()):
      for program, colour in enumerate(("#0f766e", "#c2570c")):
        name = _PROGRAMS[program]
        for numbers, line, label in zip(
          measured[sweep, program], ("o-", "--"), (name, f"{name}, by formula")
        ):
          grown = [number / numbers[0] for number in numbers]
          axis.loglog(values, grown, line, color=colour, ms=4, label=label)
      axis.set_title(_TITLES[sweep], loc="left")
      axis.set_xticks(values, map(str, values))
      axis.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
      axis.minorticks_off()
    axes[0].set_ylabel("over the smallest case")
    axes[0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    plots.save(figure, path)


def main() -> None:
  """Measures all sweeps."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--size", choices=problem.SIZES, default="miniature")
  parser.add_argument("--rounds", type=int, default=3)
  default = pathlib.Path(__file__).with_name("scaling.svg")
  parser.add_argument("--output", type=pathlib.Path, default=default)
  given = parser.parse_args()
  config_lib.setup_jax()
  names = {
    (sweep, value): tuple((_BASE | {sweep: value}).values())
    for sweep, values in _SWEEPS.items()
    for value in values
  }
  cases = {}
  for sizes in dict.fromkeys(names.values()):
    cases[sizes] = build(given.workdir, given.size, dict(zip(_BASE, sizes)))
    print("built", dict(zip(_BASE, sizes)), flush=True)
  seconds = measure.alternate(
    {
      (sizes, program): case.run[program]
      for sizes, case in cases.items()
      for program in range(len(_PROGRAMS))
    },
    given.rounds,
    warm=0,
  )
  measured = {}
  for sweep, values in _SWEEPS.items():
    for program in range(len(_PROGRAMS)):
      chosen = [names[sweep, value] for value in values]
      measured[sweep, program] = (
        [seconds[sizes, program] for sizes in chosen],
        [cases[sizes].operations[program] for sizes in chosen],
      )
  head = ["raised", "values", "program", "seconds", "GFLOP by formula"]
  head += ["last growth", "by formula"]
  rows = [rows_of(*key, *numbers) for key, numbers in measured.items()]
  print(measure.table(head, rows))
  draw(measured, given.output)


if __name__ == "__main__":
  main()
