"""The evaluate command on made-up rollouts: rows, probes, files, page."""

import json

import jax.numpy as jnp
import pytest

import lfpc_jax
from lfpc_jax import source
from lfpc_jax.data import images
from lfpc_jax.data.loader import PromptSource
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import command, probe_results, runner
from lfpc_jax.evaluation.items import load_items
from lfpc_jax.rollout.probes import Probe
from tests import waiting
from tests.data.sources import layouts
from tests.evaluation import made_up
from tests.evaluation.made_up import BATCH, BOX, BUDGETS, NUMBER


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
  """(folder, the probes of each pass)."""
  folder = tmp_path_factory.mktemp("evaluation")
  with made_up.policy() as (asked, _, _):
    command.evaluate(made_up.config(), folder, "")
    command.evaluate(made_up.config(), folder, "")  # is done already
  return folder, asked


def test_a_run_that_has_trained_on_is_evaluated_again(tmp_path):
  config = made_up.config("eval.probes=()", "policy.checkpoint=start")
  with made_up.policy() as (asked, read, stored):
    command.evaluate(config, tmp_path, "run")
    once = len(asked)
    command.evaluate(config, tmp_path, "run")
    assert len(asked) == once
    stored["run"] = {"w": jnp.ones(3)}
    command.evaluate(config, tmp_path, "run")
    assert len(asked) == 2 * once
    command.evaluate(config, tmp_path, "")
  assert read == ["run", "run", "run", "start"]


def test_an_evaluation_draws_no_mix(tmp_path):
  config = made_up.config("eval.probes=()", "data.mix=(2,)")
  with made_up.policy():
    assert len(command.open_questions(config)) == NUMBER


def test_the_manifest_names_code_and_versions(tmp_path, monkeypatch):
  made = made_up.config("eval.probes=()")
  with made_up.policy() as (asked, _, _):
    command.evaluate(made, tmp_path, "")
    once = len(asked)
    known = json.loads((tmp_path / "evaluation.json").read_text())
    assert known["code"] == source.digest()
    assert known["versions"]["lfpc_jax"] == lfpc_jax.__version__
    # What has ended stays, and says which code it was.
    monkeypatch.setattr(source, "digest", lambda: "other")
    command.evaluate(made, tmp_path, "")
    assert len(asked) == once
    assert json.loads((tmp_path / "evaluation.json").read_text()) == known


def test_seconds_stand_with_and_without_compiling(evaluated):
  path = evaluated[0] / "evaluation.json"
  content = json.loads(path.read_text())
  _, results, _ = command.load_results(evaluated[0])
  for result in results:
    plain = content["seconds_per_question"][str(result.budget)]
    extra = content["compile_seconds"][str(result.budget)]
    assert result.seconds.mean == plain > 0
    whole = plain + extra / NUMBER
    assert result.seconds_compiling.mean == pytest.approx(whole)
  assert "with compiling" in (evaluated[0] / "report.html").read_text()


def test_seconds_that_data_was_waited_for_stand_apart(tmp_path, monkeypatch):
  clock, decode, slow = waiting.Clock(monkeypatch), images.decode, iter([7])

  def once_slowly(*args, **options):
    for seconds in slow:
      clock.advance(seconds)
    return decode(*args, **options)

  monkeypatch.setattr(images, "decode", once_slowly)
  config, kept = made_up.config("eval.probes=()"), []
  with made_up.policy():
    command.evaluate(config, tmp_path, "")
    slow = iter([7])
    examples = command.open_questions(config)
    params = {"w": jnp.zeros(3)}
    command.Runner(config).run("p", params, examples, keep=kept.append)
  content = json.loads((tmp_path / "evaluation.json").read_text())
  assert content["data_wait_seconds"] == 7
  # A batch is waited for once, not at each budget.
  assert len(kept) == 3 * len(BUDGETS)
  assert sum(entry.waited for entry in kept) == 7
  assert all(e.waited == 0 for e in kept if e.budget != BUDGETS[0])


def test_every_batch_runs_without_and_with_each_probe(evaluated):
  _, asked = evaluated
  batches = -(-NUMBER // BATCH)
  assert asked == list(Probe) * batches * len(BUDGETS)


def test_there_is_a_row_for_each_question_probe_and_budget(evaluated):
  rows = load_items(evaluated[0] / "items.jsonl")
  keys = {(row.id, row.budget, row.probe) for row in rows}
  assert len(rows) == len(keys) == NUMBER * len(BUDGETS) * len(Probe)
  for row in rows:
    assert row.correct == (row.probe in ("none", "truth"))
    assert row.box == BOX and row.crops == 1 and row.stop == "ANSWERED"
    assert (row.apart is None) == (row.probe != "other")


def test_the_differences_are_in_a_file_and_on_the_page(evaluated):
  folder, _ = evaluated
  found = probe_results.load(folder / "probes.jsonl")
  assert [(r.budget, r.probe) for r in found] == [
    (budget, probe)
    for budget in BUDGETS
    for probe in ("truth", "noise", "blank", "other")
  ]
  for result in found:
    expected = 0 if result.probe == "truth" else -1
    assert result.difference.mean == expected
    assert result.difference.count == NUMBER - result.left_out
  page = (folder / "report.html").read_text()
  for name in probe_results.NAMES.values():
    assert name in page
  content = json.loads((folder / "evaluation.json").read_text())
  assert content["config"]["eval"]["probes"] == [
    *("truth", "noise", "blank", "other")
  ]


def test_the_truth_wants_boxes(tmp_path):
  rows = [
    dict(
      id=f"q{k}",
      image=layouts.image_bytes(k),
      question="What digit is on the sign?",
      answer="7",
      category="all",
    )
    for k in range(2)
  ]
  says = "no question has boxes: give --config.eval.probes=noise,blank,other"
  with made_up.policy(source=PromptSource(rows, "plain")) as (asked, _, _):
    with pytest.raises(UserError, match=says):
      command.evaluate(made_up.config(), tmp_path, "")
    assert asked == []


def test_an_unknown_probe_is_named_with_the_known_ones():
  with pytest.raises(UserError, match=r"'grey'.*none, truth, noise, blank"):
    runner.parse_probes(["noise", "grey"])
  assert runner.parse_probes(["noise", "none"]) == [Probe.NONE, Probe.NOISE]
