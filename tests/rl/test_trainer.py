"""The training loop on tiny data: exact, resumable, compiled once."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax import checkpoints
from lfpc_jax import config as config_lib
from lfpc_jax.errors import UserError
from lfpc_jax.rl import skipped
from lfpc_jax.rl import trainer as trainer_lib
from tests import small_scenes
from tests.speed import record
from tests.steady import read_metrics


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  data = tmp_path_factory.mktemp("data")
  with small_scenes.quick_configs(data, *record.CHANGES) as config:
    yield config


@pytest.fixture(scope="module")
def trainer(small):
  """All runs of these tests share its programs."""
  return record.watch(trainer_lib.Trainer(small(), ""))


@pytest.fixture(scope="module")
def first(trainer, tmp_path_factory):
  """The first run: state, rows, programs compiled by step."""
  return record.first_run(trainer, tmp_path_factory.mktemp("first"))


def _assert_same(state, other):
  """Bit for bit, with the optimiser's moments and the random key."""
  assert jax.tree.structure(state) == jax.tree.structure(other)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(other)
  ):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path))


def test_only_the_first_step_compiles(trainer, first):
  compiled = first[2]
  assert compiled[0] > 3 and compiled[1] == 0
  for program in (
    trainer.encode,
    trainer.rollout,
    trainer.score,
    trainer.update,
  ):
    assert program.function._cache_size() == 1


def test_no_program_costs_more_than_is_recorded(trainer, first):
  found = record.training(trainer, first[2])
  assert not record.growth(record.read("training"), found)


def test_a_hidden_copy_to_the_device_ends_the_step(trainer, first, monkeypatch):
  prepared = trainer.prepare(0, [trainer.source[i] for i in range(4)])
  agent = trainer_lib.agent_lib
  monkeypatch.setattr(agent, "device_batch", lambda batch: batch)
  with pytest.raises(
    jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"
  ):
    trainer.train_step(first[0], prepared)


def test_sampler_and_learner_agree_in_every_step(first):
  rows = first[1]
  assert [row["step"] for row in rows] == [0, 1]
  for row in rows:
    assert 0 <= row["sampler_gap"] < 1e-4
    assert row["written_tokens"] > 1 and row["entropy"] > 0
    assert all(np.isfinite(value) for value in row.values())
  assert rows[0] != rows[1] | {"step": 0}


def test_training_changes_the_decoder_and_not_the_frozen_tower(trainer, first):
  before, after = trainer.initial_state().params, first[0].params
  _assert_same(after["vision"], before["vision"])
  assert not np.array_equal(after["embedding"], before["embedding"])
  assert int(first[0].step) == 2


def test_a_gradient_that_is_not_finite_changes_nothing(
  small, trainer, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(trainer, "config", small("train.steps=9"))
  sound = trainer.initial_state()
  norm = {"scale": sound.params["norm"]["scale"].at[0].set(jnp.nan)}
  params = sound.params | {"norm": norm}
  state = dataclasses.replace(sound, params=params)
  before = jax.tree.map(lambda x: x.copy(), state)  # the update donates
  monkeypatch.setattr(trainer, "initial_state", lambda: state)
  seen = []
  says = r"step 2: .*number 3 in a row: .*--workdir"
  with pytest.raises(UserError, match=says):
    record.run(trainer, tmp_path, seen.append)
  assert seen == [0, 1, 2]
  assert (
    "step 0: the loss or its gradient is not finite" in capsys.readouterr().out
  )
  rows = read_metrics(tmp_path)
  assert [row["skipped"] for row in rows] == [1.0] * 3
  files = sorted((tmp_path / "skipped").iterdir())
  assert [f.name for f in files] == [f"step_{k:06d}.npz" for k in range(3)]
  with np.load(files[0]) as kept:
    assert kept["batch_originals"].dtype == np.uint8
    assert len(kept["ids"]) == len(kept["trajectory_tokens"]) == 4
  # The trainer's own step: nothing but its number has moved.
  prepared = trainer.prepare(0, [trainer.source[i] for i in range(4)])
  state = jax.tree.map(lambda x: x.copy(), before)
  after, _ = trainer.train_step(state, prepared)
  _assert_same(after, dataclasses.replace(before, step=before.step + 1))


def test_a_loss_that_is_not_finite_changes_nothing_either(trainer, monkeypatch):
  """Though its gradient is finite."""
  loss = trainer.learner._loss

  def lossy(*args):
    value, metrics = loss(*args)
    return value + jnp.nan, metrics | {"loss": metrics["loss"] + jnp.nan}

  monkeypatch.setattr(trainer.learner, "_loss", lossy)
  monkeypatch.setattr(
    trainer, "update", jax.jit(lambda *args: trainer.learner.update(*args))
  )
  before = trainer.initial_state()
  prepared = trainer.prepare(0, [trainer.source[i] for i in range(4)])
  after, row = trainer.train_step(before, prepared)
  assert np.isfinite(row["gradient_norm"]) and np.isnan(row["loss"])
  assert row["skipped"] == 1
  _assert_same(after, dataclasses.replace(before, step=before.step + 1))


def test_no_more_than_so_many_skipped_steps_are_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(skipped, "_archive", lambda seen: b"rollouts")
  kept = skipped.SkippedSteps(tmp_path, limit=3)
  for step in range(100, 160):
    kept.check(step, {"skipped": 1.0}, "seen")
    kept.check(step, {"skipped": 0.0}, "seen")
  names = sorted(path.name for path in (tmp_path / "skipped").iterdir())
  assert names == [f"step_{k:06d}.npz" for k in range(144, 160)]
  long = skipped.SkippedSteps(tmp_path, limit=99)
  for step in range(200, 250):
    long.check(step, {"skipped": 1.0}, "seen")
  assert len(list((tmp_path / "skipped").iterdir())) == 16 + 50


def test_views_are_encoded_ahead_for_a_frozen_tower_alone(small, trainer):
  params = trainer.initial_state().params
  prepared = trainer.prepare(0, [trainer.source[i] for i in range(4)])
  visual = jax.eval_shape(trainer._encode, params, prepared.batch)
  width = trainer.agent.policy.text.width
  assert visual.shape == (4, trainer.capacity, width)
  trained = trainer_lib.Trainer(small("policy.freeze=()"), "")
  assert trained._encode(params, prepared.batch) is None


def test_two_runs_with_one_seed_are_the_same(trainer, first, tmp_path):
  state, rows = record.run(trainer, tmp_path)
  assert rows == first[1]
  _assert_same(state, first[0])


def _stop(step):
  if step == 0:
    os.kill(os.getpid(), signal.SIGTERM)


def _break(step):
  if step == 1:
    raise OSError("no light")


@pytest.mark.parametrize("interrupt", [_stop, _break])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
  trainer, first, tmp_path, interrupt
):
  if interrupt is _stop:
    assert record.run(trainer, tmp_path, interrupt)[0] is None
  else:
    with pytest.raises(OSError, match="no light"):
      record.run(trainer, tmp_path, interrupt)
  assert read_metrics(tmp_path) == first[1][:1]
  steps = []
  state, rows = record.run(trainer, tmp_path, steps.append)
  assert steps == [1]
  assert (
    trainer.update.function._cache_size() == 1
  )  # a resume compiles nothing anew
  assert rows == first[1]
  _assert_same(state, first[0])
  again, _ = record.run(trainer, tmp_path, steps.append)
  assert steps == [1]  # nothing is left to do
  _assert_same(again, first[0])


def test_a_run_goes_on_with_its_own_config_only(small, tmp_path):
  started = trainer_lib.Trainer(small("train.steps=0"), tmp_path)
  started.run()
  extra = {"config": json.loads(config_lib.config_json(started.config))}
  with checkpoints.Checkpointer(tmp_path / checkpoints.SUBFOLDER) as saved:
    state = started.initial_state()
    saved.save(1, dataclasses.replace(state, step=state.step + 1), extra)
  # Another number of steps is no other run.
  longer = trainer_lib.Trainer(small("train.steps=1"), tmp_path)
  assert int(longer.run().step) == 1
  with pytest.raises(UserError, match="a run of 1 steps, more than train"):
    started.run()
  other = trainer_lib.Trainer(small("optimizer.learning_rate=0.5"), tmp_path)
  with pytest.raises(
    UserError, match=r"optimizer.learning_rate: 0.0003 -> 0.5.*--workdir"
  ):
    other.run()
  # What was refused is not said to be the run's config.
  kept = config_lib.read_config(tmp_path)
  assert config_lib.diff(longer.config, kept) == []


def test_a_run_goes_on_from_its_own_beginning_only(
  small, tmp_path, monkeypatch
):
  trainer = trainer_lib.Trainer(small("train.steps=1"), tmp_path)
  monkeypatch.setattr(
    trainer,
    "train_step",
    lambda state, *_: (
      dataclasses.replace(state, step=state.step + 1),
      dict(reward=0.0, accuracy=0.0, tool_rate=0.0, skipped=0.0),
    ),
  )
  assert int(trainer.run().step) == int(trainer.run().step) == 1
  load = trainer_lib.agent_lib.load_params

  def retrained(*args):
    params = load(*args)
    return params | {"embedding": params["embedding"] + 1}

  monkeypatch.setattr(trainer_lib.agent_lib, "load_params", retrained)
  with pytest.raises(UserError, match="other parameters than policy.path='ti"):
    trainer.run()


@pytest.mark.parametrize(
  "change, says",
  [
    ("rl.micro_batches=3", "prompts=4 is no multiple of rl.micro_batches=3"),
    ("rollout.waves=3", "prompts=4 is no multiple of rollout.waves=3"),
    ("rollout.waves=0", "prompts=4 is no multiple of rollout.waves=0"),
    ("rl.rollout_slices=3", "group=2 is no multiple of rl.rollout_slices=3"),
  ],
)
def test_slices_must_divide(small, change, says):
  with pytest.raises(UserError, match=says):
    trainer_lib.check_slices(small(change))


def test_the_learning_rate_warms_up_linearly():
  config = config_lib.load_config(
    f"{small_scenes.CONFIG}:stage1",
    (
      "optimizer.warmup_steps=4",
      "optimizer.learning_rate=0.4",
      "optimizer.weight_decay=0",
    ),
  ).optimizer
  optimiser = trainer_lib.make_optimiser(config)
  params = {"w": jnp.zeros(())}
  state = optimiser.init(params)
  changes = []
  for _ in range(6):
    # Adam's step is the rate itself where the gradient never changes.
    change, state = optimiser.update({"w": jnp.float32(0.5)}, state, params)
    changes.append(-float(change["w"]))
  np.testing.assert_allclose(changes, [0, 0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-4)
