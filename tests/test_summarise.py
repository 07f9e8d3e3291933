"""An experiment's tables from evaluations of several seeds."""

import dataclasses
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


def _evaluate(folder, correct, setting="easy", budget=16, **probes):
  """Ten questions, of which so many are right, and so many under a probe."""
  rows = [
    made_up.item(str(k), correct=k < right, probe=probe, budget=budget)
    for probe, right in ({"none": correct} | probes).items()
    for k in range(10)
  ]
  made_up.write_evaluation(folder / setting, "x", rows)


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
  assert len(cells) == 1  # nothing cropped, no probe


def test_what_the_probes_change_is_taken_over_the_seeds(places):
  experiment, workdir = places
  for seed, (old, new) in enumerate([((4, 4), (5, 0)), ((3, 2), (6, 3))]):
    for policy, (plain, under) in (("old", old), ("new", new)):
      place = workdir / str(seed) / policy
      _evaluate(place, plain, "probed", noise=under, blank=1, truth=10)
  experiment = dataclasses.replace(
    summarise.read_experiment(experiment),
    settings={"probed": "Probed"},
    differences=[("new", "old", "probed")],
  )
  table = summarise.probe_table(experiment, workdir, "probed")
  probes = ["ground-truth crop", "noise crop", "blank crop"]
  assert sorted(c.name for c in table.columns) == sorted(probes)
  rows = {
    label: dict(zip((c.name for c in table.columns), cells))
    for label, cells in table.rows
  }
  # The old one loses 0 and 1 of 10 under noise, the new one 5 and 3.
  assert rows["the old (2 seeds)"]["noise crop"].mean == pytest.approx(-0.05)
  new = rows["the new (2 seeds)"]["noise crop"]
  assert new.mean == pytest.approx(-0.4)
  assert new.high - new.mean == pytest.approx(12.7062 * 0.1, 1e-4)  # t(1)
  table = summarise.difference_table(experiment, workdir)
  ((_, cells),) = table.rows
  found = {c.name: cell.mean for c, cell in zip(table.columns, cells)}
  assert found == pytest.approx(
    {
      "accuracy": 0.2,  # 0.1 and 0.3
      "noise drop": 0.35,  # 0.5 - 0 and 0.3 - 0.1
      "truth gain": -0.2,  # 0.5 - 0.6 and 0.4 - 0.7
      "blank drop": 0.2,  # 0.4 - 0.3 and 0.5 - 0.2
    }
  )


def test_lines_over_the_budget_are_in_its_order(places, tmp_path):
  experiment, workdir = places
  _evaluate(workdir / "pretrained", 7, "large", 324)
  _evaluate(workdir / "0" / "new", 9, "large", 324)
  experiment = dataclasses.replace(
    summarise.read_experiment(experiment),
    settings={"large": "Large", "easy": "Easy"},
    over_budget={
      "policies": ["pretrained", "new"],
      "settings": ["large", "easy"],
    },
  )
  lines = summarise.lines_over_budget(experiment, workdir)
  found = {
    name: [(row.budget, row.accuracy.mean) for row in line]
    for name, line in lines.items()
  }
  assert found == {
    "before": [(16, 0.5), (324, 0.7)],
    "the new": [(16, pytest.approx(0.5)), (324, 0.9)],
  }
  summarise.draw_over_budget(lines, tmp_path / "budgets.svg")
  assert "seconds a question" in (tmp_path / "budgets.svg").read_text()


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
    (
      "[settings]",
      "[over_budget]\npolicies = ['newest']\n[settings]",
      "over_budget.policies has unknown names",
    ),
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
