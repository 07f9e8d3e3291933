"""The trainer's selected gap, KL reference and alarms; nothing is compiled."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import checkpoints
from lfpc_jax import config as config_lib
from lfpc_jax.data import described, gap_file, loader
from lfpc_jax.data.gap_file import Chosen, Selection
from lfpc_jax.errors import UserError
from lfpc_jax.metrics import read_metrics
from lfpc_jax.rl import alarms
from lfpc_jax.rl.trainer import Trainer
from tests import small_scenes, waiting

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "tiny.py"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """A config of small scenes."""
  with small_scenes.prepared(tmp_path_factory.mktemp("data")) as data:
    changes = (*data, "gap.tokens=4", "gap.full_tokens=16")
    yield lambda *more: config_lib.freeze(
      config_lib.load_config(f"{CONFIG}:smoke", (*changes, *more))
    )


def _write_selection(config):
  """Budgets 4, 9 and 16 in turn; every fourth is wrong on the original."""
  source = loader.open_scenes(
    config.data.dir, config.data.difficulty, config.data.split
  )
  rows = tuple(
    Chosen(
      id=source.words(k).id,
      tokens=(4, 9, 16)[k % 3],
      diverged=True,
      original_tokens=16,
      original_answer="1",
      original_correct=k % 4 > 0,
      answer="2",
      correct=False,
      levels=(),
      answers=(),
    )
    for k in range(len(source))
  )
  about = gap_file.data_identity(config.data, len(source))
  gap_file.save(gap_file.find(config), Selection(rows, about))
  return source


def test_training_takes_each_examples_own_budget_in_one_shape(small):
  config = small("gap.mode=selected")
  with pytest.raises(UserError, match="no selected budgets at .*/gap/easy-128"):
    Trainer(config, "")
  source = _write_selection(config)
  trainer = Trainer(config, "")
  assert trainer.capacity == 16
  shapes = []
  for step, chosen in enumerate(((0, 1, 2, 3), (0, 3, 6, 9))):
    batch = trainer.prepare(step, [source[k] for k in chosen]).batch
    tokens = np.prod(batch.grid, axis=-1).tolist()
    assert tokens == [(4, 9, 16)[k % 3] for k in chosen]
    shapes.append(jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch))
  assert shapes[0] == shapes[1]  # so that one program serves both
  with pytest.raises(UserError, match="about split 'train'"):
    Trainer(small("gap.mode=selected", "data.split=test", *_file(config)), "")


def test_training_can_leave_out_what_is_wrong_on_the_original(small):
  config = small("gap.mode=selected", "gap.wrong=drop")
  source = _write_selection(config)
  trainer = Trainer(config, "")
  ids = [source.words(k).id for k in range(len(source)) if k % 4]
  assert [trainer.source.words(k).id for k in range(len(ids))] == ids
  assert len(trainer.source) == len(ids) < len(source)
  example = trainer.source[3]  # the fifth one: 1, 2, 3, 5
  batch = trainer.prepare(0, [example] * 4).batch
  assert np.prod(batch.grid, axis=-1).tolist() == [16] * 4  # 5 % 3 = 2


def _file(config):
  return [f"gap.file={gap_file.find(config)}"]


def _captured(trainer, monkeypatch):
  """(state, reference) that a run's loop begins with."""
  found = []

  def loop(state, start, steps, saved, extra, reference):
    found.extend((state, reference))

  monkeypatch.setattr(trainer, "_loop", loop)
  trainer.run()
  return found


def _pointers(tree):
  return {x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)}


def test_the_kl_reference_is_the_starting_policy(small, tmp_path, monkeypatch):
  trainer = Trainer(small("rl.kl=0.1"), tmp_path)
  state, reference = _captured(trainer, monkeypatch)
  jax.tree.map(np.testing.assert_array_equal, reference, state.params)
  # The state's buffers are given away to the update.
  assert not _pointers(reference) & _pointers(state.params)


def test_a_resumed_run_keeps_its_reference(small, tmp_path, monkeypatch):
  trainer = Trainer(small("rl.kl=0.1"), tmp_path)
  start = trainer.initial_state()
  later = dataclasses.replace(
    start,
    step=jnp.int32(1),
    params=jax.tree.map(lambda x: x + 1, start.params),
  )
  extra = {"config": trainer.config.to_dict()}
  with checkpoints.Checkpointer(tmp_path / checkpoints.SUBFOLDER) as saved:
    saved.save(1, later, extra)
  state, reference = _captured(trainer, monkeypatch)
  assert int(state.step) == 1
  jax.tree.map(np.testing.assert_array_equal, state.params, later.params)
  jax.tree.map(np.testing.assert_array_equal, reference, start.params)


def test_checkpoints_may_lie_elsewhere(small, tmp_path, monkeypatch):
  run, elsewhere = tmp_path / "run", tmp_path / "bucket"
  where = f"checkpoint.dir={elsewhere}"
  _run(Trainer(small(where, "train.steps=3"), run), monkeypatch, 3)
  assert checkpoints.find_step(elsewhere).name == "3"
  assert not (run / checkpoints.SUBFOLDER).exists()
  longer = Trainer(small(where, "train.steps=4"), run)
  state, _ = _captured(longer, monkeypatch)
  assert int(state.step) == 3
  forgotten = Trainer(small("train.steps=4"), run)
  with pytest.raises(UserError, match="checkpoint.dir='.*bucket'"):
    forgotten.run()
  assert len(read_metrics(run)) == 3


def test_without_the_kl_term_there_is_no_reference(
  small, tmp_path, monkeypatch
):
  assert _captured(Trainer(small(), tmp_path), monkeypatch)[1] is None


ROW = dict(
  reward=0.5,
  accuracy=0.5,
  tool_rate=0.0,  # never calls
  skipped=0.0,
  failed_calls=0.0,
  endless_calls=0.0,
  box_area=0.0,
  zero_variance=0.2,
  entropy=0.5,
)


def _run(trainer, monkeypatch, last):
  """A run whose steps only count, up to step `last`."""

  def train_step(state, prepared, reference=None):
    if int(state.step) == last:
      raise KeyboardInterrupt
    return dataclasses.replace(state, step=state.step + 1), ROW

  monkeypatch.setattr(trainer, "train_step", train_step)
  if last < trainer.config.train.steps:
    with pytest.raises(KeyboardInterrupt):
      trainer.run()
  else:
    trainer.run()


def test_the_loop_logs_alarms_and_warns(small, tmp_path, monkeypatch, capsys):
  config = small("train.steps=9", "alarms.window=3", "alarms.every=100")
  _run(Trainer(config, tmp_path), monkeypatch, 2)
  capsys.readouterr()
  # Goes on from step 2, with what came before in the alarms' window.
  _run(Trainer(config, tmp_path), monkeypatch, 9)
  rows = read_metrics(tmp_path)
  assert [row["step"] for row in rows] == list(range(9))
  assert all(set(alarms.NAMES) <= set(row) for row in rows)
  assert [row["alarm_no_calls"] for row in rows] == [0, 0] + [1] * 7
  assert not any(row["alarm_entropy"] for row in rows)
  printed = capsys.readouterr().out
  assert printed.count("warning at step") == 1
  assert "warning at step 3: only 0.0% of the rollouts crop" in printed
  assert "--config.gap.tokens" in printed


def test_each_row_says_how_long_its_batch_was_waited_for(
  small, tmp_path, monkeypatch
):
  clock, decode = waiting.Clock(monkeypatch), loader.images.decode
  slow = iter([7])

  def once_slowly(*args, **options):
    for seconds in slow:
      clock.advance(seconds)
    return decode(*args, **options)

  monkeypatch.setattr(loader.images, "decode", once_slowly)
  _run(Trainer(small("train.steps=2"), tmp_path), monkeypatch, 2)
  waited = [row["data_wait_seconds"] for row in read_metrics(tmp_path)]
  assert sorted(waited) == [0, 7]


@pytest.mark.parametrize(
  "change", ["data.image_capacity=128,120", "rollout.text_capacity=2"]
)
def test_what_has_no_room_ends_a_run_before_its_first_step(
  small, tmp_path, monkeypatch, change
):
  trainer = Trainer(small(change), tmp_path)
  monkeypatch.setattr(trainer, "train_step", None)
  monkeypatch.setattr(loader.images, "decode", None)
  field, _, _ = change.partition("=")
  with pytest.raises(UserError, match=rf"{field}.*; 8 of 8 examples have no"):
    trainer.run()


def test_a_run_goes_on_with_more_room(small, tmp_path, monkeypatch):
  _run(Trainer(small("train.steps=2"), tmp_path), monkeypatch, 1)
  more = ("data.image_capacity=256,130", "rollout.text_capacity=50")
  _run(Trainer(small("train.steps=2", *more), tmp_path), monkeypatch, 2)
  assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]


def test_a_mix_is_drawn_and_what_is_missing_is_said(
  small, tmp_path, monkeypatch, capsys
):
  whole = Trainer(small(), tmp_path / "whole").source
  trainer = Trainer(small("data.mix=3,"), tmp_path / "run")
  ids = [whole.words(k).id for k in range(len(whole))]
  drawn = [trainer.source.words(k).id for k in range(3)]
  assert len(trainer.source) == 3 and set(drawn) < set(ids)
  plain = described.describe

  def built(data, split):
    (one,) = plain(data, split)
    counts = dict(rows=2, published=5, broken=3)
    return [dataclasses.replace(one, **counts)]

  monkeypatch.setattr(described, "describe", built)
  _run(trainer, monkeypatch, 1)
  out = " ".join(capsys.readouterr().out.split())
  assert "has 2 of 5 published rows: its build found 3 broken" in out
  assert "data.mix asks for 3 questions" in out


def test_images_that_are_shrunk_are_said(small, tmp_path, monkeypatch, capsys):
  shrink = ("data.oversize=shrink", "data.image_capacity=64,100")
  trainer = Trainer(small(*shrink), tmp_path)
  _run(trainer, monkeypatch, 1)
  assert "8 of 8 images are larger than data.image" in capsys.readouterr().out
  assert trainer.source[0].image.shape == (64, 64, 3)
  # Another room makes other pixels, and so other data.
  _run(trainer, monkeypatch, 2)
  other = Trainer(small(*shrink, "data.image_capacity=64,64"), tmp_path)
  with pytest.raises(UserError, match="on other data"):
    other.run()
