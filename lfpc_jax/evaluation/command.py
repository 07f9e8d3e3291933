"""The evaluate command, and the part of it that the demo shares."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import json
import pathlib
from typing import Any

import rich.console

from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax import files, metrics, parallel
from lfpc_jax.data import described, loader
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import benchmark, entries, probe_results, summary
from lfpc_jax.evaluation import items as items_lib
from lfpc_jax.evaluation import manifest as manifest_lib
from lfpc_jax.evaluation.outcome import Evaluation
from lfpc_jax.evaluation.runner import Runner
from lfpc_jax.journal import Journal
from lfpc_jax.report import page
from lfpc_jax.report import results as results_lib
from lfpc_jax.report.records import load_records

JOURNAL = "journal.jsonl"  # of a run that has not ended
CONFIG = "evaluate.json"  # in the workdir
# Of evaluation.json: what was found, beside the settings.
_FOUND = ("seconds_per_question", "compile_seconds", "data_wait_seconds")


def evaluate_into(
  folder: pathlib.Path,
  config: Any,
  runner: Runner,
  name: str,
  checkpoint: str,
) -> None:
  """Evaluates a policy into a folder, unless it is there already.

  A run that was killed goes on from its journal in the folder. What has ended
  counts as there if the code alone has changed since; its manifest says which
  code it was.

  Raises:
    UserError: the journal is of another evaluation.
  """
  # A run's directory may hold a later step than it did last time.
  params = agent_lib.load_params(runner.agent, checkpoint)
  examples = open_questions(config)
  wanted = manifest_lib.make(
    config, runner.agent, name, checkpoint, params, examples
  )
  done = folder / "evaluation.json"
  if done.exists():
    stored = _read(done)
    settings = [name for name in wanted if name != "code"]
    if all(stored.get(name) == wanted[name] for name in settings):
      if parallel.is_first():  # a kill may have come between the two
        (folder / JOURNAL).unlink(missing_ok=True)
      return
  with files.locked(folder, enabled=parallel.is_first()):
    with contextlib.ExitStack() as stack:
      journal = None
      if parallel.is_first():
        journal = Journal(folder / JOURNAL, wanted, "evaluation")
        stack.enter_context(journal)
        # Now that nothing else lies here.
        config_lib.write_config(config, folder, CONFIG)
      notes = described.notes(question_data(config), config.eval.split)
      found = _evaluate(runner, name, params, examples, journal, notes)
    if parallel.is_first():
      found.save(folder, wanted)
      (folder / JOURNAL).unlink()


def question_data(config: Any) -> dict[str, Any]:
  """The config's data section, of which an evaluation draws nothing."""
  return {**config.data, "mix": ()}


def open_questions(config: Any) -> Sequence[Example]:
  """The questions that a config's eval section names."""
  source = loader.open_data(question_data(config), config.eval.split)
  # By key: `config.eval.items` is the mapping's method.
  return loader.first(source, config.eval["items"], "eval.items")


def _evaluate(runner, name, params, examples, journal, notes) -> Evaluation:
  """Goes on from the journal; it is None but in the first process."""
  known = parallel.gather(journal.entries if journal else [])
  known = [entries.unpack(values) for values in known]
  parts = runner.cut(examples)
  total, start = runner.calls(len(parts)), len(known) * len(runner.probes)

  def keep(entry):
    if journal:
      journal.add(entries.pack(entry))

  notes = [*notes, runner.check(examples), runner.unshared(examples)]
  with metrics.Progress(f"evaluate {name}", total, start=start) as progress:
    for note in filter(None, notes):
      progress.log(note)
    return runner.run(
      name, params, examples, progress.update, parts, known, keep
    )


def _read(path: pathlib.Path) -> dict[str, Any]:
  """The settings of an evaluation that has ended."""
  try:
    return dict(json.loads(path.read_text()))
  except (ValueError, TypeError) as error:
    raise UserError(
      f"{path} is damaged ({error}): remove it to evaluate again, or give "
      "another --workdir"
    ) from error


def load_results(folder: pathlib.Path):
  """(rows, results, records) of a folder that `evaluate_into` filled."""
  content = json.loads((folder / "evaluation.json").read_text())
  rows = items_lib.load_items(folder / "items.jsonl")
  times = [
    {int(budget): time for budget, time in content.get(name, {}).items()}
    for name in ("seconds_per_question", "compile_seconds")
  ]
  results = summary.summarise(content["policy"], rows, *times)
  return rows, results, load_records(folder / "records.jsonl")


def evaluate(config: Any, folder: pathlib.Path, checkpoint: str) -> None:
  """The command: evaluates, prints tables, writes a page."""
  checkpoint = checkpoint or config.policy.checkpoint
  trained = config.name or pathlib.Path(checkpoint).name
  name = trained if checkpoint else "pretrained"
  evaluate_into(folder, config, Runner(config), name, checkpoint)
  if not parallel.is_first():
    return
  rows, results, records = load_results(folder)
  about = _read(folder / "evaluation.json")
  settings = {k: v for k, v in about.items() if k not in _FOUND}
  questions = open_questions(config)
  tables = [
    *benchmark.evaluate(config, folder, settings, rows, questions, results),
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
