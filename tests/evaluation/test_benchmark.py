"""A benchmark's score from an evaluation's rows, in the benchmark's form."""

import json

import numpy as np
import pytest

from lfpc_jax import statistics
from lfpc_jax.benchmarks.grading import Ruling
from lfpc_jax.benchmarks.judge import PROMPT_VERSION
from lfpc_jax.data import images, manual, registry
from lfpc_jax.data.examples import Example
from lfpc_jax.data.sources import hr_bench, vstar
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import benchmark, command
from tests.benchmarks import judge_server
from tests.data.sources import layouts
from tests.evaluation import made_up


def _item(name, prediction, **changes):
  return made_up.item(name, prediction=prediction, **changes)


def _example(name, category="single", group="", variant=""):
  return Example(
    id=name,
    image=np.zeros((0, 0, 3), np.uint8),
    question="Which?",
    answer="A",
    category=category,
    options=("red", "blue"),
    boxes=np.zeros((0, 4), np.int32),
    source="",
    group=group,
    variant=variant,
  )


def _rotations(rights):
  """Questions by (category, answers in the four rotations); B is wrong."""
  asked, rows = {}, []
  for q, (category, answers) in enumerate(rights):
    for turn, answer in enumerate(answers):
      name = f"{q}-{turn}"
      asked[name] = _example(name, category, f"q{q}", str(turn))
      rows.append(_item(name, answer))
  return rows, asked


def _cells(table):
  ((_, cells),) = table.rows
  return {c.name: cell for c, cell in zip(table.columns, cells)}


def test_hr_bench_is_the_mean_over_rotations_with_all_four_beside_it():
  rows, asked = _rotations(
    [
      ("single", "AAAA"),
      ("single", "AABA"),
      ("cross", "BBBA"),
      ("cross", "BBBB"),
    ]
  )
  table = benchmark.table("hr_bench_8k", "p", benchmark.grade(rows, asked))
  cells = _cells(table)
  assert table.title == "Score on HR-Bench 8K"
  assert table.columns[0].group == "16 tokens"
  # By hand: 8 of 16, 7 of 8, 1 of 8.
  assert [cells[k].mean for k in ("overall", "single", "cross")] == (
    [0.5, 0.875, 0.125]
  )
  # The interval is that of four questions, not of sixteen rows.
  wanted = statistics.mean([1, 0.75, 0.25, 0])
  assert cells["overall"] == pytest.approx(wanted)
  assert cells["overall, all four"] == statistics.proportion(1, 4)
  assert cells["single, all four"] == statistics.proportion(1, 2)
  assert cells["cross, all four"] == statistics.proportion(0, 2)
  assert len(cells) == 6


def test_questions_that_lack_a_rotation_are_said():
  rows, asked = _rotations([("single", "AAAA"), ("single", "AA")])
  cells = _cells(
    benchmark.table("hr_bench_4k", "p", benchmark.grade(rows, asked))
  )
  assert cells["questions without all four"] == 1


def test_vstar_is_the_accuracy_over_all_questions_and_by_category():
  asked = {
    name: _example(name, category)
    for name, category in zip("abcd", ["near", "near", "near", "far"])
  }
  rows = [_item(name, x) for name, x in zip("abcd", "ABAB")]
  rows += [_item(name, "B", probe="noise") for name in "abcd"]
  rows += [_item(name, "A", budget=9) for name in "abcd"]
  table = benchmark.table("vstar", "p", benchmark.grade(rows, asked))
  groups = ["16 tokens"] * 3 + ["9 tokens"] * 3
  assert [c.group for c in table.columns] == groups
  assert [c.name for c in table.columns[:3]] == ["overall", "near", "far"]
  assert table.rows[0][1][:3] == (
    statistics.proportion(2, 4),
    statistics.proportion(2, 3),
    statistics.proportion(0, 1),
  )


def test_a_failed_judge_is_counted_and_in_no_score():
  class Judge:
    def rule(self, disputes):
      return [Ruling(True), Ruling(None, "down")]

  asked = {name: _example(name) for name in "abc"}
  rows = [_item(*pair) for pair in zip("abc", ["crimson", "scarlet", "B"])]
  grades = benchmark.grade(rows, asked, Judge())
  table = benchmark.table("vstar", "p", grades, "qwen", notes=["Shuffled."])
  cells = _cells(table)
  assert cells["overall"] == statistics.proportion(1, 2)
  assert cells["invalid"] == 1
  assert table.caption.endswith(
    "Shuffled. What the rules leave open was judged by qwen."
  )


def test_rows_of_other_questions_are_refused():
  with pytest.raises(UserError, match="'a', which is no question"):
    benchmark.grade([_item("a", "A")], {})


def test_vlmevalkits_reading_stands_beside_our_own():
  # B, blue, is wrong; A, red, is right.
  rows, asked = _rotations([("single", "AAAB"), ("cross", "BBBB")])
  said = ["A", "not red", "red", "it is red", "red or blue", "B", "a", "B"]
  rows = [_item(row.id, text) for row, text in zip(rows, said)]
  kit = benchmark.grade_as_published(rows, asked)
  beside = benchmark.Beside("as VLMEvalKit reads", kit, "As it reads.")
  grades = benchmark.grade(rows, asked)
  table = benchmark.table("hr_bench_4k", "p", grades, besides=[beside])
  cells = _cells(table)
  # By hand. Ours: A, red, a. That tool's: the first four.
  assert cells["overall"].mean == 3 / 8
  assert cells["overall, as VLMEvalKit reads"].mean == 4 / 8
  # A single question has no interval.
  assert cells["single, as VLMEvalKit reads"] == 1
  assert cells["cross, as VLMEvalKit reads"] == 0
  assert cells["overall, as VLMEvalKit reads"].count == 2
  assert table.caption.endswith("As it reads.")
  one = benchmark.table("vstar", "p", grades, besides=[beside])
  share = statistics.proportion(4, 8)
  assert _cells(one)["overall, as VLMEvalKit reads"] == share


def _green(batch, probe):
  return ["green"] * len(batch.size)


def _evaluate(tmp_path, source, *changes, answer=_green):
  """scores.json and grades.jsonl, where every answer is 'green'."""
  manual.prepare(registry.SOURCES[source.name], tmp_path, tmp_path / "data")
  config = made_up.config(
    f"data.name={source.name}",
    f"data.dir={tmp_path / 'data'}",
    "eval.probes=()",
    "eval.budgets=(9,)",
    "rollout.text_capacity=200",
    *changes,
  )
  folder = tmp_path / "out"
  with made_up.policy(answer):
    command.evaluate(config, folder, "")
  lines = (folder / "grades.jsonl").read_text().splitlines()
  grades = [json.loads(line) for line in lines]
  return json.loads((folder / "scores.json").read_text()), grades


def test_the_command_gives_hr_benchs_score(tmp_path, capsys):
  layouts.write_tsv(tmp_path / "hr_bench_4k.tsv", layouts.hr_rows(2))
  found, grades = _evaluate(tmp_path, hr_bench.SOURCE_4K)
  score = found["score"]["9 tokens: overall"]
  assert (score["mean"], score["count"]) == (1, 2)
  assert found["score"]["9 tokens: cross, all four"]["count"] == 1
  assert found["judge"] is None
  assert {(g["group"], g["variant"]) for g in grades} == {
    (f"4k-q{q}", str(turn)) for q in range(2) for turn in range(4)
  }
  assert "Score on HR-Bench 4K" in capsys.readouterr().out


def test_the_rotations_of_a_question_share_its_picture(tmp_path, monkeypatch):
  shapes, decoded, found = {1: [], 8: []}, {1: [], 8: []}, {}
  decode = images.decode
  for batch in (1, 8):
    folder = tmp_path / str(batch)
    folder.mkdir()
    layouts.write_tsv(folder / "hr_bench_4k.tsv", layouts.hr_rows(3))

    def answer(asked, probe, batch=batch):
      shapes[batch].append((len(asked.originals), len(asked.size)))
      return _green(asked, probe)

    def count(data, batch=batch, **limits):
      decoded[batch].append(len(data))
      return decode(data, **limits)

    monkeypatch.setattr(images, "decode", count)
    _evaluate(folder, hr_bench.SOURCE_4K, f"eval.batch={batch}", answer=answer)
    found[batch] = (folder / "out" / "items.jsonl").read_text()
  # The third question is asked twice, to fill its batch.
  assert shapes == {1: [(1, 1)] * 12, 8: [(2, 8)] * 2}
  # The build decodes each row once.
  assert len(decoded[8]) == 12 + 3
  assert found[8] == found[1]


def test_missing_rows_are_printed_and_stored(tmp_path, capsys):
  rows = layouts.hr_rows(2)
  rows[5]["answer"] = "E"
  layouts.write_tsv(tmp_path / "hr_bench_4k.tsv", rows)
  found, _ = _evaluate(tmp_path, hr_bench.SOURCE_4K)
  built = found["manifest"]["sets"]["hr_bench_4k/test"]
  assert (built["rows"], built["published"], built["broken"]) == (7, 800, 1)
  said = "hr_bench_4k, split test, has 7 of 800 published rows"
  assert said in found["caption"]
  assert said in " ".join(capsys.readouterr().out.split())


def test_evaluations_share_a_judges_rulings_in_a_file(tmp_path):
  reply = (200, {}, judge_server.completion("yes"))
  shared = tmp_path / "rulings.jsonl"
  with judge_server.serve(lambda number, body: reply) as server:
    for name in "ab":
      folder = tmp_path / name
      layouts.write_vstar(folder, "sa_1")
      found, _ = _evaluate(
        folder,
        vstar.SOURCE,
        f"eval.judge.url={server.url}",
        "eval.judge.model=qwen",
        f"eval.judge.cache={shared}",
      )
      assert found["score"]["9 tokens: overall"]["mean"] == 1
      assert not (folder / "out" / "judge.jsonl").exists()
    assert len(server.requests) == 1
  assert len(shared.read_text().splitlines()) == 1


def test_the_command_asks_the_judge_that_the_config_names(tmp_path):
  layouts.write_vstar(tmp_path, "sa_1")
  layouts.write_vstar(tmp_path, "sa_2", "relative_position")
  reply = (200, {}, judge_server.completion("yes"))
  with judge_server.serve(lambda number, body: reply) as server:
    found, grades = _evaluate(
      tmp_path,
      vstar.SOURCE,
      f"eval.judge.url={server.url}",
      "eval.judge.model=qwen",
    )
  assert found["score"]["9 tokens: overall"]["mean"] == 1
  # That tool would ask a judge, too.
  beside = found["score"]["9 tokens: overall, as VLMEvalKit reads"]
  assert beside["mean"] == 0
  assert found["judge"]["model"] == "qwen"
  assert found["judge"]["prompt"] == PROMPT_VERSION
  assert {g["by"] for g in grades} == {"judge", "VLMEvalKit"}
