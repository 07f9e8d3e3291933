"""What the train command says and returns when something is wrong."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from lfpc_jax import train
from tests import command_line, small_scenes

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={ROOT}/configs/tiny.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Flags that name a data set."""
  with small_scenes.prepared(tmp_path_factory.mktemp("data")) as changes:
    yield [f"--config.{change}" for change in changes]


@pytest.fixture
def command(data, capsys, tmp_path, monkeypatch):
  """Runs `train` in an empty directory, with the data set's flags first."""
  monkeypatch.chdir(tmp_path)
  cache = jax.config.jax_compilation_cache_dir
  yield lambda *args: command_line.call(capsys, train.run, *data, *args)
  jax.config.update("jax_compilation_cache_dir", cache)


def _assert_one_line(outcome, says):
  status, _, err = outcome
  assert status == 1 and says in err
  assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
  "args, says",
  [
    (["--workdir=w"], "no config: add --config="),
    ([CONFIG], "no directory for the results: add --workdir="),
    ([f"{CONFIG}:stage3", "--workdir=w"], "no variant 'stage3'"),
    ([CONFIG, "--workdir=w", "--steps=3"], "'steps'"),
  ],
)
def test_a_wrong_command_line_is_one_line_and_a_failure(command, args, says):
  _assert_one_line(command(*args), says)


@pytest.mark.parametrize(
  "change, says",
  [
    ("gap.tokns=4", "did you mean gap.tokens?"),
    ("gap.tokens=few", "not a value of type int"),
    ("gap.tokens=400", "gap.tokens=400 must be from 1 to gap.full_tokens=324"),
    ("gap.mode=low", "gap.mode='low': choose one of none, fixed, random"),
    ("policy.path=none", "policy.path='none': no such directory"),
    ("policy.prompt_style=long", "No prompt style 'long'"),
    ("rollout.group=0", "rollout.group=0: must be >= 1"),
    ("reward.tool_rule=maybe", "'conditional', 'unconditional', 'none'"),
    ("rl.advantage=rank", "rl.advantage='rank'"),
    ("rl.micro_batches=5", "rollout.prompts=16 is no multiple of rl.micro_ba"),
    ("policy.freeze=tower", "policy.freeze names ['tower']"),
    ("policy.checkpoint=none", "no checkpoint at"),
    ("checkpoint.every=0", "every 0 steps"),
    ("data.difficulty=mild", "'mild'"),
    (
      "data.dir=elsewhere",
      "build it with `python -m lfpc_jax.data.scenes --data_dir=elsewhere",
    ),
  ],
)
def test_a_wrong_field_is_one_line_and_a_failure(command, change, says):
  found = command(CONFIG, "--workdir=w", f"--config.{change}")
  _assert_one_line(found, says)


def test_a_stopped_run_is_no_success(command, monkeypatch):
  monkeypatch.setattr("lfpc_jax.rl.trainer.Trainer.run", lambda self: None)
  assert command(CONFIG, "--workdir=w")[0] == 130


def test_the_module_is_a_command():
  done = subprocess.run(
    [sys.executable, "-m", "lfpc_jax.train", CONFIG, "--workdir=w", "more"],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=1500,
    check=False,
  )
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr == (
    "error: unknown argument 'more': flags begin with --\n"
  )
