"""A reader that goes away early is no error."""

import subprocess
import sys

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
