"""Topologies by name; the real TPU compiler on a config."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from lfpc_jax.ahead import chips
from lfpc_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None
  and "TPU_LIBRARY_PATH" not in os.environ,
  reason="libtpu, the TPU compiler, is not installed",
)


@pytest.mark.parametrize(
  "name, says",
  [
    ("v5e", "such as v5e:4x4"),
    ("h100:8x1", "known are v4, v5e"),
    ("v5e:four", "such as v5e:4x4"),
    ("v5p:4x4", "v5p has 3 axes"),
    ("v5e:0x2", "v5e has 2 axes"),
  ],
)
def test_an_unknown_topology_is_refused(name, says):
  with pytest.raises(UserError, match=says):
    chips.find(name)


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
  with pytest.raises(UserError, match=r"pip install 'jax\[tpu\]'"):
    chips.find("v5e:2x2")


def check(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "lfpc_jax.compile_check", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=1500,
    env={**os.environ, "COLUMNS": "160"},
  )


@needs_libtpu
def test_a_slice_that_no_compiler_knows_is_one_line():
  done = check("--config=configs/tiny.py:smoke", "--topology=v5e:3x5")
  assert done.returncode == 1 and done.stdout == ""
  assert re.fullmatch(r"error: --topology=v5e:3x5: .*\n", done.stderr)


@needs_libtpu
@pytest.mark.slow
def test_the_miniature_is_compiled_for_four_chips():
  done = check(
    "--config=configs/tiny.py:smoke",
    "--config.rl.micro_batches=1",
    "--config.eval.budgets=16",
    "--topology=v5e:2x2",
  )
  assert done.returncode == 0, done.stderr[-3000:]
  for program in ("encode", "rollout", "update", "evaluation at 16 tokens"):
    assert re.search(rf"{program} +│ +yes", done.stdout), done.stdout
  assert "reduce-scatter" in done.stdout or "all-reduce" in done.stdout
