"""Paths of a data set stay below its root; damaged files are named."""

import os

import pytest

from lfpc_jax.data.sources import files
from lfpc_jax.data.sources.rows import RowError
from lfpc_jax.errors import UserError
from tests.data.sources import layouts


@pytest.fixture
def root(tmp_path):
  root = tmp_path / "root"
  layouts.write_image(root / "images" / "in.png", 1)
  layouts.write_image(tmp_path / "out.png", 2)
  return root


@pytest.mark.parametrize(
  "name",
  [
    "images/in.png",
    "./images/in.png",
    "images/../images/in.png",
    "file://images/in.png",
    "in.png",
  ],
)
def test_an_image_below_the_root(root, name):
  image = files.find_image(root, name, "images")
  assert image.read() == (root / "images" / "in.png").read_bytes()
  assert image.size == len(image.read())


def test_an_absolute_path_below_the_root(root):
  image = files.find_image(root, str(root / "images" / "in.png"))
  assert image.read() == layouts.image_bytes(1)


def test_an_absolute_path_of_another_machine(root):
  (root / "images" / "sub").mkdir(exist_ok=True)
  (root / "images" / "sub" / "far.png").write_bytes(b"far")
  name = "/home/images/somebody/images/sub/far.png"
  assert files.find_image(root, name, "images").read() == b"far"
  for name in (
    "/home/images/../images/../../out.png",
    "/home/somebody/sub/far.png",
    "/images",
  ):
    with pytest.raises(RowError, match="leads out"):
      files.find_image(root, name, "images")


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize("way", ["../out.png", "images/../../out.png", "{}"])
def test_a_path_out_of_the_root_is_refused(root, tmp_path, prefix, way):
  name = prefix + way.format(tmp_path / "out.png")
  with pytest.raises(RowError, match="leads out of"):
    files.find_image(root, name, "images")


def test_links_out_of_the_root_are_refused(root, tmp_path):
  (root / "link.png").symlink_to(tmp_path / "out.png")
  (root / "folder").symlink_to(tmp_path)
  for name in ("link.png", "folder/out.png"):
    with pytest.raises(RowError, match="not as links"):
      files.find_image(root, name)


def test_links_within_the_root_are_followed(root):
  (root / "link.png").symlink_to(root / "images" / "in.png")
  assert files.find_image(root, "link.png").read() == layouts.image_bytes(1)


def test_the_root_itself_may_be_a_link(root, tmp_path):
  (tmp_path / "alias").symlink_to(root)
  assert files.find_image(tmp_path / "alias", "images/in.png").size > 0


@pytest.mark.parametrize(
  "name", ["missing.png", "", ".", "images", "a\0b", "x" * 5000, "a/" * 3000]
)
def test_what_is_no_file_is_refused(root, name):
  with pytest.raises(RowError):
    files.find_image(root, name, "images")


def test_a_loop_of_links_is_refused(root):
  (root / "a").symlink_to(root / "b")
  (root / "b").symlink_to(root / "a")
  with pytest.raises(RowError):
    files.find_image(root, "a")


def test_a_pipe_is_no_image(root):
  os.mkfifo(root / "pipe.png")
  with pytest.raises(RowError, match="no image"):
    files.find_image(root, "pipe.png")


def test_a_file_that_vanished_is_a_broken_row(root):
  image = files.find_image(root, "images/in.png")
  (root / "images" / "in.png").unlink()
  with pytest.raises(RowError, match="No such file"):
    image.read()


def test_json(root):
  (root / "a.json").write_bytes(b'\xef\xbb\xbf[{"x": 1}]')
  assert files.read_json_list(root, "a.json") == [{"x": 1}]


@pytest.mark.parametrize(
  "data",
  [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1,]", b"9" * 5000, b'{"a": 1}'],
)
def test_damaged_json_is_named(root, data):
  (root / "a.json").write_bytes(data)
  with pytest.raises(UserError, match="a.json"):
    files.read_json_list(root, "a.json")


def test_json_out_of_the_root_is_refused(root, tmp_path):
  layouts.write_json(tmp_path / "out.json", [])
  (root / "a.json").symlink_to(tmp_path / "out.json")
  with pytest.raises(UserError, match="leads out of"):
    files.read_json(root, "a.json")


def test_lines_have_their_number_and_a_longest_length(root, monkeypatch):
  monkeypatch.setattr(files, "MAX_LINE_BYTES", 16)
  text = b"one\n\n  \n" + b"x" * 50 + b"\n" + b"four"
  (root / "a.jsonl").write_bytes(text)
  found = list(files.read_lines(root, "a.jsonl"))
  assert found[0] == (1, b"one\n") and found[2] == (5, b"four")
  assert found[1][0] == 4 and isinstance(found[1][1], RowError)


def test_a_missing_file_of_lines_is_named(root):
  with pytest.raises(UserError, match="none.jsonl"):
    list(files.read_lines(root, "none.jsonl"))
