"""A sweep: which jobs, in which folders, and one table at the end."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
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


@pytest.mark.parametrize(
  "flag, says",
  [
    ("gap.tokens=64,256,1024", "tokens=1024: gap.tokens=1024 must be from 1"),
    ("gap.mode=fixed,low", "mode=low: gap.mode='low'"),
    ("reward.tool_rule=none,maybe", "tool_rule=maybe: .*'conditional'"),
    ("rl.advantage=std,rank", "advantage=rank: rl.advantage='rank'"),
    ("rl.micro_batches=2,3", "micro_batches=3: rollout.prompts=16 is no mult"),
    ("rollout.waves=2,3", "waves=3: rollout.prompts=16 is no multiple"),
    ("rollout.group=8,0", "group=0: rollout.group=0"),
    ("optimizer.learning_rate=1e-4,nan", "optimizer.learning_rate=nan"),
    ("optimizer.dtype=float32,float8", "optimizer.dtype='float8'"),
    ("alarms.window=5,0", "alarms.window=0"),
    ("train.steps=1,-1", "steps=-1: train.steps=-1"),
    ("eval.probes=('noise',),('grey',)", "eval.probes has 'grey'"),
  ],
)
def test_what_a_later_job_would_refuse_stops_before_the_first(
  flag, says, tmp_path, monkeypatch
):
  # Jobs need the device, which one process alone may hold.
  monkeypatch.setattr("jax.devices", None)
  monkeypatch.setattr("jax.local_devices", None)
  with pytest.raises(UserError, match=says):
    sweep.make_jobs(CONFIG, [f"--config.{flag}"], tmp_path)
  (field, _, values) = flag.partition("=")
  good = sweep.split_values(values)[0]
  assert sweep.make_jobs(CONFIG, [f"--config.{field}={good}"], tmp_path)


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


def _own_pictures(folder):
  """A data set of one's own, four small pictures of noise."""
  rng = np.random.default_rng(0)
  lines = []
  for k in range(4):
    pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{k}.png")
    row = dict(image=f"{k}.png", question="Which digit?", answer=str(k))
    lines.append(json.dumps(row | {"boxes": [[8, 8, 40, 40]]}) + "\n")
  for split in ("train", "test"):
    (folder / f"{split}.jsonl").write_text("".join(lines))


@pytest.mark.slow  # trains and evaluates twice
@pytest.mark.timeout(5400)
def test_a_sweep_of_two_jobs_trains_evaluates_and_ends_in_a_table(tmp_path):
  mine, work = tmp_path / "mine", tmp_path / "runs"
  mine.mkdir()
  _own_pictures(mine)
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": str(ROOT),
    "LFPC_COMPILE_CACHE": str(tmp_path / "compiled"),
  }

  def run(*words):
    done = subprocess.run(
      [sys.executable, *words], cwd=ROOT, env=environment,
      capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  data = f"--data_dir={tmp_path}/data"
  run("-m", "lfpc_jax.data.manual", "--name=folder", f"--dir={mine}", data)
  command = (
    "experiments/sweep.py",
    f"--config={CONFIG.replace(':stage1', ':smoke')}",
    f"--workdir={work}",
    "--config.gap.tokens=4,9",
    "--config.gap.full_tokens=16",
    "--config.data.name=folder",
    f"--config.data.dir={tmp_path}/data",
    "--config.data.image_capacity=(64,64)",
    "--config.rl.micro_batches=1",
    "--config.train.steps=1",
    "--config.eval.items=4",
    "--config.eval.budgets=(4,)",
    "--config.eval.probes=()",
  )
  said = run(*command)
  for tokens in (4, 9):
    job = work / f"tokens={tokens}"
    stored = json.loads((job / "config.json").read_text())
    assert stored["gap"]["tokens"] == tokens
    assert len((job / "metrics.jsonl").read_text().splitlines()) == 1
    rows = (job / "evaluation" / "items.jsonl").read_text().splitlines()
    assert len(rows) == 4
  table = (work / "table.md").read_text()
  assert table.count("tokens=4") == table.count("tokens=9") == 1
  assert "Sweep: 2 runs, 1 for each row" in said
  before = {p: p.stat().st_mtime_ns for p in work.rglob("*/metrics.jsonl")}
  run(*command)  # all is there: nothing is trained again
  assert before and before == {p: p.stat().st_mtime_ns for p in before}
  assert (work / "table.md").read_text() == table
