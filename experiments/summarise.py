r"""An experiment's tables and figures over seeds, from what its run.sh left.

  python experiments/summarise.py --experiment=experiments/main_table \
    --workdir=runs/main

The experiment's table.toml names the folders. Means are over the seeds that
are there, with Student's t interval over the seeds; the pretrained policy has
no seed, its interval is over questions. Beside each table stands what the
probes change; a last one has the differences of policies within each seed.
Writes table.md, accuracy.svg, curves.svg and, where table.toml asks for it,
budgets.svg: accuracy over the budget, and over the time that it takes.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import pathlib
import sys
import tomllib

import matplotlib.figure
import matplotlib.ticker

from lfpc_jax import config as config_lib
from lfpc_jax import files, statistics
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import command, probe_results, summary
from lfpc_jax.evaluation.probe_results import ProbeResult
from lfpc_jax.metrics import read_metrics
from lfpc_jax.report import plots
from lfpc_jax.report.results import PolicyResult, paper_table
from lfpc_jax.report.tables import Column, ResultTable

_PRETRAINED = "pretrained"
_COMPARED = {  # attributes of an evaluation's result, or probes
  "accuracy": "accuracy",
  "noise_drop": "noise drop",
  "truth_gain": "truth gain",
  "blank": "blank drop",
  "other": "other region's drop",
  "coverage": "coverage",
  "iou": "IoU",
  "area": "area",
}
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
  over_budget: dict[str, list[str]] | None = None
  """Policies and settings of which budgets.svg draws a line each and a point
  each."""


@dataclasses.dataclass(frozen=True)
class Found:
  """A finished evaluation at one budget."""

  result: PolicyResult
  probes: dict[str, ProbeResult]

  def value(self, name: str) -> float | None:
    """The mean of what _COMPARED names; probes as what they take away."""
    if name in probe_results.NAMES:
      probe = self.probes.get(name)
      return probe and -probe.difference.mean
    estimate = getattr(self.result, name)
    return estimate and estimate.mean


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
  for field, names in (found.over_budget or {}).items():
    known = vars(found).get(field, {})
    if field == "curves" or not set(names) <= set(known):
      raise UserError(f"{path}: over_budget.{field} has unknown names")
  return found


def seeds_of(workdir: pathlib.Path) -> list[pathlib.Path]:
  """The seeds' folders, ascending."""
  if not workdir.is_dir():
    raise UserError(f"{workdir} is no folder: give --workdir what run.sh had")
  found = [path for path in workdir.iterdir() if path.name.isdigit()]
  return sorted(found, key=lambda path: int(path.name))


def _found(place: pathlib.Path) -> Found | None:
  """An evaluation, if it is there and finished."""
  if not (place / "evaluation.json").exists():
    return None
  rows, results, _ = command.load_results(place)
  probes = probe_results.measure("", rows)
  return Found(results[0], {probe.probe: probe for probe in probes})


def evaluations(
  workdir: pathlib.Path, policy: str, setting: str
) -> list[Found]:
  """A policy's evaluations, one for each seed that has it."""
  runs = [workdir] if policy == _PRETRAINED else seeds_of(workdir)
  found = [_found(run / policy / setting) for run in runs]
  return [one for one in found if one]


def _named(policy: str, name: str, found: Sequence[Found]) -> str:
  return name if policy == _PRETRAINED else f"{name} ({len(found)} seeds)"


def results_of(
  experiment: Experiment, workdir: pathlib.Path, setting: str
) -> tuple[list[PolicyResult], dict[str, list[float]], int]:
  """Rows of a setting's table, accuracies of each seed, and questions."""
  rows, each, questions = [], {}, 0
  for policy, name in experiment.policies.items():
    found = evaluations(workdir, policy, setting)
    if not found:
      continue
    results = [one.result for one in found]
    questions = results[0].accuracy.count
    each[name] = [result.accuracy.mean for result in results]
    rows.append(summary.over_seeds(_named(policy, name, found), results))
  return rows, each, questions


def probe_table(
  experiment: Experiment, workdir: pathlib.Path, setting: str
) -> ResultTable | None:
  """What each probe changes in a setting; None if nothing was probed."""
  rows = []
  for policy, name in experiment.policies.items():
    found = evaluations(workdir, policy, setting)
    for probe in probe_results.NAMES:
      own = [one.probes[probe] for one in found if probe in one.probes]
      if own and len(own) == len(found):
        rows.append(_over_seeds(_named(policy, name, found), own))
  if not rows:
    return None
  title = f"{experiment.settings[setting]}: probes"
  table = probe_results.probe_table(rows, title)
  return dataclasses.replace(
    table, caption=f"{table.caption} Of several seeds, over the seeds."
  )


def _over_seeds(name: str, found: Sequence[ProbeResult]) -> ProbeResult:
  """One row of several seeds; a single seed's interval is over questions."""
  left_out = max(one.left_out for one in found)
  fields = {
    field: getattr(found[0], field)
    if len(found) == 1
    else statistics.mean_over_seeds([getattr(one, field).mean for one in found])
    for field in ("accuracy", "without", "difference")
  }
  return dataclasses.replace(found[0], policy=name, left_out=left_out, **fields)


def difference_table(
  experiment: Experiment, workdir: pathlib.Path
) -> ResultTable | None:
  """What one policy has over another, seed by seed: mean and t interval."""
  rows = []
  for better, worse, *settings in experiment.differences:
    places = (better, settings[0]), (worse, settings[-1])
    pairs = [
      [_found(run / folder / setting) for folder, setting in places]
      for run in seeds_of(workdir)
    ]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
      continue
    names = experiment.policies[better], experiment.policies[worse]
    label = f"({names[0]}) - ({names[1]}), {len(pairs)} seeds"
    views = " - ".join(experiment.settings[name] for name in settings)
    cells = [_difference(pairs, field) for field in _COMPARED]
    rows.append((f"{label}: {views}", cells))
  if not rows:
    return None
  shown = [k for k in range(len(_COMPARED)) if any(row[1][k] for row in rows)]
  titles = list(_COMPARED.values())
  return ResultTable(
    "Differences, seed by seed",
    tuple(Column(titles[k], scale=100) for k in shown),
    tuple((label, tuple(cells[k] for k in shown)) for label, cells in rows),
    "In points of percent, with 95 % intervals over the seeds.",
  )


def _difference(
  pairs: Sequence[Sequence[Found]], field: str
) -> statistics.Estimate | None:
  values = [[one.value(field) for one in pair] for pair in pairs]
  known = [a - b for a, b in values if None not in (a, b)]
  return statistics.mean_over_seeds(known) if known else None


def draw(
  settings: dict[str, dict[str, list[float]]],
  path: pathlib.Path,
  columns: int = 3,
) -> None:
  """Accuracy of each seed, a panel for each setting."""
  columns = min(columns, len(settings))
  rows = -(-len(settings) // columns)
  with matplotlib.rc_context(plots.style(dark=False)):
    figure = matplotlib.figure.Figure((3.2 * columns, 2.6 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, each) in zip(axes, settings.items()):
      for place, values in enumerate(each.values()):
        axis.plot([place] * len(values), [100 * v for v in values], "o", ms=5)
      axis.set_xticks(range(len(each)), each, rotation=20, ha="right")
      axis.set_title(title, loc="left")
      axis.set_ylim(0, 100)
      axis.set_ylabel("accuracy, %")
    for axis in axes[len(settings) :]:
      axis.remove()
    figure.tight_layout()
    plots.save(figure, path)


def lines_over_budget(
  experiment: Experiment, workdir: pathlib.Path
) -> dict[str, list[PolicyResult]]:
  """By policy its results, the smallest budget first; those that are there."""
  lines = {}
  for policy in experiment.over_budget["policies"]:
    name = experiment.policies[policy]
    for setting in experiment.over_budget["settings"]:
      if found := evaluations(workdir, policy, setting):
        results = [one.result for one in found]
        row = summary.over_seeds(_named(policy, name, found), results)
        lines.setdefault(name, []).append(row)
  by_budget = lambda result: result.budget
  return {name: sorted(line, key=by_budget) for name, line in lines.items()}


def draw_over_budget(
  lines: dict[str, list[PolicyResult]], path: pathlib.Path
) -> None:
  """Accuracy over the budget, and over seconds a question, both logarithmic.

  Points over seconds bear their budget.
  """
  with matplotlib.rc_context(plots.style(dark=False)):
    figure = matplotlib.figure.Figure((7.2, 3.0))
    budgets, seconds = figure.subplots(1, 2)
    for style, (name, line) in zip(("o--", "o-", "o:", "o-."), lines.items()):
      _line(budgets, style, name, [(row.budget, row) for row in line])
      timed = [(row.seconds.mean, row) for row in line if row.seconds]
      _line(seconds, style, name, timed)
      for place, row in timed:
        seconds.annotate(
          str(row.budget),
          (place, 100 * row.accuracy.mean),
          xytext=(4, 4),
          textcoords="offset points",
        )
    known = sorted({row.budget for line in lines.values() for row in line})
    budgets.set_xticks(known, list(map(str, known)))
    budgets.set_xlabel("visual tokens of the global view")
    seconds.set_xlabel("seconds a question")
    ticker = matplotlib.ticker
    seconds.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    seconds.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    budgets.legend(frameon=False)
    figure.tight_layout()
    plots.save(figure, path)


def _line(axis, style, name, points) -> None:
  """Accuracy with its interval, over places on a logarithmic axis."""
  places = [place for place, _ in points]
  found = [row.accuracy for _, row in points]
  axis.plot(places, [100 * a.mean for a in found], style, ms=4, label=name)
  lows, highs = [100 * a.low for a in found], [100 * a.high for a in found]
  axis.vlines(places, lows, highs, lw=0.8)
  axis.set_xscale("log")
  axis.minorticks_off()
  axis.set_ylim(0, 100)
  axis.set_ylabel("accuracy, %")


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
      parts += [t for t in [probe_table(experiment, workdir, setting)] if t]
      shown[title] = each
  if not parts:
    raise UserError(f"{workdir}: no finished evaluation is there")
  parts += [t for t in [difference_table(experiment, workdir)] if t]
  text = "\n\n".join(part.to_markdown() for part in parts)
  files.atomic_write(output / "table.md", text.encode())
  draw(shown, output / "accuracy.svg")
  if experiment.over_budget:
    lines = lines_over_budget(experiment, workdir)
    draw_over_budget(lines, output / "budgets.svg")
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
