"""Evaluations whose rollouts are made up: everything but the policy runs."""

import contextlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import config as config_lib
from lfpc_jax.data import loader
from lfpc_jax.evaluation import command, items, runner
from lfpc_jax.evaluation.items import Item
from lfpc_jax.report.records import save_records
from lfpc_jax.rollout.probes import Probe
from lfpc_jax.rollout.types import CROPPED, NO_CALL, Stop, Trajectory
from tests.gap_selection import sizes

BUDGETS, NUMBER, BATCH = (4, 9), 5, 2
BOX = (0, 0, 60, 60)


def config(*changes):
  """The shipped policy at toy sizes, with two budgets."""
  found = config_lib.load_config(
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
  return config_lib.freeze(found)


def item(name, **changes):
  """A row of an answer without a crop."""
  fields = dict(
    category="attribute",
    budget=16,
    probe="none",
    correct=True,
    formed=True,
    prediction="7",
    turns=1,
    crops=0,
    failed_calls=0,
    stop="ANSWERED",
    iou=None,
    coverage=None,
    area=None,
    box=None,
  )
  return Item(name, **(fields | changes))


def write_evaluation(folder, name, rows, records=(), **content):
  """The files of an evaluation, as the evaluate command leaves them."""
  folder.mkdir(parents=True)
  items.save_items(folder / "items.jsonl", rows)
  save_records(folder / "records.jsonl", list(records))
  known = {"policy": name, "seconds_per_question": {"16": 0.5}}
  (folder / "evaluation.json").write_text(json.dumps(known | content))
  return folder


def seven_if_shown(batch, probe):
  """7, or 1 where the probe hides the crop."""
  hidden = probe in (Probe.NOISE, Probe.BLANK, Probe.OTHER)
  return ["1" if hidden else "7"] * len(batch.size)


def from_pixels(batch, probe):
  """A number that the original's pixels decide, and the probe."""
  pairs = zip(np.asarray(batch.originals, np.int64), np.asarray(batch.size))
  return [str(x[:h, :w].sum() % 9973 + probe) for x, (h, w) in pairs]


def _rollouts(agent, answer, told):
  """A rollout that crops and says what `answer` gives."""

  def rollout(params, batch, texts, key, probe, prefix):
    probe = Probe(int(probe))
    told(probe, tuple(batch.originals.shape[1:3]))
    words = [
      agent.tokenizer.encode(f"<answer>{x}</answer><|im_end|>")
      for x in answer(batch, probe)
    ]
    p, turns = len(words), agent.episodes.max_turns
    slots = 1 + max(map(len, words))
    full = lambda *shape: np.zeros((p, 1, *shape), np.int32)
    tokens, end, length = full(slots), full(turns), full() + 1
    for row, text in enumerate(words):
      tokens[row, 0, 1 : 1 + len(text)] = text
      end[row, 0, 1] = 1 + len(text)
      length[row, 0] += len(text)
    outcome = np.full((p, 1, turns), NO_CALL)
    outcome[..., 0] = CROPPED
    start = full(turns)
    start[..., 1] = 1
    box = np.broadcast_to(np.array(BOX, np.int32), (p, 1, 1, 4))
    return Trajectory(
      tokens=tokens,
      positions=full(slots, 3),
      visual_index=full(slots) - 1,
      length=length,
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
def policy(answer=seven_if_shown, source=None, told=lambda probe, size: None):
  """Within it rollouts are made up; gives what was asked of policies.

  Args:
    answer: gives the answers to a batch under a probe.
    source: the examples; None for some of `sizes`.
    told: called with the probe and the originals' capacity of each rollout.

  Yields:
    The probes of all passes, the checkpoints that were read, and the
    parameters in each of them by name.
  """
  asked, read, stored = [], [], {}

  def note(probe, size):
    told(probe, size)
    asked.append(probe)

  class Made(runner.Runner):
    def __init__(self, config):
      super().__init__(config)
      for budget, agent in self._agents.items():
        self._rollouts[budget] = _rollouts(agent, answer, note)
        self._prefills[budget] = lambda params, batch: jnp.zeros(())

  def load_params(agent, checkpoint):
    read.append(checkpoint)
    return stored.get(checkpoint, {"w": jnp.zeros(3)})

  source = sizes.source(NUMBER) if source is None else source
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(command, "Runner", Made)
    patch.setattr(loader, "open_scenes", lambda *_: source)
    patch.setattr(command.agent_lib, "load_params", load_params)
    yield asked, read, stored
