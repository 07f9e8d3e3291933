"""Paired differences under the probes, against cases worked by hand."""

import dataclasses
import math

import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.evaluation import probe_results, runner, summary
from lfpc_jax.evaluation.items import load_items, save_items
from lfpc_jax.rollout.probes import Probe
from tests.evaluation import made_up
from tests.gap_selection import sizes


def _row(k, probe, correct, budget=16, apart=None, group=""):
  return made_up.item(
    f"q{k}",
    probe=probe,
    correct=correct,
    budget=budget,
    turns=2,
    crops=1,
    iou=0.5,
    coverage=1.0,
    area=0.1,
    box=(0, 0, 10, 10),
    apart=apart,
    group=group,
  )


# Four questions at one budget: right, right, right, wrong without a probe.
PLAIN = (True, True, True, False)
PROBED = {
  "truth": (True, True, True, True),
  "noise": (False, False, True, False),
  "blank": (True, False, True, False),
  "other": (False, False, True, False),
}
APART = (True, False, True, None)  # the second crop leaves no room


def _rows():
  rows = [_row(k, "none", x) for k, x in enumerate(PLAIN)]
  for probe, correct in PROBED.items():
    for k, x in reversed(list(enumerate(correct))):
      apart = APART[k] if probe == "other" else None
      rows.append(_row(k, probe, x, apart=apart))
  return rows


# Student's t at 97.5 %, from a printed table, by degrees of freedom.
T = {2: 4.303, 3: 3.182}


def _interval(differences):
  n = len(differences)
  mean = sum(differences) / n
  variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
  half = T[n - 1] * math.sqrt(variance / n)
  return mean, mean - half, mean + half


@pytest.mark.parametrize(
  "probe, differences, left_out",
  [
    ("truth", (0, 0, 0, 1), 0),
    ("noise", (-1, -1, 0, 0), 0),
    ("blank", (0, -1, 0, 0), 0),
    ("other", (-1, 0, 0), 1),  # without the second question
  ],
)
def test_differences_are_paired_by_question(probe, differences, left_out):
  results = {r.probe: r for r in probe_results.measure("p", _rows())}
  found = results[probe]
  expected = _interval(differences)
  assert tuple(found.difference[:3]) == pytest.approx(expected, abs=1e-3)
  assert found.difference.count == len(differences)
  assert found.left_out == left_out
  assert (found.policy, found.budget) == ("p", 16)
  assert found.difference.mean == pytest.approx(
    found.accuracy.mean - found.without.mean
  )


def test_both_accuracies_are_over_the_same_questions():
  other = probe_results.measure("p", _rows())[-1]
  assert other.probe == "other"
  assert other.without.mean == pytest.approx(2 / 3)
  assert other.accuracy.mean == pytest.approx(1 / 3)
  assert other.accuracy.count == 3


def test_questions_of_a_group_count_once():
  rights = {"none": (1, 1, 0, 1, 1, 1), "noise": (0, 0, 0, 1, 0, 1)}
  rows = [
    _row(k, probe, bool(x), group="aabbcc"[k])
    for probe, correct in rights.items()
    for k, x in enumerate(correct)
  ]
  (found,) = probe_results.measure("p", rows)
  # Means of the groups: 1, 1/2, 1 without the probe and 0, 1/2, 1/2 under it.
  expected = _interval((-1, 0, -0.5))
  assert tuple(found.difference[:3]) == pytest.approx(expected, abs=1e-3)
  assert found.difference.count == found.accuracy.count == 3
  assert found.accuracy.mean == pytest.approx(1 / 3)


def test_budgets_are_kept_apart():
  rows = _rows() + [_row(k, "none", True, 64) for k in range(2)]
  rows += [_row(k, "noise", False, 64) for k in range(2)]
  found = {(r.budget, r.probe): r for r in probe_results.measure("p", rows)}
  assert len(found) == 5
  assert found[64, "noise"].difference.mean == -1
  assert found[16, "noise"].difference.mean == -0.5


def test_without_the_unprobed_run_there_is_no_difference():
  rows = [row for row in _rows() if row.probe != "none"]
  assert probe_results.measure("p", rows) == []
  assert probe_results.probe_difference(rows, "noise", 16) is None


def test_results_and_rows_come_back_from_their_files(tmp_path):
  results = probe_results.measure("p", _rows())
  probe_results.save(tmp_path / "probes.jsonl", results)
  assert probe_results.load(tmp_path / "probes.jsonl") == results
  save_items(tmp_path / "items.jsonl", _rows())
  back = load_items(tmp_path / "items.jsonl")
  assert [row.apart for row in back] == [row.apart for row in _rows()]
  assert probe_results.measure("p", back) == results


def test_the_table_has_a_cell_for_each_probe_and_says_what_it_left_out():
  results = probe_results.measure("a", _rows())
  results += probe_results.measure("b", _rows()[:8])  # truth alone
  table = probe_results.probe_table(results)
  assert [column.title for column in table.columns] == [
    "16 tokens: ground-truth crop",
    "16 tokens: noise crop",
    "16 tokens: blank crop",
    "16 tokens: another region",
  ]
  cells = dict(table.rows)
  assert [round(cell.mean, 3) for cell in cells["a"]] == [
    *(0.25, -0.5, -0.25, -0.333)
  ]
  assert cells["b"][1:] == (None, None, None)
  assert "at most 1 a cell" in table.caption
  assert "| -50.0 [" in table.to_markdown()


def test_without_boxes_there_is_no_truth_to_show():
  bare = dict(coverage=None, iou=None)
  rows = [
    dataclasses.replace(row, **bare) if row.id == "q1" else row
    for row in _rows()
  ]
  found = {r.probe: r for r in probe_results.measure("p", rows)}
  assert found["truth"].left_out == 1 and found["noise"].left_out == 0
  assert found["truth"].difference == pytest.approx(
    (*_interval((0, 0, 1)), 3), rel=1e-3
  )
  caption = probe_results.probe_table(list(found.values())).caption
  assert "questions without boxes are left out, at most 1 a cell" in caption
  rows = [dataclasses.replace(row, **bare) for row in _rows()]
  assert "truth" not in {r.probe for r in probe_results.measure("p", rows)}


def test_the_papers_table_takes_the_same_differences():
  (result,) = summary.summarise("p", _rows())
  assert result.noise_drop.mean == 0.5  # a loss is a positive drop
  assert result.truth_gain.mean == 0.25


def test_every_evaluation_has_all_four_probes():
  config = config_lib.load_config(sizes.CONFIG)
  assert runner.parse_probes(config.eval.probes) == list(Probe)
  assert set(probe_results.NAMES) == {p.name.lower() for p in Probe} - {"none"}
