"""The whole way at small scale: both stages, evaluation, a report.

  python -m lfpc_jax.demo --workdir=runs/demo

Builds the embedded data set, trains the miniature policy without the gap
(baseline), with it (stage 1) and with the grounding reward (stage 2), and
evaluates all of them on held-out scenes. Interrupted at any moment and started
again, it goes on; what is finished is not done again.
"""

from collections.abc import Iterator
import contextlib
import itertools
import pathlib
import sys

from absl import app, flags
import rich.console

from lfpc_jax import config as config_lib
from lfpc_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Where results go.")
_QUICK = flags.DEFINE_bool(
  "quick", False, "Toy sizes, to try the way and not the result."
)
_CONFIG = "configs/tiny.py"
DIFFICULTIES = ("easy", "hard")
# Difficulty, visual tokens, questions and how many at a time: what fits into
# minutes on two cores.
_EVALUATIONS = (
  ("easy", 16, 384, 128),
  ("easy", 324, 64, 64),
  ("hard", 16, 384, 128),
)
_PROBES = "eval.probes=('truth','noise')"
# The page shows the grounding reward of every policy, earned or not.
_SHOWN = "reward.geo_weight=1"
_QUICK_CHANGES = (
  "rollout.prompts=4",
  "rollout.group=2",
  "train.steps=2",
  "eval.items=8",
  "eval.batch=4",
  "eval.records=2",
  "checkpoint.every=1",
)


def load(variant: str, workdir: pathlib.Path, quick: bool, *changes: str):
  """A variant of configs/tiny.py with the demo's directories."""
  changes = (f"data.dir={workdir / 'data'}", *changes)
  if quick:
    changes += _QUICK_CHANGES
  config = config_lib.load_config(f"{_CONFIG}:{variant}", changes)
  return config_lib.freeze(config)


@contextlib.contextmanager
def _remedy(workdir: pathlib.Path) -> Iterator[None]:
  """Adds to an error what helps here, where directories are not a choice."""
  try:
    yield
  except UserError as error:
    raise UserError(
      f"{error} (or begin the demonstration again: remove {workdir})"
    ) from error


def train_all(workdir: pathlib.Path, quick: bool, say) -> None:
  """Trains baseline, stage 1, and stage 2 from stage 1's policy."""
  from lfpc_jax.rl.trainer import Trainer

  for variant in ("baseline", "stage1", "stage2"):
    say(f"training: {variant}")
    start = f"policy.checkpoint={workdir / 'stage1'}"
    changes = (start,) if variant == "stage2" else ()
    config = load(variant, workdir, quick, *changes)
    with _remedy(workdir):
      state = Trainer(config, workdir / variant).run()
    if state is None:
      raise SystemExit(130)


def evaluate_all(workdir: pathlib.Path, quick: bool, say) -> None:
  """Evaluates every policy on easy and on hard held-out scenes."""
  from lfpc_jax.evaluation import command
  from lfpc_jax.evaluation.runner import Runner

  runners = {}  # one for each budget: its program serves both difficulties
  for difficulty, budget, items, size in _EVALUATIONS:
    changes = (f"data.difficulty={difficulty}", _PROBES, _SHOWN)
    changes += (f"eval.budgets=({budget},)", f"eval.items={items}")
    changes += (f"eval.batch={size}",)
    config = load("stage1", workdir, quick, *changes)
    if budget not in runners:
      runners[budget] = Runner(config)
    for name, folder in POLICIES.items():
      say(f"evaluation on {difficulty} scenes at {budget} tokens: {name}")
      checkpoint = str(workdir / folder) if folder else ""
      with _remedy(workdir):
        command.evaluate_into(
          _evaluation(workdir, difficulty, budget, name),
          config,
          runners[budget],
          name,
          checkpoint,
        )


POLICIES = {
  "pretrained": "",
  "baseline (no gap)": "baseline",
  "+ stage 1": "stage1",
  "+ stage 2": "stage2",
}
"""Names for a reader, and the run of each."""


def _evaluation(workdir: pathlib.Path, difficulty: str, budget: int, name: str):
  folder = POLICIES[name] or "pretrained"
  return workdir / "evaluation" / f"{difficulty}-{budget}" / folder


def report(workdir: pathlib.Path, console: rich.console.Console) -> None:
  """Prints the tables and writes the page."""
  from lfpc_jax.evaluation import command, probe_results, summary
  from lfpc_jax.metrics import read_metrics
  from lfpc_jax.report import page, plots, results

  tables, shown = [], []
  for difficulty in DIFFICULTIES:
    found, by_policy = [], {name: [] for name in POLICIES}
    budgets = [budget for d, budget, *_ in _EVALUATIONS if d == difficulty]
    for name, budget in itertools.product(POLICIES, budgets):
      folder = _evaluation(workdir, difficulty, budget, name)
      rows, of_policy, records = command.load_results(folder)
      by_policy[name] += rows
      found += of_policy
      shown += records
    title = f"Held-out {difficulty} scenes"
    tables.append(results.paper_table(found, title))
    probed = [
      result
      for name, rows in by_policy.items()
      for result in probe_results.measure(name, rows)
    ]
    tables.append(probe_results.probe_table(probed, f"{title}: probes"))
    tables.append(summary.category_table(by_policy))
  for table in tables:
    console.print(table)
  curves = plots.curves_from_metrics(
    {v: read_metrics(workdir / v) for v in ("baseline", "stage1", "stage2")}
  )
  # Alarms that were never on would be charts of nothing.
  curves = [curve for curve in curves if any(curve.values)]
  path = workdir / "report.html"
  page.write_page(path, "A small policy learns to look", tables, curves, shown)
  console.print(f"report: {path.resolve().as_uri()}", soft_wrap=True)


def main(argv: list[str]) -> None:
  """Runs all parts in order; each skips what is done."""
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}: flags begin with --")
  workdir, quick = pathlib.Path(_WORKDIR.value), _QUICK.value
  console = rich.console.Console()
  config_lib.setup_jax()
  from lfpc_jax.data import scenes

  parts = iter(range(1, 100))
  total = len(DIFFICULTIES) + 3 + len(_EVALUATIONS) * len(POLICIES)

  def say(text: str) -> None:
    console.print(f"[bold]\\[{next(parts)}/{total}][/bold] {text}")

  for difficulty in DIFFICULTIES:
    say(f"data: {difficulty} scenes")
    scenes.prepare(str(workdir / "data"), difficulty)
  train_all(workdir, quick, say)
  evaluate_all(workdir, quick, say)
  report(workdir, console)


if __name__ == "__main__":
  flags.DEFINE_bool("traceback", False, "Show where an error came from.")
  with config_lib.plain_errors("--traceback" in sys.argv):
    app.run(main, flags_parser=config_lib.parse_flags)
