"""What --help says of each command."""

import argparse
import pathlib
import subprocess
import sys

import pytest

from lfpc_jax import compare, paper_table
from lfpc_jax.data import check, manual, scenes
from tests import scripts

ROOT = pathlib.Path(__file__).parents[1]


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
