"""Benchmarks' scores side by side, as the paper has them."""

import json

import pytest

from lfpc_jax import paper_table
from lfpc_jax.data import manual, registry
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import command, paper
from lfpc_jax.statistics import Estimate
from tests import command_line
from tests.data.sources import layouts
from tests.evaluation import made_up


def _estimate(mean):
  return dict(mean=mean, low=mean - 0.1, high=mean + 0.1, count=9)


def _write(folder, policy, data, means, seconds=1.0, **changes):
  """A scores.json; `means` are by budget."""
  folder.mkdir(parents=True)
  config = {
    "data": {"name": data},
    "eval": {"split": "test", "budgets": [*means]},
    "policy": {},
    "rollout": {"max_crops": 5},
  }
  score = {
    f"{budget:,} tokens: overall{suffix}": _estimate(mean + more)
    for budget, mean in means.items()
    for suffix, more in (("", 0), (", as VLMEvalKit reads", 0.05))
  }
  content = {
    "policy": policy,
    "code": "c",
    "judge": None,
    "manifest": {"config": config, "parameters": policy, "sets": {}},
    "seconds": {
      str(budget): {
        "without_compiling": seconds,
        "with_compiling": 2 * seconds,
      }
      for budget in means
    },
    "notes": ["Options are shuffled by seed 0."],
    "score": score,
  }
  (folder / "scores.json").write_text(json.dumps(content | changes))
  return folder


@pytest.fixture
def folders(tmp_path):
  return [
    _write(tmp_path / "a", "LFPC", "vstar", {1024: 0.8, 16384: 0.9}, 3.0),
    _write(tmp_path / "b", "LFPC", "hr_bench_8k", {1024: 0.7}, 2.0),
    _write(tmp_path / "c", "Mini-o3", "hr_bench_8k", {1024: 0.6}, 4.0),
  ]


def test_policies_are_rows_and_benchmarks_columns_in_the_papers_order(folders):
  table = paper.table(paper.load(folders))
  assert [(c.group, c.name) for c in table.columns] == [
    ("1,024 tokens", "HR-8K"),
    ("1,024 tokens", "V*"),
    ("1,024 tokens", "HR-8K, s"),
    ("1,024 tokens", "V*, s"),
    ("1,024 tokens", "HR-8K, s compiling"),
    ("1,024 tokens", "V*, s compiling"),
    ("16,384 tokens", "V*"),
    ("16,384 tokens", "V*, s"),
    ("16,384 tokens", "V*, s compiling"),
  ]
  (first, own), (second, other) = table.rows
  assert (first, second) == ("LFPC", "Mini-o3")
  assert own[0] == Estimate(0.7, 0.7 - 0.1, 0.7 + 0.1, 9)
  assert [x.mean for x in (own[1], own[6])] == [0.8, 0.9]
  assert own[2:6] == (2, 3, 4, 6)
  assert (other[0].mean, other[1], other[2]) == (0.6, None, 4)
  assert other[6:] == (None,) * 3
  assert table.best(0) == "70.0" and table.best(2) == "2.00"


def test_another_reading_is_chosen_by_flag(folders):
  table = paper.table(paper.load(folders), "vlmevalkit")
  assert table.rows[0][1][0].mean == pytest.approx(0.75)
  assert "VLMEvalKit" in table.caption
  # Nobody has measured it: only seconds are left.
  unknown = paper.table(paper.load(folders), "likelihood")
  assert unknown.columns[0].name == "HR-8K, s"


def test_what_the_scores_rest_on_is_said_where_it_differs(folders, tmp_path):
  assert paper.notes(paper.load(folders)) == [
    "V*: Options are shuffled by seed 0.",
    "HR-8K: Options are shuffled by seed 0.",
  ]
  manifest = paper.load(folders[2:])[0].manifest
  manifest["config"]["rollout"]["max_crops"] = 3
  about = {"judge": {"model": "qwen"}, "manifest": manifest}
  odd = _write(tmp_path / "d", "odd", "hr_bench_8k", {1024: 0.5}, **about)
  *_, line = paper.notes(paper.load([*folders, odd]))
  assert line.startswith("HR-8K: not the policy alone differs between LFPC")
  assert "and odd: rollout.max_crops: 5 -> 3" in line
  assert "graded with judge: None -> {'model': 'qwen'}" in line


def test_a_policy_has_one_set_of_parameters(folders, tmp_path):
  manifest = paper.load(folders[2:])[0].manifest
  manifest["config"]["data"]["name"] = "hr_bench_4k"
  found = _write(tmp_path / "d", "LFPC", "", {1024: 0.5}, manifest=manifest)
  *_, line = paper.notes(paper.load([*folders, found]))
  assert line == "LFPC has other parameters on HR-4K."


def test_a_score_is_there_once(folders, tmp_path):
  again = _write(tmp_path / "again", "LFPC", "vstar", {16384: 0.1})
  says = "both hold 'LFPC' on vstar at 16384 tokens: name one of them"
  with pytest.raises(UserError, match=says):
    paper.load([*folders, again])


@pytest.mark.parametrize(
  "text, says",
  [
    (None, "no scores.json.*configs/eval_"),
    ("{", "damaged or of another version"),
    ('{"policy": "p"}', "damaged or of another version.*again"),
  ],
)
def test_a_folder_without_scores_is_named(tmp_path, text, says):
  if text:
    (tmp_path / "scores.json").write_text(text)
  with pytest.raises(UserError, match=rf"{tmp_path}.*{says}"):
    paper.load([tmp_path])


def test_the_command_sets_evaluations_side_by_side(tmp_path, capsys):
  root = tmp_path / "raw"
  root.mkdir()
  layouts.write_tsv(root / "hr_bench_8k.tsv", layouts.hr_rows(2))
  layouts.write_vstar(root, "sa_1")
  layouts.write_vstar(root, "sa_2", "relative_position")
  folders = []
  for name in ("hr_bench_8k", "vstar"):
    manual.prepare(registry.SOURCES[name], root, tmp_path / "data")
    config = made_up.config(
      f"data.name={name}",
      f"data.dir={tmp_path / 'data'}",
      "eval.probes=()",
      "eval.budgets=(9,)",
      "rollout.text_capacity=200",
    )
    folders.append(str(tmp_path / name))
    with made_up.policy(lambda batch, probe: ["green"] * len(batch.size)):
      command.evaluate(config, tmp_path / name, "")
  capsys.readouterr()
  output = tmp_path / "table.md"
  paper_table.main([f"--workdirs={','.join(folders)}", f"--output={output}"])
  out = " ".join(capsys.readouterr().out.split())
  text = output.read_text()
  head, row = (
    [cell.strip() for cell in line.split("|")]
    for line in text.splitlines()
    if line.startswith(("|  |", "| pretrained"))
  )
  assert head[2:4] == ["9 tokens: HR-8K", "9 tokens: V*"]
  assert row[2].startswith("100.0 [") and row[3].startswith("0.0 [")
  for part in (
    "HR-8K: Options are in their stored order.",
    "shuffled by seed 0",
  ):
    assert part in text and part in out


def test_the_command_wants_evaluations(capsys):
  assert command_line.status(paper_table.main, ["--workdirs=,"]) == 1
  assert "names no evaluation" in capsys.readouterr().err
