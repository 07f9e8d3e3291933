"""Files that are whole or not there, and folders that serve one run."""

import signal
import subprocess
import sys

import pytest

from lfpc_jax import files
from lfpc_jax.errors import UserError


def test_an_exception_leaves_the_old_content(tmp_path):
  path = tmp_path / "a" / "b.txt"
  files.atomic_write(path, b"old")
  with pytest.raises(ZeroDivisionError), files.atomic_writer(path) as file:
    file.write(b"half of the new")
    file.flush()
    raise ZeroDivisionError
  assert path.read_bytes() == b"old"
  assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_folder_serves_one_run_at_a_time(tmp_path):
  with files.locked(tmp_path / "run"):
    with (
      pytest.raises(UserError, match=r"run is in use.*process \d+: wait"),
      files.locked(tmp_path / "run"),
    ):
      raise AssertionError("two runs in one folder")
  with files.locked(tmp_path / "run"):
    pass


def test_a_killed_run_leaves_its_folder_free(tmp_path):
  code = (
    "import sys, time\n"
    "from lfpc_jax import files\n"
    "with files.locked(sys.argv[1]):\n"
    "  print('in', flush=True)\n"
    "  time.sleep(600)\n"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == b"in\n"
    with (
      pytest.raises(UserError, match=f"process {process.pid}: wait"),
      files.locked(tmp_path),
    ):
      raise AssertionError("two runs in one folder")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with files.locked(tmp_path):
      pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with (
    pytest.raises(UserError, match="file/run.*--workdir"),
    files.locked(tmp_path / "file" / "run"),
  ):
    raise AssertionError("a file holds no folder")
