"""What --help says of each command."""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from lfpc_jax import compare, paper_table
from lfpc_jax.data import check, manual, scenes
from tests import scripts

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
  "scripts"
]


@pytest.mark.parametrize("name, many", [("train", True), ("ask", False)])
def test_help_is_no_failure_and_lists_what_the_command_takes(name, many):
  done = subprocess.run(
    [sys.executable, "-m", f"lfpc_jax.{name}", "--help"],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert (done.returncode, done.stderr) == (0, "")
  for words in (f"python -m lfpc_jax.{name}", "--config: ", "--workdir: "):
    assert words in done.stdout
  assert ("--[no]distributed" in done.stdout) == many


@pytest.mark.parametrize("function", SCRIPTS.values(), ids=SCRIPTS)
def test_every_command_explains_itself_and_its_flags(function):
  module, _, name = function.partition(":")
  done = subprocess.run(
    [sys.executable, "-c", f"from {module} import {name}; {name}()", "--help"],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "none"},
  )
  assert (done.returncode, done.stderr) == (0, "")
  # What it is for, how it is called, and where an error came from.
  first = next(line for line in done.stdout.splitlines() if line.strip())
  assert len(done.stdout.splitlines()) > 8 and first
  assert "python -m lfpc_jax" in done.stdout
  assert "--" in done.stdout and "traceback" in done.stdout
  flags = re.findall(r"^ +--[\w\[\]]+.*(?:\n {6,}\S.*)?", done.stdout, re.M)
  assert flags and all(re.search(r"[a-z]{3,}", flag) for flag in flags)


@pytest.mark.parametrize(
  "module",
  [
    compare,
    paper_table,
    scenes,
    manual,
    check,
    scripts.load("experiments/sweep.py"),
  ],
)
def test_every_flag_of_a_command_without_a_config_is_explained(
  module, monkeypatch, capsys
):
  parsers = []
  parse = argparse.ArgumentParser.parse_known_args

  def parse_known_args(parser, *args):
    parsers.append(parser)
    return parse(parser, *args)

  monkeypatch.setattr(
    argparse.ArgumentParser, "parse_known_args", parse_known_args
  )
  with pytest.raises(SystemExit) as stop:
    module.main(["--help"])
  assert not stop.value.code
  assert "  python " in capsys.readouterr().out  # how it is called
  for action in parsers[0]._actions:
    assert action.help, action.option_strings
    switch = action.nargs == 0
    told = action.required or action.default is None or switch
    assert told or "%(default)s" in action.help, action.option_strings
