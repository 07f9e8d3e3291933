"""The evaluate command, and the part of it that the demo shares."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from typing import Any

import rich.console

from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax import files, metrics, parallel
from lfpc_jax.data import loader
from lfpc_jax.evaluation import items as items_lib
from lfpc_jax.evaluation import probe_results, summary
from lfpc_jax.evaluation.runner import Runner
from lfpc_jax.models.parameters import params_digest
from lfpc_jax.report import page
from lfpc_jax.report import results as results_lib
from lfpc_jax.report.records import load_records

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "transformers")


def manifest(
  config: Any, name: str, checkpoint: str, digest: str
) -> dict[str, Any]:
  """Every setting that can change a score; `digest` is the parameters'."""
  return {
    "policy": name,
    "checkpoint": checkpoint,
    "parameters": digest,
    "config": json.loads(config_lib.config_json(config)),
    "python": platform.python_version(),
    "versions": {p: importlib.metadata.version(p) for p in _PACKAGES},
  }


def evaluate_into(
  folder: pathlib.Path,
  config: Any,
  runner: Runner,
  name: str,
  checkpoint: str,
) -> None:
  """Evaluates a policy into a folder, unless it is there already."""
  # A run's directory may hold a later step than it did last time.
  params = agent_lib.load_params(runner.agent, checkpoint)
  wanted = manifest(config, name, checkpoint, params_digest(params))
  done = folder / "evaluation.json"
  if done.exists():
    stored = json.loads(done.read_text())
    if all(stored.get(key) == value for key, value in wanted.items()):
      return
  with files.locked(folder, enabled=parallel.is_first()):
    _evaluate_into(folder, config, runner, name, params, wanted)


def _evaluate_into(folder, config, runner, name, params, wanted) -> None:
  source = loader.open_data(config.data, config.eval.split)
  # By key: `config.eval.items` is the mapping's method.
  examples = loader.first(source, config.eval["items"], "eval.items")
  total = runner.batches(len(examples))
  with metrics.Progress(f"evaluate {name}", total) as progress:
    found = runner.run(name, params, examples, progress.update)
  if parallel.is_first():
    found.save(folder, wanted)


def load_results(folder: pathlib.Path):
  """(rows, results, records) of a folder that `evaluate_into` filled."""
  content = json.loads((folder / "evaluation.json").read_text())
  rows = items_lib.load_items(folder / "items.jsonl")
  times = content["seconds_per_question"]
  seconds = {int(budget): time for budget, time in times.items()}
  results = summary.summarise(content["policy"], rows, seconds)
  return rows, results, load_records(folder / "records.jsonl")


def evaluate(config: Any, folder: pathlib.Path, checkpoint: str) -> None:
  """The command: evaluates, prints tables, writes a page."""
  checkpoint = checkpoint or config.policy.checkpoint
  name = config.name if checkpoint else "pretrained"
  evaluate_into(folder, config, Runner(config), name, checkpoint)
  if not parallel.is_first():
    return
  rows, results, records = load_results(folder)
  tables = [
    results_lib.paper_table(results),
    probe_results.probe_table(probe_results.measure(name, rows)),
    summary.category_table({name: rows}),
  ]
  console = rich.console.Console()
  for table in tables:
    console.print(table)
  path = folder / "report.html"
  page.write_page(path, f"Evaluation of {name}", tables, (), records)
  console.print(f"report: {path}")
