r"""An experiment's tables and figures over seeds, from what its run.sh left.

  python experiments/summarise.py --experiment=experiments/main_table \
    --workdir=runs/main

The experiment's table.toml names the folders. Means are over the seeds that
are there, with Student's t interval over the seeds; the pretrained policy has
no seed, its interval is over questions. A last table has the differences of
policies within each seed. Writes table.md, accuracy.svg and curves.svg.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import pathlib
import sys
import tomllib

import matplotlib.figure

from lfpc_jax import config as config_lib
from lfpc_jax import files, statistics
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import command, summary
from lfpc_jax.metrics import read_metrics
from lfpc_jax.report import plots
from lfpc_jax.report.results import PolicyResult, paper_table
from lfpc_jax.report.tables import Column, ResultTable

_PRETRAINED = "pretrained"
_COMPARED = ("accuracy", "noise_drop", "coverage", "iou", "area")
_CAPTION = (
  "In percent; 95 % confidence intervals over the seeds, of the pretrained "
  "policy over questions."
)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What table.toml says of the folders WORKDIR/SEED/POLICY/SETTING."""

  policies: dict[str, str]
  """Names of the policies by folder; 'pretrained' lies beside the seeds."""
  settings: dict[str, str]
  """Titles of the evaluations by folder."""
  differences: list[tuple[str, ...]]
  """Better, worse, setting, and the worse one's setting if it is another."""
  curves: list[str]
  """Training metrics to draw."""


def read_experiment(folder: pathlib.Path) -> Experiment:
  """Reads table.toml.

  Raises:
    UserError: there is none, or it names a folder that it does not describe.
  """
  path = folder / "table.toml"
  try:
    found = Experiment(**tomllib.loads(path.read_text("utf-8")))
  except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
    raise UserError(f"{path}: no experiment's table: {error}") from error
  for better, worse, *settings in found.differences:
    if not {better, worse} <= found.policies.keys() or not (
      set(settings) <= found.settings.keys()
    ):
      places = ", ".join(settings)
      raise UserError(f"{path}: {better} - {worse}, {places}: unknown names")
  return found


def seeds_of(workdir: pathlib.Path) -> list[pathlib.Path]:
  """The seeds' folders, ascending."""
  if not workdir.is_dir():
    raise UserError(f"{workdir} is no folder: give --workdir what run.sh had")
  found = [path for path in workdir.iterdir() if path.name.isdigit()]
  return sorted(found, key=lambda path: int(path.name))


def _result(place: pathlib.Path) -> PolicyResult | None:
  """An evaluation at one budget, if it is there and finished."""
  if not (place / "evaluation.json").exists():
    return None
  return command.load_results(place)[1][0]


def results_of(
  experiment: Experiment, workdir: pathlib.Path, setting: str
) -> tuple[list[PolicyResult], dict[str, list[float]], int]:
  """Rows of a setting's table, accuracies of each seed, and questions."""
  rows, each, questions = [], {}, 0
  for folder, name in experiment.policies.items():
    runs = [workdir] if folder == _PRETRAINED else seeds_of(workdir)
    found = [_result(run / folder / setting) for run in runs]
    found = [result for result in found if result]
    if not found:
      continue
    questions = found[0].accuracy.count
    each[name] = [result.accuracy.mean for result in found]
    label = name if folder == _PRETRAINED else f"{name} ({len(found)} seeds)"
    rows.append(summary.over_seeds(label, found))
  return rows, each, questions


def difference_table(
  experiment: Experiment, workdir: pathlib.Path
) -> ResultTable | None:
  """What one policy has over another, seed by seed: mean and t interval."""
  rows = []
  for better, worse, *settings in experiment.differences:
    places = (better, settings[0]), (worse, settings[-1])
    pairs = [
      [_result(run / folder / setting) for folder, setting in places]
      for run in seeds_of(workdir)
    ]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
      continue
    cells = []
    for field in _COMPARED:
      values = [[getattr(result, field) for result in pair] for pair in pairs]
      known = [(a.mean, b.mean) for a, b in values if a and b]
      cells.append(
        statistics.mean_over_seeds([a - b for a, b in known]) if known else None
      )
    names = experiment.policies[better], experiment.policies[worse]
    label = f"({names[0]}) - ({names[1]}), {len(pairs)} seeds"
    views = " - ".join(experiment.settings[name] for name in settings)
    rows.append((f"{label}: {views}", tuple(cells)))
  columns = tuple(Column(f.replace("_", " "), scale=100) for f in _COMPARED)
  if not rows:
    return None
  return ResultTable(
    "Differences, seed by seed",
    columns,
    tuple(rows),
    "In points of percent, with 95 % intervals over the seeds.",
  )


def draw(settings: dict[str, dict[str, list[float]]], path: pathlib.Path):
  """Accuracy of each seed, a panel for each setting."""
  with matplotlib.rc_context(plots.style(dark=False)):
    figure = matplotlib.figure.Figure((3.2 * len(settings), 2.6))
    for axis, (title, each) in zip(
      figure.subplots(1, len(settings), squeeze=False)[0], settings.items()
    ):
      for place, values in enumerate(each.values()):
        axis.plot([place] * len(values), [100 * v for v in values], "o", ms=5)
      axis.set_xticks(range(len(each)), each, rotation=20, ha="right")
      axis.set_title(title, loc="left")
      axis.set_ylim(0, 100)
      axis.set_ylabel("accuracy, %")
    figure.tight_layout()
    plots.save(figure, path)


def write(
  folder: pathlib.Path, workdir: pathlib.Path, output: pathlib.Path
) -> str:
  """Writes the tables and the figures; gives the tables' text.

  Raises:
    UserError: nothing is there yet.
  """
  experiment = read_experiment(folder)
  parts, shown = [], {}
  for setting, title in experiment.settings.items():
    rows, each, questions = results_of(experiment, workdir, setting)
    if rows:
      title = f"{title}; {questions:,} questions"
      parts.append(paper_table(rows, title, _CAPTION))
      shown[title] = each
  if not parts:
    raise UserError(f"{workdir}: no finished evaluation is there")
  parts += [t for t in [difference_table(experiment, workdir)] if t]
  text = "\n\n".join(part.to_markdown() for part in parts)
  files.atomic_write(output / "table.md", text.encode())
  draw(shown, output / "accuracy.svg")
  curves = [  # the seeds of a policy share its colour
    curve
    for policy, name in experiment.policies.items()
    for seed in seeds_of(workdir)
    if (seed / policy / "metrics.jsonl").exists()
    for curve in plots.curves_from_metrics({name: read_metrics(seed / policy)})
  ]
  if curves:
    plots.learning_curves(
      curves, output / "curves.svg", quantities=tuple(experiment.curves)
    )
  return text


def main(argv: Sequence[str]) -> None:
  """Writes the tables and the figures."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--experiment", required=True, help="has table.toml")
  parser.add_argument("--workdir", required=True, help="what run.sh has left")
  parser.add_argument("--output", help="where to write; else the experiment")
  known = parser.parse_args(argv)
  places = known.experiment, known.workdir, known.output or known.experiment
  print(write(*map(pathlib.Path, places)))


if __name__ == "__main__":
  with config_lib.plain_errors():
    main(sys.argv[1:])
