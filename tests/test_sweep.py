"""A sweep: which jobs, in which folders, and one table at the end."""

import pathlib
import subprocess

import pytest

from lfpc_jax.errors import UserError
from tests import scripts
from tests.evaluation import made_up

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "tiny.py") + ":stage1"


sweep = scripts.load("experiments/sweep.py")
FLAGS = (
  "--config.reward.tool_rule=none,conditional",
  "--config.train.steps=3",
  "--config.seed=0,1",
)


@pytest.mark.parametrize(
  "text, values",
  [
    ("1", ["1"]),
    ("64,256,1024", ["64", "256", "1024"]),
    ("(16,),(64,324)", ["(16,)", "(64,324)"]),
    ("'a,b',[1,(2,3)]", ["'a,b'", "[1,(2,3)]"]),
  ],
)
def test_commas_in_brackets_and_quotes_divide_nothing(text, values):
  assert sweep.split_values(text) == values


def test_every_combination_is_a_job_with_its_own_folder(tmp_path):
  jobs = sweep.make_jobs(CONFIG, FLAGS, tmp_path)
  assert [job.name for job in jobs] == [
    "tool_rule=none,seed=0",
    "tool_rule=none,seed=1",
    "tool_rule=conditional,seed=0",
    "tool_rule=conditional,seed=1",
  ]
  assert [job.row for job in jobs[1:3]] == [
    "tool_rule=none",
    "tool_rule=conditional",
  ]
  train, evaluate = jobs[1].commands()
  for arguments in (train, evaluate):
    assert "--config.seed=1" in arguments
    assert "--config.train.steps=3" in arguments
  assert f"--workdir={tmp_path / jobs[1].name}" in train
  assert f"--checkpoint={tmp_path / jobs[1].name}" in evaluate


@pytest.mark.parametrize(
  "flags, says",
  [
    (["--gap.tokens=1"], "--gap.tokens=1: give --config.FIELD"),
    (["--config.seed"], "--config.seed: give --config.FIELD"),
    (["--config.seed=0", "--config.seed=1"], "seed is there twice"),
    (["--config.seed=0,0"], "the same values"),
    (["--config.gap.token=16,64"], "did you mean"),
    (["--config.gap.tokens=16,many"], "gap.tokens"),
  ],
)
def test_a_wrong_flag_stops_before_the_first_job(flags, says, tmp_path):
  with pytest.raises(UserError, match=says):
    sweep.make_jobs(CONFIG, flags, tmp_path)


def _evaluated(job, correct):
  """What an evaluation of ten questions leaves."""
  rows = [
    made_up.item(str(i), correct=i < correct, prediction="1") for i in range(10)
  ]
  made_up.write_evaluation(job.evaluation, "x", rows)


def test_the_table_has_means_over_seeds(tmp_path):
  jobs = sweep.make_jobs(CONFIG, FLAGS, tmp_path)
  for job, correct in zip(jobs, (1, 3, 6, 6)):
    _evaluated(job, correct)
  table = sweep.table(jobs)
  accuracy = {label: cells[0] for label, cells in table.rows}
  # Two seeds, 0.1 and 0.3: t(1) = 12.706 times s / sqrt(2) = 0.1 is beyond
  # what a share can be.
  assert accuracy["tool_rule=none"][:3] == pytest.approx((0.2, 0, 1))
  assert accuracy["tool_rule=conditional"].mean == pytest.approx(0.6)
  assert table.title == "Sweep: 4 runs, 2 for each row"


def test_a_job_that_fails_is_named_and_ends_the_sweep(tmp_path, monkeypatch):
  jobs = sweep.make_jobs(CONFIG, FLAGS, tmp_path)
  ran = []

  def fails_at_third(arguments):
    ran.append(arguments)
    return subprocess.CompletedProcess(arguments, 2 * (len(ran) == 3))

  monkeypatch.setattr(sweep.subprocess, "run", fails_at_third)
  with pytest.raises(
    UserError, match="none,seed=1: .*lfpc_jax.train.*status 2"
  ):
    sweep.run(jobs, sweep.rich.console.Console(quiet=True))
  assert len(ran) == 3


def test_print_gives_a_line_for_each_job_and_runs_nothing(tmp_path, capsys):
  sweep.main([f"--config={CONFIG}", f"--workdir={tmp_path}", "--print", *FLAGS])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4
  for line in lines:
    assert "lfpc_jax.train" in line and " && " in line
  assert not list(tmp_path.iterdir())
