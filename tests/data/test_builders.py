"""What the builders of data sets leave behind: nothing."""

import errno
import os
import pathlib
import resource
import tempfile
import time

import pytest

from lfpc_jax.data import builders, loader, manual, scenes
from lfpc_jax.data.sources import folder
from tests.data.sources import layouts


@pytest.fixture
def temporary(tmp_path, monkeypatch):
  """The folder of temporary files, which is empty."""
  path = tmp_path / "temporary"
  path.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(path))
  return path


def _scenes(data_dir):
  sizes = {"train": 2, "validation": 1, "test": 1}
  config = scenes.scenes_config("easy", size=64, split_sizes=sizes)
  return scenes.prepare(data_dir, config)


def _manual(data_dir):
  root = data_dir / "raw"
  layouts.write_image(root / "a.png", 0)
  row = {"image": "a.png", "question": "Q?", "answer": "1"}
  layouts.write_lines(root / "train.jsonl", row)
  return manual.prepare(folder.SOURCE, root, data_dir)[0]


@pytest.mark.parametrize("build", [_scenes, _manual])
def test_a_build_leaves_no_temporary_files(build, tmp_path, temporary):
  build(tmp_path / "data")
  assert list(temporary.iterdir()) == []


def test_opening_leaves_no_temporary_files(tmp_path, temporary):
  for _ in range(3):
    scenes.open_builder(tmp_path, "easy")
    manual.open_builder(tmp_path, folder.SOURCE)
  _manual(tmp_path)
  data = {"name": "folder", "dir": tmp_path, "option_order": ""}
  assert len(loader.open_data(data | {"option_seed": 0}, "train")) == 1
  assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_file_that_cannot_be_written_is_named_with_the_systems_reason(number):
  text = f"write() failed: {os.strerror(number)}; writing x; at byte 0; more"
  with (
    pytest.raises(OSError, match="data/x") as found,
    builders.writing(pathlib.Path("data/x")),
  ):
    raise RuntimeError(text)
  assert found.value.errno == number


def test_a_fault_of_the_builder_stays_what_it_is():
  with (
    pytest.raises(RuntimeError, match="of its own"),
    builders.writing(pathlib.Path("data/x")),
  ):
    raise RuntimeError("of its own")


def test_a_full_disk_leaves_no_data_set(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
  try:
    with pytest.raises(OSError, match="File too large"):
      _scenes(tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert not list(tmp_path.rglob("*array_record*"))
  assert _scenes(tmp_path).is_dir()


@pytest.mark.parametrize("build", [_scenes, _manual])
def test_what_a_killed_build_left_is_removed_an_hour_later(build, tmp_path):
  place = build(tmp_path / "once").relative_to(tmp_path / "once").parent
  names = ("incomplete.OLD_1.0.0", "incomplete.NEW_1.0.0", "incomplete.GOES_ON")
  two_hours_ago = time.time() - 7200
  for name in names:
    path = tmp_path / "data" / place / name
    path.mkdir(parents=True)
    (path / "shard").write_bytes(b"half")
    if "OLD" in name:
      os.utime(path / "shard", (two_hours_ago, two_hours_ago))
    if "NEW" not in name:
      os.utime(path, (two_hours_ago, two_hours_ago))
  built = build(tmp_path / "data")
  left = {path.name for path in built.parent.iterdir() if path.is_dir()}
  assert left == {built.name, *names[1:]}
