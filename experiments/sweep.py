r"""Trains and evaluates every combination of some fields' values.

  python experiments/sweep.py --config=configs/tiny.py:stage1 \
    --workdir=runs/tool_rule --config.seed=0,1,2 \
    --config.reward.tool_rule=none,unconditional,conditional

A field with several values, divided by commas, is swept; a tuple keeps its
commas in brackets: --config.eval.budgets=(16,),(64,). Jobs run one after
another, each in a folder of its own; what is finished is not done again, so
that the same command goes on after an interruption. At the end there is one
table: a row for each combination, means over its seeds. With --print the
commands are printed instead, a line each, for a cluster's launcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import pathlib
import shlex
import subprocess
import sys

import rich.console

from lfpc_jax import config as config_lib
from lfpc_jax import files
from lfpc_jax.arguments import Parser
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import command, runner, summary
from lfpc_jax.report.results import paper_table
from lfpc_jax.report.tables import ResultTable
from lfpc_jax.rl import trainer

_SEED = "seed"


@dataclasses.dataclass(frozen=True)
class Job:
  """One combination: its values by field, and where it runs."""

  values: Mapping[str, str]
  swept: tuple[str, ...]
  """The fields that have several values in the sweep."""
  config: str
  workdir: pathlib.Path

  @property
  def name(self) -> str:
    """What sets it apart, for folders: 'tool_rule=none,seed=1'."""
    return self._named(self.swept) or "run"

  @property
  def row(self) -> str:
    """The same without the seed, for a table's row."""
    return self._named(f for f in self.swept if f != _SEED) or "run"

  def _named(self, fields) -> str:
    return ",".join(f"{f.rpartition('.')[2]}={self.values[f]}" for f in fields)

  @property
  def folder(self) -> pathlib.Path:
    """Where it trains."""
    return self.workdir / self.name

  @property
  def evaluation(self) -> pathlib.Path:
    """Where it is evaluated."""
    return self.folder / "evaluation"

  def commands(self) -> list[list[str]]:
    """Arguments of its training and of its evaluation."""
    flags = [f"--config={self.config}"]
    flags += [f"--config.{f}={value}" for f, value in self.values.items()]
    python = [sys.executable, "-m"]
    return [
      [*python, "lfpc_jax.train", *flags, f"--workdir={self.folder}"],
      [*python, "lfpc_jax.evaluate", *flags]
      + [f"--checkpoint={self.folder}", f"--workdir={self.evaluation}"],
    ]


def split_values(text: str) -> list[str]:
  """Values divided by the commas outside of brackets and quotes."""
  values, depth, quote = [""], 0, ""
  for letter in text:
    if quote:
      quote = "" if letter == quote else quote
    elif letter in "'\"":
      quote = letter
    depth += (not quote) * ((letter in "([{") - (letter in ")]}"))
    if letter == "," and not depth and not quote:
      values.append("")
    else:
      values[-1] += letter
  return values


def make_jobs(
  config: str, flags: Sequence[str], workdir: pathlib.Path
) -> list[Job]:
  """A job for each combination, the last flag's values changing fastest.

  Raises:
    UserError: a flag is no `--config.FIELD=VALUE`, is given twice, names an
      unknown field or has a value of a wrong type, or that training refuses.
  """
  fields: dict[str, list[str]] = {}
  for flag in flags:
    field, equals, text = flag.removeprefix("--config.").partition("=")
    if not flag.startswith("--config.") or not equals:
      raise UserError(f"{flag}: give --config.FIELD=VALUE,VALUE,...")
    if field in fields:
      raise UserError(f"--config.{field} is there twice: join its values")
    fields[field] = split_values(text)
  swept = tuple(f for f, values in fields.items() if len(values) > 1)
  jobs = [
    Job(dict(zip(fields, combination)), swept, config, workdir)
    for combination in itertools.product(*fields.values())
  ]
  for job in jobs:  # all of them before the first starts
    changes = [f"{field}={value}" for field, value in job.values.items()]
    try:
      found = config_lib.freeze(config_lib.load_config(config, changes))
      trainer.check_config(found)
      runner.parse_probes(found.eval.probes)
    except UserError as error:
      raise UserError(f"{job.name}: {error}") from error
  names = [job.name for job in jobs]
  if len(set(names)) < len(names):
    raise UserError("two combinations have the same values: give each once")
  return jobs


def run(jobs: Sequence[Job], console: rich.console.Console) -> None:
  """Runs the jobs one after another.

  Raises:
    UserError: a command failed.
  """
  for number, job in enumerate(jobs, 1):
    console.print(f"[bold]\\[{number}/{len(jobs)}][/bold] {job.name}")
    for arguments in job.commands():
      status = subprocess.run(arguments).returncode
      if status == 130 or status < 0:
        raise SystemExit(130)
      if status:
        raise UserError(
          f"{job.name}: {shlex.join(arguments)} ended with status {status}; "
          "mend it, and the same sweep goes on from there"
        )


def table(jobs: Sequence[Job]) -> ResultTable:
  """One row for each combination, means over its seeds."""
  found: dict[str, list] = {}
  for job in jobs:
    _, results, _ = command.load_results(job.evaluation)
    for result in results:
      found.setdefault((job.row, result.budget), []).append(result)
  rows = [
    summary.over_seeds(row, results) for (row, _), results in found.items()
  ]
  seeds = max(map(len, found.values()))
  return paper_table(
    rows,
    f"Sweep: {len(jobs)} runs, {seeds} for each row",
    "In percent; 95 % confidence intervals over seeds, or over questions where "
    "there is one seed.",
  )


def main(argv: Sequence[str]) -> None:
  """Runs a sweep, or prints its commands."""
  parser = Parser(__doc__)
  parser.add_argument("--config", required=True, help="path.py:variant")
  parser.add_argument("--workdir", required=True, help="where results go")
  parser.add_argument("--print", action="store_true", help="commands only")
  known, flags = parser.parse_known_args(argv)
  with config_lib.plain_errors(known.traceback):
    _sweep(known, flags)


def _sweep(known, flags: Sequence[str]) -> None:
  workdir = pathlib.Path(known.workdir)
  jobs = make_jobs(known.config, flags, workdir)
  if known.print:
    for job in jobs:
      print(" && ".join(shlex.join(arguments) for arguments in job.commands()))
    return
  console = rich.console.Console()
  run(jobs, console)
  result = table(jobs)
  console.print(result)
  files.atomic_write(workdir / "table.md", result.to_markdown().encode())


if __name__ == "__main__":
  main(sys.argv[1:])
