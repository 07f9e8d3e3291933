"""The data set of scenes: questions, and the round trip through its files."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from lfpc_jax import errors
from lfpc_jax.data import loader, scene_render, scenes

SPLIT_SIZES = {"train": 24, "validation": 4, "test": 8}


def _config(**changes):
  arguments = dict(difficulty="hard", size=128, split_sizes=SPLIT_SIZES)
  return scenes.scenes_config(**{**arguments, **changes})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  scenes.prepare(data_dir, _config())
  return data_dir


@pytest.fixture(scope="module")
def rows(built):
  builder = scenes.open_builder(built, _config())
  return {split: builder.as_data_source(split) for split in SPLIT_SIZES}


def _contents(folder):
  return {
    path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()
  }


def _expected(question, signs):
  """Answer and boxes from the metadata, written without the code under test."""
  colour = re.search(r"the (\w+) sign\?", question).group(1)
  (named,) = [sign for sign in signs if sign["colour"] == colour]
  if "next to" not in question:
    return str(named["digit"]), [named["digit_box"], named["box"]]
  (other,) = [
    sign
    for sign in signs
    if sign is not named
    and sign["box"][1] == named["box"][1]
    and (sign["box"][0] == named["box"][2] or sign["box"][2] == named["box"][0])
  ]
  left, right = sorted([named["box"], other["box"]])
  pair = [left[0], left[1], right[2], right[3]]
  return str(other["digit"]), [other["digit_box"], other["box"], pair]


def test_answers_and_boxes_follow_from_the_signs(rows):
  for row in [row for split in rows.values() for row in split]:
    signs = json.loads(row["signs"])
    answer, boxes = _expected(row["question"].decode(), signs)
    assert row["answer"].decode() == answer
    np.testing.assert_array_equal(row["boxes"], boxes)
    inner, outer = row["boxes"][:-1], row["boxes"][1:]
    assert (outer[:, :2] <= inner[:, :2]).all()
    assert (inner[:, 2:] <= outer[:, 2:]).all()


def test_splits_have_their_size_both_categories_and_all_ids(rows):
  ids = set()
  for split, size in SPLIT_SIZES.items():
    categories = [row["category"].decode() for row in rows[split]]
    assert len(categories) == size
    assert categories.count("attribute") == size // 2
    assert categories.count("relation") == size // 2
    ids |= {row["id"] for row in rows[split]}
  assert len(ids) == sum(SPLIT_SIZES.values())


def test_a_stored_image_is_the_drawn_one_up_to_compression(built):
  source = loader.open_scenes(built, _config(), "test")
  for index in range(4):
    example = source[index]
    assert example.source == "scenes-hard" and example.options == ()
    assert example.image.shape == (128, 128, 3)
    x1, y1, x2, y2 = example.boxes[1]
    plate = example.image[y1:y2, x1:x2].reshape(-1, 3)
    colours = np.array(list(scene_render.COLOURS.values()))
    # Some named colour is the plate's commonest: nothing was swapped.
    nearest = np.abs(colours - np.median(plate, axis=0)).max(-1).min()
    assert nearest < 40


def test_the_bytes_do_not_depend_on_the_number_of_workers(built, tmp_path):
  folder = scenes.prepare(tmp_path, _config(), workers=2)
  first = _contents(scenes.open_builder(built, _config()).data_path)
  again = _contents(folder)
  records = [name for name in first if "array_record" in name]
  assert len(records) == 3
  for name in records:
    assert first[name] == again[name], name


def test_a_finished_data_set_is_not_built_again(built, monkeypatch):
  monkeypatch.setattr(scenes, "_draw_example", None)
  before = os.stat(scenes.prepare(built, _config())).st_mtime_ns
  assert os.stat(scenes.prepare(built, _config())).st_mtime_ns == before


def test_an_interrupted_build_is_no_data_set(tmp_path, monkeypatch):
  draw = scenes._draw_example

  def interrupted(spec, seed, split, index):
    if split == "validation":
      raise KeyboardInterrupt
    return draw(spec, seed, split, index)

  with monkeypatch.context() as patch:
    patch.setattr(scenes, "_draw_example", interrupted)
    with pytest.raises(KeyboardInterrupt):
      scenes.prepare(tmp_path, _config())
  with pytest.raises(errors.UserError, match="no data set at"):
    loader.open_scenes(tmp_path, _config())
  scenes.prepare(tmp_path, _config())
  assert len(loader.open_scenes(tmp_path, _config())) == SPLIT_SIZES["train"]


@pytest.mark.parametrize(
  "change",
  [
    dict(difficulty="easy"),
    dict(size=256),
    dict(seed=1),
    dict(split_sizes={**SPLIT_SIZES, "test": 9}),
  ],
)
def test_another_configuration_is_another_data_set(tmp_path, change):
  paths = [
    scenes.open_builder(tmp_path, config).data_path
    for config in (_config(), _config(**change))
  ]
  assert paths[0] != paths[1]


def test_another_way_of_drawing_is_another_data_set(monkeypatch):
  before = _config().name
  monkeypatch.setattr(scene_render, "RENDER_VERSION", -1)
  assert _config().name != before


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_a_missing_data_set_names_the_command_that_builds_it(
  tmp_path, difficulty
):
  config = _config(difficulty=difficulty, seed=3)
  data_dir = tmp_path / "my data"
  with pytest.raises(errors.UserError) as caught:
    loader.open_scenes(data_dir, config)
  pattern = "`python -m lfpc_jax.data.scenes (.*)`"
  command = re.search(pattern, str(caught.value)).group(1)
  scenes.main(shlex.split(command))
  assert len(loader.open_scenes(data_dir, config, "test")) == 8


def test_defaults_name_the_short_command(tmp_path):
  with pytest.raises(errors.UserError) as caught:
    loader.open_scenes(tmp_path, "easy")
  assert str(caught.value).endswith("--difficulty=easy`")


def test_errors_name_what_is_known(built):
  with pytest.raises(errors.UserError, match="'easy', 'hard'"):
    scenes.scenes_config("medium")
  with pytest.raises(errors.UserError, match="'dev'"):
    scenes.scenes_config(split_sizes={"dev": 1})
  with pytest.raises(errors.UserError, match="no split 'dev'"):
    loader.open_scenes(built, _config(), "dev")


def test_writing_and_reading_need_no_tensorflow_and_log_nothing(tmp_path):
  # A TensorFlow that cannot be imported, ahead of any that is installed.
  trap = tmp_path / "trap" / "tensorflow"
  trap.mkdir(parents=True)
  (trap / "__init__.py").write_text('raise AssertionError("imported")')
  # A command shows notes from INFO on; another description is worth one.
  code = f"""
import sys
from absl import logging
logging.set_verbosity(logging.INFO)
from lfpc_jax.data import loader, scenes
config = scenes.scenes_config(size=128, split_sizes=dict(
    train=2, validation=1, test=1))
scenes.prepare({str(tmp_path)!r}, config)
scenes.__doc__ = 'Another description.'
example = loader.open_scenes({str(tmp_path)!r}, config)[1]
assert example.category == 'relation'
assert 'tensorflow' not in sys.modules
"""
  path = os.pathsep.join([str(trap.parent), os.getcwd()])
  done = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "PYTHONPATH": path},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, "")
