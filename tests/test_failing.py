"""How a command ends: a reader that goes early, and what an error may hold."""

import subprocess
import sys

import pytest

from lfpc_jax.arguments import Parser
from lfpc_jax.errors import UserError
from lfpc_jax.failing import plain_errors

CODE = """
import sys
from lfpc_jax.failing import plain_errors
with plain_errors():
  for _ in range(100_000):
    print("a line")
"""


def test_a_reader_that_has_enough_is_told_nothing():
  command = [sys.executable, "-c", CODE]
  pipe = subprocess.PIPE
  with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
    assert process.stdout.readline() == b"a line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


HOSTILE = "red\x1b[31m bell\x07 nul\0 back\u202e \x9b lone\ud800 über 日本 \n2"
SHOWN = r"red\x1b[31m bell\x07 nul\x00 back\u202e \x9b lone\ud800 über 日本"


def test_an_error_is_one_line_and_does_nothing_to_the_terminal(capsys):
  with pytest.raises(SystemExit):
    with plain_errors():
      raise UserError(HOSTILE)
  assert capsys.readouterr().err == f"error: {SHOWN} 2\n"


def test_a_hostile_flag_is_shown_as_its_codes(capsys):
  with pytest.raises(SystemExit):
    Parser("A command.").parse_args(["--x\x1b[31m"])
  found = capsys.readouterr().err
  assert r"--x\x1b[31m" in found and "\x1b" not in found
