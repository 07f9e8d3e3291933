"""The experiments' scripts; a stand-in for Python keeps notes alone."""

import pathlib
import subprocess
import sys

import pytest

from tests import scripts

summarise = scripts.load("experiments/summarise.py")
AFTER_MAIN = ("gap", "grounding", "tool_rule")

# Trains and evaluates as the programs do, from folder to folder: what a run
# goes on from has to be there, and what is evaluated must have been trained.
STAND_IN = """
import pathlib, sys
flags = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[3:])
program, place = sys.argv[2], pathlib.Path(flags.get("workdir", "."))
start = flags.get("config.policy.checkpoint") or flags.get("checkpoint")
if start and not (pathlib.Path(start) / "trained").exists():
  sys.exit(f"{start} has not been trained")
if program == "lfpc_jax.data.scenes":
  pathlib.Path(flags["data_dir"], flags["difficulty"]).mkdir(
    parents=True, exist_ok=True
  )
  sys.exit()
if not pathlib.Path(flags["config.data.dir"], "hard").is_dir():
  sys.exit("no data")
place.mkdir(parents=True, exist_ok=True)
done = {"lfpc_jax.train": "trained", "lfpc_jax.evaluate": "evaluation.json"}
if program == "lfpc_jax.select_gap":
  pathlib.Path(flags["config.gap.file"]).touch()
elif flags.get("config.gap.mode") == "selected":
  if not pathlib.Path(flags["config.gap.file"]).exists():
    sys.exit("nothing selected")
if program in done:
  (place / done[program]).touch()
with open(sys.argv[0] + ".log", "a") as log:
  print(program, place.resolve(), file=log)
"""


@pytest.fixture
def run(tmp_path):
  """Runs an experiment's script; gives the folders that it has trained in."""
  stand_in = tmp_path / "stand_in.py"
  stand_in.write_text(STAND_IN)

  def call(name, *arguments):
    log = pathlib.Path(f"{stand_in}.log")
    log.unlink(missing_ok=True)
    subprocess.run(
      ["sh", f"experiments/{name}/run.sh", *map(str, arguments)],
      cwd=scripts.ROOT,
      env={"PYTHON": f"{sys.executable} {stand_in}", "PATH": "/usr/bin:/bin"},
      check=True,
    )
    lines = [line.split() for line in log.read_text().splitlines()]
    return [
      pathlib.Path(place).relative_to(tmp_path).as_posix()
      for program, place in lines
      if program == "lfpc_jax.train"
    ]

  return call


def _needed(name):
  """Evaluations that a table names, {seed} left open."""
  found = summarise.read_experiment(scripts.ROOT / "experiments" / name)
  for better, worse, *settings in found.differences:
    yield f"{{seed}}/{better}/{settings[0]}"
    yield f"{{seed}}/{worse}/{settings[-1]}"
  for policy in (found.over_budget or {}).get("policies", ()):
    for setting in found.over_budget["settings"]:
      seed = "" if policy == "pretrained" else "{seed}/"
      yield f"{seed}{policy}/{setting}"


def _check(name, workdir, seeds=(3, 5)):
  for place in _needed(name):
    for seed in seeds:
      folder = workdir / place.format(seed=seed)
      assert (folder / "evaluation.json").exists(), folder


def test_the_main_table_makes_all_that_its_table_names(run, tmp_path):
  trained = run("main_table", tmp_path / "main", 3, 5)
  _check("main_table", tmp_path / "main")
  assert len(trained) == len(set(trained)) == 8


@pytest.mark.parametrize("name", AFTER_MAIN)
def test_an_experiment_runs_from_a_clean_checkout(name, run, tmp_path):
  trained = run(name, tmp_path / "main", tmp_path / "other", 3, 5)
  _check(name, tmp_path / "other")
  assert len(trained) == len(set(trained))


@pytest.mark.parametrize(
  "name, own", [("gap", 5), ("grounding", 5), ("tool_rule", 5)]
)
def test_what_the_main_table_has_is_not_trained_again(name, own, run, tmp_path):
  run("main_table", tmp_path / "main", 3)
  trained = run(name, tmp_path / "main", tmp_path / "other", 3)
  assert len(trained) == own
  assert not {"main/3/stage1", "main/3/baseline"} & set(trained)


def test_the_gap_of_36_tokens_is_trained_once_for_two_experiments(
  run, tmp_path
):
  run("gap", tmp_path / "main", tmp_path / "gap", 3)
  trained = run("tool_rule", tmp_path / "main", tmp_path / "rule", 3)
  assert trained == [
    f"rule/3/{rule}-{tokens}"
    for tokens in (36, 324)
    for rule in ("none", "unconditional")
  ]
