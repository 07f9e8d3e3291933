"""A killed evaluation goes on; mixed sizes change nothing but the programs."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import source as source_lib
from lfpc_jax import statistics
from lfpc_jax.data.loader import PromptSource
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import buckets, command
from lfpc_jax.evaluation.items import load_items
from lfpc_jax.report.records import load_records
from lfpc_jax.rollout.probes import Probe
from tests.data.sources import layouts
from tests.evaluation import made_up
from tests.evaluation.made_up import BATCH, BUDGETS
from tests.gap_selection import sizes

SIZES = [(90, 80), (390, 90), (80, 90), (90, 350), (390, 350), (100, 60)]
SIZES += [(380, 70), (150, 180), (60, 100)]
PROBES = (Probe.NONE, Probe.NOISE)
CHANGES = ("data.image_capacity=400,400", "eval.probes=('noise',)")
CALLS = len(BUDGETS) * len(PROBES)  # of a batch


def _source():
  rows = [
    dict(
      id=f"q{k}",
      image=layouts.image_bytes(10 * k + 1, size),
      question="What digit is on the red sign?",
      answer=_answer(k, Probe.NONE) if k % 2 else "none",
      category="attribute",
      group=f"g{k // 3}",
    )
    for k, size in enumerate(SIZES)
  ]
  return PromptSource(rows, "mixed")


def _answer(k, probe):
  return str((10 * k + 1) * 3 * int(np.prod(SIZES[k])) % 9973 + probe)


def _policy(told=lambda probe, size: None):
  return made_up.policy(made_up.from_pixels, _source(), told)


def _results(folder):
  found = load_items(folder / "items.jsonl")
  return found, load_records(folder / "records.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """(folder, capacities) of an evaluation that nothing interrupts."""
  folder, sizes = tmp_path_factory.mktemp("whole"), []
  with _policy(lambda probe, size: sizes.append(size)):
    command.evaluate(made_up.config(*CHANGES), folder, "")
  return folder, sizes


def test_questions_of_mixed_sizes_come_out_in_order(whole):
  rows, records = _results(whole[0])
  assert [(r.budget, r.probe, r.id, r.prediction) for r in rows] == [
    (budget, probe.name.lower(), f"q{k}", _answer(k, probe))
    for budget in BUDGETS
    for probe in PROBES
    for k in range(len(SIZES))
  ]
  assert [(r.budget, r.id, r.original_size) for r in records] == [
    (budget, f"q{k}", SIZES[k]) for budget in BUDGETS for k in range(2)
  ]


def test_few_programs_serve_all_sizes(whole):
  sizes = whole[1]
  assert set(sizes) == {(400, 400), (100, 100), (400, 100)}
  assert len(sizes) == 5 * CALLS


def test_the_capacity_changes_no_row(whole, tmp_path, monkeypatch):
  monkeypatch.setattr(buckets, "_HALVINGS", 1)
  sizes = []
  with _policy(lambda probe, size: sizes.append(size)):
    command.evaluate(made_up.config(*CHANGES), tmp_path, "")
  assert set(sizes) == {(400, 400)}
  assert _results(tmp_path) == _results(whole[0])


def test_intervals_count_groups(whole):
  rows = [r for r in _results(whole[0])[0] if r.probe == "none"]
  (accuracy, _) = [r.accuracy for r in command.load_results(whole[0])[1]]
  # Of each group's three questions: 1, 2 and 1 right.
  assert [r.correct for r in rows[:9]] == [k % 2 == 1 for k in range(9)]
  assert accuracy == pytest.approx(statistics.mean([1 / 3, 2 / 3, 1 / 3]))


def _killed(folder, calls):
  """An evaluation that is killed in a rollout, after some others."""
  left = [calls]

  def told(probe, size):
    left[0] -= 1
    if left[0] < 0:
      raise KeyboardInterrupt

  with _policy(told), pytest.raises(KeyboardInterrupt):
    command.evaluate(made_up.config(*CHANGES), folder, "")


@pytest.mark.parametrize("calls", [0, 1, len(PROBES), 2 * CALLS + 1])
def test_a_killed_evaluation_goes_on(whole, tmp_path, calls):
  _killed(tmp_path, calls)
  assert not (tmp_path / "evaluation.json").exists()
  with _policy() as (asked, _, _):
    command.evaluate(made_up.config(*CHANGES), tmp_path, "")
  kept = calls // len(PROBES) * len(PROBES)
  assert len(asked) == 5 * CALLS - kept
  assert _results(tmp_path) == _results(whole[0])
  assert not (tmp_path / command.JOURNAL).exists()


def test_one_that_is_killed_twice_in_the_middle_of_a_line_goes_on(
  whole, tmp_path
):
  _killed(tmp_path, CALLS)
  path = tmp_path / command.JOURNAL
  path.write_bytes(path.read_bytes()[:-7])
  _killed(tmp_path, CALLS)
  with _policy() as (asked, _, _):
    command.evaluate(made_up.config(*CHANGES), tmp_path, "")
  assert len(asked) == 5 * CALLS - (2 * CALLS - len(PROBES))
  assert _results(tmp_path) == _results(whole[0])


def test_another_evaluation_does_not_go_on_from_it(tmp_path):
  _killed(tmp_path, CALLS)
  says = rf"config.eval.batch {BATCH} -> 3.*or remove journal.jsonl"
  with _policy(), pytest.raises(UserError, match=says):
    command.evaluate(made_up.config(*CHANGES, "eval.batch=3"), tmp_path, "")
  with _policy() as (_, _, stored), pytest.raises(UserError, match="parameter"):
    stored["run"] = {"w": jnp.ones(3)}
    command.evaluate(made_up.config(*CHANGES), tmp_path, "run")


def test_another_code_does_not_go_on_from_it(tmp_path, monkeypatch):
  _killed(tmp_path, CALLS)
  monkeypatch.setattr(source_lib, "digest", lambda: "other")
  with _policy(), pytest.raises(UserError, match=r"code '?\w+'? -> '?other"):
    command.evaluate(made_up.config(*CHANGES), tmp_path, "")


def test_what_has_no_room_is_refused_before_anything_is_asked(tmp_path):
  small = made_up.config(*CHANGES, "data.image_capacity=380,400")
  with _policy() as (asked, _, _), pytest.raises(UserError) as raised:
    command.evaluate(small, tmp_path, "")
  assert "example q1: its image of 390 x 90" in str(raised.value)
  assert "2 of 9 examples have no room" in str(raised.value)
  assert asked == []


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_shipped_policy_answers_alike_at_any_capacity(
  tmp_path, monkeypatch
):
  changes = "eval.budgets=(9,)", "eval.batch=1", "eval.probes=('noise',)"
  config = made_up.config(*CHANGES, *changes)
  source = sizes.source(2)
  monkeypatch.setattr(command.loader, "open_scenes", lambda *_: source)
  found = []
  for halvings, programs in ((1, 1), (3, 2)):
    monkeypatch.setattr(buckets, "_HALVINGS", halvings)
    folder, runner = tmp_path / str(halvings), command.Runner(config)
    command.evaluate_into(folder, config, runner, "policy", "")
    assert len({part.capacity for part in runner.cut(source)}) == programs
    found.append(_results(folder))
  assert found[0] == found[1]
