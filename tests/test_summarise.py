"""An experiment's tables from evaluations of several seeds."""

import pathlib

import pytest

from lfpc_jax.errors import UserError
from tests import scripts
from tests.evaluation import made_up

summarise = scripts.load("experiments/summarise.py")
TABLE = """
curves = []
differences = [["new", "old", "easy"]]
[policies]
pretrained = "before"
old = "the old"
new = "the new"
[settings]
easy = "Easy"
"""


def _evaluate(folder, correct):
  rows = [made_up.item(str(k), correct=k < correct) for k in range(10)]
  made_up.write_evaluation(folder / "easy", "x", rows)


@pytest.fixture
def places(tmp_path):
  experiment, workdir = tmp_path / "experiment", tmp_path / "runs"
  experiment.mkdir()
  (experiment / "table.toml").write_text(TABLE)
  _evaluate(workdir / "pretrained", 5)
  for seed, (old, new) in enumerate([(1, 3), (6, 7), (2, 5)]):
    _evaluate(workdir / str(seed) / "old", old)
    _evaluate(workdir / str(seed) / "new", new)
  return experiment, workdir


def test_differences_are_taken_within_each_seed(places):
  experiment, workdir = places
  experiment = summarise.read_experiment(experiment)
  ((label, cells),) = summarise.difference_table(experiment, workdir).rows
  assert label == "(the new) - (the old), 3 seeds: Easy"
  # 0.2, 0.1, 0.3: s = 0.1, t(2) = 4.3027.
  assert cells[0] == pytest.approx((0.2, 0.2 - 0.24841, 0.2 + 0.24841, 3), 1e-4)
  assert cells[1:] == (None,) * 4  # nothing cropped, no probe


def test_a_seed_without_one_of_the_two_is_left_out(places):
  experiment, workdir = places
  (workdir / "1" / "new" / "easy" / "evaluation.json").unlink()
  experiment = summarise.read_experiment(experiment)
  ((label, cells),) = summarise.difference_table(experiment, workdir).rows
  assert "2 seeds" in label
  assert cells[0].mean == pytest.approx(0.25)


def test_the_script_writes_table_and_figure(places):
  experiment, workdir = places
  text = summarise.write(experiment, workdir, experiment)
  assert (experiment / "table.md").read_text() == text
  assert "Easy; 10 questions" in text and "the new (3 seeds)" in text
  assert "<svg" in (experiment / "accuracy.svg").read_text()


@pytest.mark.parametrize(
  "old, new, says",
  [
    ('"new", "old"', '"newer", "old"', "newer - old, easy: unknown names"),
    ("curves = []", "", "curves"),
    ("[settings]", "[settings", "no experiment's table"),
  ],
)
def test_a_table_that_describes_nothing_is_refused(places, old, new, says):
  path = places[0] / "table.toml"
  path.write_text(TABLE.replace(old, new))
  with pytest.raises(UserError, match=says):
    summarise.read_experiment(places[0])


def test_missing_folders_are_named(places, tmp_path):
  with pytest.raises(UserError, match="nowhere"):
    summarise.read_experiment(pathlib.Path("nowhere"))
  with pytest.raises(UserError, match="empty"):
    summarise.seeds_of(tmp_path / "empty")


def test_the_shipped_tables_can_be_read():
  for path in (scripts.ROOT / "experiments").glob("*/table.toml"):
    summarise.read_experiment(path.parent)
