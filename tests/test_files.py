"""Files that are whole or not there, and folders that serve one run."""

import errno
import os
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


_HALF = """
import pathlib, sys, time
from lfpc_jax import files
folder = pathlib.Path(sys.argv[1])
with (
  files.atomic_writer(folder / "a.txt") as a,
  files.atomic_writer(folder / "sub" / "b.npz") as b,
):
  for file in (a, b):
    file.write(b"half")
    file.flush()
  print("half", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path):
  """A process with two half-written files in a folder and one below."""
  with subprocess.Popen(
    [sys.executable, "-c", _HALF, str(tmp_path)], stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == b"half\n"
    yield process
    process.kill()


def _parts(folder):
  return sorted(path.name.split(".")[1] for path in folder.rglob(".*.part"))


def test_what_a_killed_run_left_half_written_goes_when_the_next_starts(
  tmp_path, writer
):
  with files.locked(tmp_path):
    assert _parts(tmp_path) == ["a", "b"]  # it still writes them
  writer.kill()
  writer.wait()
  assert _parts(tmp_path) == ["a", "b"]
  with files.locked(tmp_path):
    assert _parts(tmp_path) == []


def test_the_next_writer_in_a_folder_removes_what_a_killed_one_left(
  tmp_path, writer
):
  files.atomic_write(tmp_path / "c.txt", b"whole")
  assert _parts(tmp_path) == ["a", "b"]
  writer.kill()
  writer.wait()
  files.atomic_write(tmp_path / "c.txt", b"whole")
  assert _parts(tmp_path) == ["b"]
  assert (tmp_path / "c.txt").read_bytes() == b"whole"


def test_a_part_that_is_no_file_stays(tmp_path):
  (tmp_path / f".model.{files._HOST}.1.lfpc.part").mkdir()
  with files.locked(tmp_path):
    assert _parts(tmp_path) == ["model"]


def test_parts_of_other_hosts_and_of_other_programs_stay(tmp_path):
  for name in (".model.elsewhere.1.lfpc.part", ".film.1.part"):
    (tmp_path / name).write_bytes(b"half")
  (tmp_path / f".old.{files._HOST}.1.lfpc.part").write_bytes(b"half")
  files.atomic_write(tmp_path / "a.txt", b"whole")
  assert _parts(tmp_path) == ["film", "model"]


def test_a_new_part_that_was_taken_for_an_old_one_is_made_again(
  tmp_path, monkeypatch
):
  """Another process looks between this one's opening and locking of it."""
  flock, taken = files.fcntl.flock, []

  def slow(file, how):
    if not taken:
      taken.append(file.name)
      os.unlink(file.name)
    flock(file, how)

  monkeypatch.setattr(files.fcntl, "flock", slow)
  files.atomic_write(tmp_path / "a.txt", b"whole")
  assert taken and (tmp_path / "a.txt").read_bytes() == b"whole"


def test_a_file_system_without_locks_serves_too(tmp_path, monkeypatch):
  def flock(file, how):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(files.fcntl, "flock", flock)
  part = tmp_path / f".b.{files._HOST}.1.lfpc.part"
  part.write_bytes(b"half")
  files.atomic_write(tmp_path / "a.txt", b"whole")
  assert part.exists()  # whether its writer lives cannot be known
  assert (tmp_path / "a.txt").read_bytes() == b"whole"
