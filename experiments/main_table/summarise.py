r"""The main table over seeds, from what run.sh has left.

  python experiments/main_table/summarise.py --workdir=runs/main \
    --output=experiments/main_table

Means are over the seeds that are there, with Student's t interval over the
seeds; the pretrained policy has no seed, its interval is over questions.
Writes table.md, accuracy.svg and curves.svg.
"""

import pathlib

from absl import app, flags
import matplotlib.figure

from lfpc_jax import config as config_lib
from lfpc_jax import files
from lfpc_jax.evaluation import command, summary
from lfpc_jax.metrics import read_metrics
from lfpc_jax.report import plots
from lfpc_jax.report.results import PolicyResult, paper_table

_WORKDIR = flags.DEFINE_string("workdir", "runs/main", "What run.sh has left.")
_OUTPUT = flags.DEFINE_string("output", "", "Where to write; '' is beside it.")

POLICIES = {
  "pretrained": "pretrained",
  "baseline": "baseline (no gap)",
  "stage1": "+ stage 1",
  "control": "+ more of stage 1, hard",
  "stage2": "+ stage 2",
}
SETTINGS = {
  "easy-16": "Easy scenes, 16 tokens",
  "easy-324": "Easy scenes, 324 tokens",
  "hard-16": "Hard scenes, 16 tokens",
}
_CURVES = ("accuracy", "tool_rate", "box_area", "box_iou", "box_coverage")


def seeds_of(workdir: pathlib.Path) -> list[pathlib.Path]:
  """The seeds' folders, ascending."""
  found = [path for path in workdir.iterdir() if path.name.isdigit()]
  return sorted(found, key=lambda path: int(path.name))


def results_of(
  workdir: pathlib.Path, setting: str
) -> tuple[list[PolicyResult], dict[str, list[float]], int]:
  """Rows of a setting's table, accuracies of each seed, and questions."""
  rows, each, questions = [], {}, 0
  for folder, name in POLICIES.items():
    runs = [workdir] if folder == "pretrained" else seeds_of(workdir)
    places = [run / folder / setting for run in runs]
    places = [p for p in places if (p / "evaluation.json").exists()]
    if not places:
      continue
    found = [command.load_results(place)[1][0] for place in places]
    questions = found[0].accuracy.count
    each[name] = [result.accuracy.mean for result in found]
    label = name if folder == "pretrained" else f"{name} ({len(found)} seeds)"
    rows.append(summary.over_seeds(label, found))
  return rows, each, questions


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


def main(argv: list[str]) -> None:
  """Writes the table and the figures."""
  del argv
  workdir = pathlib.Path(_WORKDIR.value)
  output = pathlib.Path(_OUTPUT.value or workdir)
  parts, shown = [], {}
  for setting, title in SETTINGS.items():
    rows, each, questions = results_of(workdir, setting)
    if rows:
      title = f"{title}; {questions:,} questions"
      caption = (
        "In percent; 95 % confidence intervals over the seeds, of the "
        "pretrained policy over questions."
      )
      parts.append(paper_table(rows, title, caption).to_markdown())
      shown[title] = each
  files.atomic_write(output / "table.md", "\n\n".join(parts).encode())
  draw(shown, output / "accuracy.svg")
  curves = [  # the seeds of a policy share its colour
    curve
    for folder, name in POLICIES.items()
    for seed in seeds_of(workdir)
    if (seed / folder / "metrics.jsonl").exists()
    for curve in plots.curves_from_metrics({name: read_metrics(seed / folder)})
  ]
  if curves:
    plots.learning_curves(curves, output / "curves.svg", quantities=_CURVES)
  print("\n\n".join(parts))


if __name__ == "__main__":
  with config_lib.plain_errors():
    app.run(main)
