"""The evaluate command on made-up rollouts: rows, probes, files, page."""

import contextlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.data import loader
from lfpc_jax.errors import UserError
from lfpc_jax.evaluation import command, probe_results, runner
from lfpc_jax.evaluation.items import load_items
from lfpc_jax.rollout.probes import Probe
from lfpc_jax.rollout.types import CROPPED, NO_CALL, Stop, Trajectory
from tests.gap_selection import sizes

BUDGETS, NUMBER, BATCH = (4, 9), 5, 2
BOX = (0, 0, 60, 60)


def _config(*changes):
  config = config_lib.load_config(
    sizes.CONFIG,
    (
      "data.image_capacity=224,224",
      f"eval.budgets={BUDGETS}",
      f"eval.batch={BATCH}",
      "eval.items=0",
      "eval.records=2",
      *changes,
    ),
  )
  return config_lib.freeze(config)


def _rollouts(agent, asked):
  """A rollout that crops and says 7, or 1 where the probe hides the crop."""

  def rollout(params, batch, texts, key, probe, prefix):
    probe = Probe(int(probe))
    asked.append(probe)
    hidden = probe in (Probe.NOISE, Probe.BLANK, Probe.OTHER)
    words = agent.tokenizer.encode(
      f"<answer>{1 if hidden else 7}</answer><|im_end|>"
    )
    p, slots, turns = batch.tokens.shape[0], 12, agent.episodes.max_turns
    full = lambda *shape: np.zeros((p, 1, *shape), np.int32)
    tokens = full(slots)
    tokens[..., 1 : 1 + len(words)] = words
    end, outcome = full(turns), np.full((p, 1, turns), NO_CALL)
    end[..., 1] = 1 + len(words)
    outcome[..., 0] = CROPPED
    start = full(turns)
    start[..., 1] = 1
    box = np.broadcast_to(np.array(BOX, np.int32), (p, 1, 1, 4))
    return Trajectory(
      tokens=tokens,
      positions=full(slots, 3),
      visual_index=full(slots) - 1,
      length=full() + 1 + len(words),
      written=np.ones((p, 1, slots), bool),
      logp=full(slots).astype(np.float32),
      boxes=box,
      boxes_shown=box.astype(np.float32),
      grids=full(1, 2) + 3,
      crops=full() + 1,
      turns=full() + 2,
      turn_start=start,
      turn_end=end,
      outcome=outcome,
      stop=full() + Stop.ANSWERED,
      steps=np.int32(12),
    )

  return rollout


@contextlib.contextmanager
def _made_up():
  """Within it rollouts are made up; gives what was asked of policies.

  The probes of all passes, the checkpoints that were read, and the parameters
  in each of them by name.
  """
  asked, read, stored = [], [], {}

  class Made(runner.Runner):
    def __init__(self, config):
      super().__init__(config)
      for budget, agent in self._agents.items():
        self._rollouts[budget] = _rollouts(agent, asked)
        self._prefills[budget] = lambda params, batch: jnp.zeros(())

  def load_params(agent, checkpoint):
    read.append(checkpoint)
    return stored.get(checkpoint, {"w": jnp.zeros(3)})

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(command, "Runner", Made)
    patch.setattr(loader, "open_scenes", lambda *_: sizes.source(NUMBER))
    patch.setattr(command.agent_lib, "load_params", load_params)
    yield asked, read, stored


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
  """(folder, the probes of each pass)."""
  folder = tmp_path_factory.mktemp("evaluation")
  with _made_up() as (asked, _, _):
    command.evaluate(_config(), folder, "")
    command.evaluate(_config(), folder, "")  # is done already
  return folder, asked


def test_a_run_that_has_trained_on_is_evaluated_again(tmp_path):
  config = _config("eval.probes=()", "policy.checkpoint=start")
  with _made_up() as (asked, read, stored):
    command.evaluate(config, tmp_path, "run")
    once = len(asked)
    command.evaluate(config, tmp_path, "run")
    assert len(asked) == once
    stored["run"] = {"w": jnp.ones(3)}
    command.evaluate(config, tmp_path, "run")
    assert len(asked) == 2 * once
    command.evaluate(config, tmp_path, "")
  assert read == ["run", "run", "run", "start"]


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


def test_an_unknown_probe_is_named_with_the_known_ones():
  with pytest.raises(UserError, match=r"'grey'.*none, truth, noise, blank"):
    runner.parse_probes(["noise", "grey"])
  assert runner.parse_probes(["noise", "none"]) == [Probe.NONE, Probe.NOISE]
