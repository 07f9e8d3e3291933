"""The batch script of docs/pods.md, with an srun that ends as it is told."""

import os
import pathlib
import re
import subprocess

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "pods.md"
_CALLS = """#!/bin/sh
echo "$(basename $0) $*" >> calls
[ "$(basename $0)" = srun ] || exit 0
case $* in *lfpc_jax.train*) exit $TRAINING;; esac
"""


@pytest.fixture
def script(tmp_path):
  """The page's script; its commands write down how they are called."""
  blocks = re.findall(
    r"^```\n(#!/bin/bash\n.*?)^```", PAGE.read_text(), re.M | re.S
  )
  (text,) = blocks
  (tmp_path / "job.sh").write_text(text)
  for name in ("srun", "scontrol"):
    (tmp_path / name).write_text(_CALLS)
    (tmp_path / name).chmod(0o755)

  def run(status):
    done = subprocess.run(
      ["bash", "job.sh"],
      cwd=tmp_path,
      env={
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "TRAINING": str(status),
      },
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    names = [re.search(r"lfpc_jax\.\w+|requeue \d+", x).group() for x in calls]
    return done.returncode, names

  return run


@pytest.mark.parametrize("status", [130, 143])
def test_a_stopped_run_goes_back_into_the_queue(script, status):
  assert script(status) == (status, ["lfpc_jax.train", "requeue 17"])


def test_a_refusal_ends_the_job(script):
  assert script(1) == (1, ["lfpc_jax.train"])


def test_a_run_that_has_ended_is_evaluated(script):
  assert script(0) == (0, ["lfpc_jax.train", "lfpc_jax.evaluate"])
