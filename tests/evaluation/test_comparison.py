"""Two evaluations side by side: pairs, names, refusals, the page."""

import io
import json
import pathlib

import numpy as np
import pytest
import rich.console
from scipy import stats

from lfpc_jax import compare, statistics
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import comparison
from lfpc_jax.evaluation.items import save_items
from tests.evaluation import made_up
from tests.report import samples

_QUESTIONS = 40
_CONFIG = {
  "policy": {"checkpoint": ""},
  "data": {"name": "scenes"},
  "rollout": {"max_crops": 1},
  "eval": {"budgets": [16]},
}


def _rows(seed, budgets=(16, 64), questions=_QUESTIONS):
  """Made-up rows; about a third of them without a crop."""
  rng = np.random.default_rng(seed)
  rows = []
  for budget in budgets:
    for number in range(questions):
      crops = int(rng.random() > 0.3)
      for probe in ("none", "noise"):
        rows.append(
          made_up.item(
            f"scene-{number:04d}",
            category=("easy", "hard")[number % 2],
            budget=budget,
            probe=probe,
            correct=bool(rng.random() < 0.5),
            turns=1 + crops,
            crops=crops,
            iou=rng.random() if crops else None,
            coverage=rng.random() if crops else None,
            area=rng.random() if crops else None,
            box=(0, 0, 5, 5) if crops else None,
          )
        )
  return rows


def _write(folder, name, rows, config=_CONFIG, checkpoint=""):
  return made_up.write_evaluation(
    folder,
    name,
    rows,
    samples.make_records(3, policies=(name,)),
    checkpoint=str(checkpoint),
    config=config,
  )


@pytest.fixture
def pair(tmp_path):
  first = _write(tmp_path / "a", "before", _rows(0))
  return first, _write(tmp_path / "b", "after", _rows(1)[::-1])


def _cells(table):
  ((label, cells),) = table.rows
  names = [(column.group, column.name) for column in table.columns]
  return label, dict(zip(names, cells, strict=True))


def test_differences_are_paired_by_question(pair):
  label, cells = _cells(comparison.difference_table(comparison.load(pair)))
  assert label == "after"
  for budget in (16, 64):
    first, second = (
      {r.id: r for r in rows if (r.budget, r.probe) == (budget, "none")}
      for rows in (_rows(0), _rows(1))
    )
    change = [second[k].correct - int(first[k].correct) for k in first]
    expected = stats.ttest_1samp(change, 0).confidence_interval(0.95)
    found = cells[f"{budget} tokens", "accuracy"]
    np.testing.assert_allclose(found.mean, np.mean(change))
    np.testing.assert_allclose(found[1:3], expected)
    assert cells[f"{budget} tokens", "wrong → right"] == change.count(1)
    assert cells[f"{budget} tokens", "right → wrong"] == change.count(-1)
    both = [
      second[k].iou - first[k].iou
      for k in first
      if first[k].crops and second[k].crops
    ]
    found = cells[f"{budget} tokens", "IoU"]
    assert found.count == len(both) < _QUESTIONS
    np.testing.assert_allclose(found.mean, np.mean(both))


def test_questions_of_a_group_count_once(tmp_path):
  folders = []
  for name, rights in (("a", (0, 0, 1, 1)), ("b", (1, 0, 1, 1))):
    rows = [
      made_up.item(f"q{k}", correct=bool(x), group="ggh"[min(k, 2)])
      for k, x in enumerate(rights)
    ]
    folders.append(_write(tmp_path / name, name, rows))
  table = comparison.difference_table(comparison.load(folders))
  accuracy = table.rows[0][1][0]
  assert accuracy == statistics.mean([0.5, 0])


def test_categories_add_up_to_the_whole(pair):
  found = comparison.load(pair)
  _, cells = _cells(comparison.category_difference_table(found))
  _, whole = _cells(comparison.difference_table(found))
  parts = [cells["16 tokens", name] for name in ("easy", "hard")]
  mean = sum(p.mean * p.count for p in parts) / _QUESTIONS
  np.testing.assert_allclose(mean, whole["16 tokens", "accuracy"].mean)


def test_policies_of_one_name_go_by_their_folders(tmp_path):
  folders = [
    _write(tmp_path / name / "evaluation", "stage1", _rows(seed))
    for seed, name in enumerate(("a", "b"))
  ]
  found = comparison.load([folder.parent for folder in folders])
  assert [one.name for one in found] == ["a", "b"]
  assert {r.policy for r in found[1].records} == {"b"}
  assert {r.policy for r in found[1].results} == {"b"}


def test_a_folder_inside_another_keeps_its_name(tmp_path):
  outer = _write(tmp_path / "run", "stage1", _rows(0))
  inner = _write(tmp_path / "run" / "again", "stage1", _rows(1))
  found = comparison.load([outer, inner])
  assert [one.name for one in found] == ["run", "again"]


def test_settings_that_differ_are_said(tmp_path, pair):
  other = _CONFIG | {"rollout": {"max_crops": 2}, "policy": {"checkpoint": "x"}}
  third = _write(tmp_path / "c", "third", _rows(2), other)
  notes = comparison.notes(comparison.load([pair[0], third]))
  assert len(notes) == 2 and "rollout.max_crops: 1 -> 2" in notes[1]
  assert "checkpoint" not in notes[1]
  around = {"versions": {"jax": "9"}, "code": "12ab", "device": "TPU v9"}
  around["config"] = _CONFIG | {"gap": {"min_tokens": 9, "tokens": 16}}
  fourth = made_up.write_evaluation(tmp_path / "d", "d", _rows(2), **around)
  (_, note) = comparison.notes(comparison.load([pair[0], fourth]))
  for change in ("versions", "code", "device", "gap.min_tokens"):
    assert f"{change}: None" in note
  assert "gap.tokens" not in note
  assert len(comparison.notes(comparison.load(pair))) == 1


def test_learning_curves_of_the_runs_are_on_the_page(tmp_path, pair):
  run = tmp_path / "run"
  run.mkdir()
  (run / "metrics.jsonl").write_text('{"step": 0, "reward": 0.5}\n')
  other = _write(tmp_path / "c", "third", _rows(2), checkpoint=run)
  (curve,) = comparison.curves(comparison.load([pair[0], other]))
  assert (curve.run, curve.quantity, curve.values) == (
    "third",
    "reward",
    (0.5,),
  )


_FAULTS = {
  "no evaluation": (lambda f: f.rename(f.with_name("z")), "no finished eval"),
  "damaged": (lambda f: (f / "evaluation.json").write_text("{"), "is damaged"),
  "old form": (
    lambda f: (f / "items.jsonl").write_text('{"id": "x"}\n'),
    "is damaged",
  ),
  "other questions": (
    lambda f: save_items(f / "items.jsonl", _rows(1, questions=39)),
    "1 questions .*'scene-0039'.* one --config.eval.items",
  ),
  "other budgets": (
    lambda f: save_items(f / "items.jsonl", _rows(1, (9,))),
    "one --config.eval.budgets",
  ),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_what_cannot_be_compared_is_refused(pair, fault):
  damage, says = _FAULTS[fault]
  damage(pair[1])
  with pytest.raises(UserError, match=says) as error:
    comparison.load(pair)
  assert "\n" not in str(error.value)


def test_one_evaluation_is_not_compared_with_itself(pair):
  with pytest.raises(UserError, match="twice"):
    comparison.load([pair[0], pair[0] / ".." / "a"])
  with pytest.raises(UserError, match="two or more"):
    compare.compare(pair[:1], pathlib.Path("x.html"), rich.console.Console())


def test_the_command_prints_and_writes_the_page(pair, tmp_path, capsys):
  output = tmp_path / "page.html"
  names = ",".join(map(str, pair))
  compare.main([f"--workdirs={names}", f"--output={output}"])
  printed = capsys.readouterr().out
  assert "Difference from before on the same questions" in printed
  text = output.read_text("utf-8")
  data = text.partition('id="data">')[2].partition("</script>")[0]
  data = json.loads(data)
  assert data["start"] == {"policy": "before", "compare": "after"}
  assert len(data["rollouts"]) == 6
  assert text.count("<table>") == 4


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
  with pytest.raises(SystemExit) as stop:
    compare.main([f"--workdirs={tmp_path},{tmp_path}/x"])
  assert stop.value.code == 1
  assert capsys.readouterr().err.count("\n") == 1


def test_names_are_text_in_the_terminal(tmp_path):
  folders = [
    _write(tmp_path / name, f"[red]{name}", _rows(seed))
    for seed, name in enumerate("ab")
  ]
  console = rich.console.Console(file=io.StringIO(), width=200)
  compare.compare(folders, tmp_path / "p.html", console)
  assert "[red]a" in console.file.getvalue()
