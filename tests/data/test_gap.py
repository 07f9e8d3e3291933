"""Budgets of the four modes, the ladder, and the file of selected budgets."""

import pathlib

import jax
import numpy as np
from pyarrow import parquet
import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.data import gap, gap_file
from lfpc_jax.data.gap_file import Selection
from lfpc_jax.errors import UserError
from lfpc_jax.parallel import Share
from tests.gap_selection import sizes
from tests.rollout import scripted_policy

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "tiny.py")
NUMBER = 3


def _config(*changes):
  return config_lib.freeze(config_lib.load_config(CONFIG, changes))


def _open(*changes):
  return gap.open_gap(_config(*changes), NUMBER)


def _write(path, about=None, budgets=(64, 16, 128)):
  about = about or gap_file.data_identity(_config().data, NUMBER)
  rows = tuple(
    sizes.chosen(f"e{i}", tokens) for i, tokens in enumerate(budgets)
  )
  selection = Selection(rows, about)
  gap_file.save(path, selection)
  return selection


@pytest.mark.parametrize(
  "full, lowest, expected",
  [
    (16384, 64, (8192, 4096, 2048, 1024, 512, 256, 128, 64)),  # the spec's
    (324, 16, (256, 128, 64, 32, 16)),
    (324, 20, (256, 128, 64, 32)),
    (65, 64, (64,)),
  ],
)
def test_the_ladder_halves(full, lowest, expected):
  assert gap.ladder(full, lowest) == expected


def test_a_ladder_without_rungs_is_refused():
  with pytest.raises(UserError, match=r"selection.lowest=65.*full_tokens=100"):
    gap.ladder(100, 65)


def test_without_a_gap_the_view_is_full():
  found = _open("gap.mode=none")
  assert found.capacity == 324
  assert found.budgets(0, ["a", "b"]).tolist() == [324, 324]


def test_a_fixed_gap_needs_no_more_room_than_its_budget():
  found = _open("gap.mode=fixed", "gap.tokens=64")
  assert found.capacity == 64
  assert found.budgets(5, ["a"]).tolist() == [64]


RANDOM = ("gap.mode=random", "gap.tokens=32", "gap.full_tokens=128")


def test_a_random_budget_is_that_of_a_step():
  found = _open(*RANDOM)
  draws = [found.budgets(step, ["x"] * 8).tolist() for step in range(64)]
  assert all(len(draw) == 8 and len(set(draw)) == 1 for draw in draws)
  assert {draw[0] for draw in draws} == {32, 64, 128}
  assert found.budgets(7, ["x"] * 8).tolist() == draws[7]
  # Another process's part of the step has the same.
  parts = [
    found.budgets(7, ["x"] * 4, Share(index, 2, 8)).tolist()
    for index in range(2)
  ]
  assert [*parts[0], *parts[1]] == draws[7]


def test_random_budgets_are_drawn_anew_and_are_the_same_on_a_resume():
  found = _open(*RANDOM, "gap.draw=prompt")
  draws = [found.budgets(step, ["x"] * 64) for step in range(4)]
  assert set(np.concatenate(draws).tolist()) == {32, 64, 128}
  assert not np.array_equal(draws[0], draws[1])
  np.testing.assert_array_equal(found.budgets(2, ["x"] * 64), draws[2])
  other = _open(*RANDOM, "gap.draw=prompt", "seed=1")
  assert not np.array_equal(other.budgets(0, ["x"] * 64), draws[0])


@pytest.mark.parametrize(
  "changes, says",
  [
    (["gap.mode=small"], "gap.mode='small': choose one of none, fixed"),
    (["gap.tokens=400"], "gap.tokens=400 must be from 1 to gap.full_tokens"),
    (["gap.tokens=0"], "gap.tokens=0"),
    (["gap.draw=epoch"], "gap.draw='epoch': choose one of step, prompt"),
    (["gap.wrong=skip"], "gap.wrong='skip': choose one of keep, drop"),
  ],
)
def test_a_gap_that_makes_no_view_is_refused(changes, says):
  with pytest.raises(UserError, match=says):
    _open(*changes)


def test_random_levels_outside_the_range_are_refused():
  found = _open("gap.mode=random", "gap.levels=2,4")
  with pytest.raises(UserError, match=r"gap.levels=\(2, 4\)"):
    found.budgets(0, ["a"])


def test_a_selection_comes_back_from_its_file(tmp_path):
  path = tmp_path / "gap.parquet"
  selection = _write(path)
  assert gap_file.load(path) == selection
  # Any reader of Parquet can check it.
  table = parquet.read_table(path).to_pydict()
  assert table["tokens"] == [64, 16, 128]
  assert table["original_answer"] == ["7"] * 3 and table["answer"] == ["1"] * 3


def test_selected_budgets_are_those_of_the_examples(tmp_path):
  path = tmp_path / "gap.parquet"
  _write(path)
  found = _open("gap.mode=selected", f"gap.file={path}")
  assert found.capacity == 128  # of the largest budget there is
  assert found.budgets(9, ["e1", "e2", "e1"]).tolist() == [16, 128, 16]
  with pytest.raises(UserError, match="no budget for example 'other'"):
    found.budgets(0, ["e1", "other"])


def test_examples_that_are_wrong_on_the_original_can_be_left_out(tmp_path):
  path = tmp_path / "gap.parquet"
  rows = tuple(
    sizes.chosen(f"image {k}", 64, original_correct=k in (1, 4))
    for k in range(5)
  )
  about = gap_file.data_identity(_config().data, 5)
  gap_file.save(path, Selection(rows, about))
  changes = "gap.mode=selected", f"gap.file={path}"
  whole = sizes.source(5)
  kept = gap.open_gap(_config(*changes), 5)
  assert kept.examples(whole) is whole
  left = gap.open_gap(_config(*changes, "gap.wrong=drop"), 5).examples(whole)
  assert [example.id for example in left] == ["image 1", "image 4"]
  assert [left.words(k).id for k in (0, 1)] == ["image 1", "image 4"]
  assert [left.size(k) for k in (0, 1)] == [whole.size(1), whole.size(4)]
  gap_file.save(path, Selection(rows[:1], about | {"examples": 1}))
  with pytest.raises(UserError, match="right on the original.*wrong=keep"):
    gap.open_gap(_config(*changes, "gap.wrong=drop"), 1)


def test_the_selections_default_place_is_beside_the_data(tmp_path):
  config = _config("gap.mode=selected", f"data.dir={tmp_path}")
  path = gap_file.find(config)
  assert path.parent == tmp_path / "gap"
  assert path.name.startswith("easy-512-") and path.name.endswith(
    "-train.parquet"
  )
  _write(path)
  assert gap.open_gap(config, NUMBER).capacity == 128


def test_other_data_sets_have_their_own_place(tmp_path):
  changes = f"data.dir={tmp_path}", "data.name=vstar+scenes"
  path = gap_file.find(_config("gap.mode=selected", *changes))
  assert path.name.startswith("vstar+easy-512-")


def test_a_missing_selection_is_named_with_the_remedy(tmp_path):
  with pytest.raises(UserError, match=r"no selected budgets at .*select_gap"):
    _open("gap.mode=selected", f"gap.file={tmp_path}/no.parquet")


def test_a_selection_of_other_data_is_refused(tmp_path):
  path = tmp_path / "gap.parquet"
  _write(path)
  changes = ["gap.mode=selected", f"gap.file={path}"]
  for change, says in (
    ("data.split=test", "about split 'train', this run about 'test'"),
    ("data.difficulty=hard", "about dataset 'easy-512-.*about 'hard-512-"),
    ("gap.full_tokens=100", "budgets up to 128, more than gap.full_tokens=100"),
  ):
    with pytest.raises(UserError, match=says):
      _open(*changes, change)
  with pytest.raises(UserError, match="about examples 3, this run about 2048"):
    gap.open_gap(_config(*changes), 2048)


def test_a_file_that_is_no_selection_is_refused(tmp_path):
  path = tmp_path / "gap.parquet"
  path.write_bytes(b"not parquet")
  with pytest.raises(UserError, match="gap.parquet is no Parquet file"):
    gap_file.load(path)
  _write(path)
  plain = parquet.read_table(path).replace_schema_metadata(None)
  parquet.write_table(plain, path)
  with pytest.raises(UserError, match="holds no selected budgets"):
    gap_file.load(path)


def test_batches_of_all_budgets_have_one_shape():
  """Shape and type are what a compiled program is chosen by."""
  packer = scripted_policy.make_packer()
  examples = scripted_policy.make_examples(3)
  batches = [
    packer.pack(examples, budgets)
    for budgets in ((4, 9, 20), (20, 20, 20), (4, 4, 4))
  ]
  shapes = [
    jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch) for batch in batches
  ]
  assert shapes[0] == shapes[1] == shapes[2]
  tokens = np.array([np.prod(batch.grid, axis=-1) for batch in batches])
  assert (tokens <= [(4, 9, 20), (20, 20, 20), (4, 4, 4)]).all()
  assert (tokens[1] > tokens[2]).all() and tokens[0, 2] == tokens[1, 2]


def test_another_mix_is_other_data():
  whole, some, others = (
    gap_file.data_identity(_config(*changes).data, NUMBER)
    for changes in (
      (),
      ("data.mix=(3,)",),
      ("data.mix=(3,)", "data.mix_seed=1"),
    )
  )
  assert "mix" not in whole
  assert some != whole and others != some
