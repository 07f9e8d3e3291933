"""A run shows itself while it goes on: the page, TensorBoard, W&B."""

import json
import re
import signal
import sys
import types

import jax
import pytest
from tensorboard.backend.event_processing import event_accumulator

from lfpc_jax.errors import UserError
from lfpc_jax.metrics import read_metrics
from lfpc_jax.rl import trainer as trainer_lib
from lfpc_jax.rl import watching
from tests import small_scenes

pytestmark = pytest.mark.slow  # compiles and runs the real trainer

CHANGES = (
  "gap.tokens=4",
  "gap.full_tokens=16",
  "train.steps=5",
  "train.report_every=2",
  "train.report_prompts=3",
)
PROMPTS, GROUP = 4, 2  # of the variant 'smoke'


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  data = tmp_path_factory.mktemp("data")
  with small_scenes.quick_configs(data, *CHANGES) as config:
    yield config


@pytest.fixture(scope="module")
def seen(small, tmp_path_factory):
  """A run's folder, its trainer, and what was on the page at each writing."""
  folder = tmp_path_factory.mktemp("run")
  trainer = trainer_lib.Trainer(small(), folder)
  written, steps = [], []
  with pytest.MonkeyPatch.context() as patch:
    rollouts = watching.Watch.rollouts

    def watched(watch, step, seen, last):
      line = rollouts(watch, step, seen, last)
      page = folder / watching.PAGE
      written.append((line, page.read_text() if page.exists() else None))
      steps.append(jax.device_get(seen))
      return line

    patch.setattr(watching.Watch, "rollouts", watched)
    patch.setitem(sys.modules, "wandb", None)  # its import would end the run
    trainer.run()
  return folder, trainer, written, steps


def _data(text):
  data = text.partition('id="data">')[2].partition("</script>")[0]
  return json.loads(data)


def test_the_page_comes_every_so_many_steps_and_at_the_last(seen):
  folder, _, written, _ = seen
  pages = [text for _, text in written]
  assert pages[0] is None and pages[2] == pages[1]  # step 3 is none of its
  assert "step 2 of 5" in pages[1] and "step 4 of 5" in pages[3]
  assert "step 5 of 5" in pages[4]  # the last one, though an odd one
  assert [line for line, _ in written] == [
    None, f"report: {folder / 'report.html'}", None, None, None
  ]  # fmt: skip


def test_a_run_that_is_stopped_shows_where_it_stood(
  seen, small, tmp_path, monkeypatch
):
  trainer = seen[1]
  step = trainer.train_step

  def stopped(*args):
    signal.raise_signal(signal.SIGTERM)
    return step(*args)

  monkeypatch.setattr(trainer, "train_step", stopped)
  monkeypatch.setattr(trainer, "workdir", tmp_path)
  assert trainer.run() is None
  page = (tmp_path / watching.PAGE).read_text()
  assert "step 1 of 5" in page and len(_data(page)["rollouts"]) == 3 * GROUP


def test_the_page_shows_the_step_s_own_rollouts(seen):
  _, trainer, written, steps = seen
  rows = _data(written[1][1])["rollouts"]
  step = steps[1]
  assert len(rows) == 3 * GROUP
  places = [(p, g) for p in range(3) for g in range(GROUP)]
  turns = trainer.agent.turns(step.trajectory)
  for row, (p, g) in zip(rows, places, strict=True):
    assert row["id"] == step.examples[p].id and row["sample"] == g
    assert row["correct"] == step.verdicts[p][g].correct
    assert [turn["text"] for turn in row["turns"]] == turns[p][g]
    assert row["advantage"] == pytest.approx(step.advantages[p, g])
    boxes = [turn["box"] for turn in row["turns"] if turn["box"]]
    crops = int(step.trajectory.crops[p, g])
    assert boxes == step.trajectory.boxes[p, g, :crops].tolist()
    assert row["budget"] <= 4


def test_the_rewards_on_the_page_are_those_of_the_update(seen):
  folder, _, written, steps = seen
  # Of three of the four questions; the advantages are those of the rewards.
  rows = _data(written[1][1])["rollouts"]
  for p in range(3):
    group = [row["reward"] for row in rows[p * GROUP : (p + 1) * GROUP]]
    middle = sum(group) / GROUP
    for g, reward in enumerate(group):
      assert (reward > middle) == (steps[1].advantages[p, g] > 0)
  assert len(read_metrics(folder)) == 5


def test_the_page_has_the_curves_so_far(seen):
  folder, _, written, _ = seen
  charts = _data(written[1][1])["curves"]
  named = {name for row in read_metrics(folder) for name in row} - {"step"}
  assert {chart["quantity"] for chart in charts} == named
  names = [chart["quantity"] for chart in charts]
  assert names[:3] == ["reward", "accuracy", "tool_rate"]
  assert all(name.startswith("alarm_") for name in names[-3:])
  (run,) = charts[0]["runs"]
  assert run["steps"] == [0, 1]


def test_tensorboard_has_the_scalars_of_every_step_and_the_rollouts(seen):
  folder, *_ = seen
  sizes = dict.fromkeys(("scalars", "images", "tensors"), 0)
  events = event_accumulator.EventAccumulator(
    str(folder / "tensorboard"), sizes
  ).Reload()
  rows = read_metrics(folder)
  for name in ("reward", "accuracy", "loss"):
    found = [(e.step, e.value) for e in events.Scalars(f"train/{name}")]
    expected = [(row["step"], row[name]) for row in rows]
    assert found == [(s, pytest.approx(v)) for s, v in expected]
  scalars = {name.removeprefix("train/") for name in events.Tags()["scalars"]}
  assert scalars == {name for row in rows for name in row} - {"step"}
  assert [e.step for e in events.Images("view/1")] == [1, 3, 4]
  assert [e.step for e in events.Tensors("rollouts/1")] == [1, 3, 4]


def _watch(trainer, config, folder):
  return watching.Watch(config, folder, trainer.agent, trainer.reward, 0)


def test_switched_off_it_writes_nothing(seen, small, tmp_path):
  _, trainer, _, steps = seen
  config = small("train.report_every=0", "train.tensorboard=false")
  with _watch(trainer, config, tmp_path) as watch:
    watch.scalars(0, {"reward": 1.0})
    for step in range(4):
      assert watch.rollouts(step, steps[0]) is None
  assert not list(tmp_path.iterdir())


def test_only_process_0_writes(seen, small, tmp_path, monkeypatch):
  _, trainer, _, steps = seen
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with _watch(trainer, small("train.wandb=p"), tmp_path) as watch:
    watch.scalars(1, {"reward": 1.0})
    assert watch.rollouts(1, steps[1]) is None
  assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_ends_no_training(
  seen, small, tmp_path, monkeypatch
):
  _, trainer, _, steps = seen
  (tmp_path / "metrics.jsonl").touch()

  def write_page(*_, **__):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(watching.page, "write_page", write_page)
  with _watch(trainer, small("train.tensorboard=false"), tmp_path) as watch:
    line = watch.rollouts(1, steps[1])
  assert re.fullmatch("no report of step 2: .*No space left on device", line)


def test_weights_and_biases_is_there_when_asked_for(
  seen, small, tmp_path, monkeypatch
):
  _, trainer, _, steps = seen
  rows, settings = [], {}
  fake = types.ModuleType("wandb")
  fake.Error = OSError
  fake.Image = lambda picture, caption: caption
  fake.Table = lambda columns: types.SimpleNamespace(add_data=lambda *row: None)
  fake.init = lambda **kwargs: (
    settings.update(kwargs)
    or types.SimpleNamespace(
      log=rows.append, define_metric=lambda *_, **__: 0, finish=lambda: 0
    )
  )
  monkeypatch.setitem(sys.modules, "wandb", fake)
  (tmp_path / "metrics.jsonl").touch()
  config = small("train.wandb=looking", "train.tensorboard=false")
  with _watch(trainer, config, tmp_path) as watch:
    watch.scalars(1, {"reward": 1.0})
    watch.rollouts(1, steps[1])
  assert settings["project"] == "looking" and settings["name"] == "smoke"
  assert settings["config"]["gap"]["tokens"] == 4
  assert rows[0] == {"step": 1, "train/reward": 1.0}
  assert rows[1].keys() == {"step", "rollouts", "view", "crops"}


def test_without_the_flag_weights_and_biases_is_not_imported(seen):
  """Though other tests of this process may have imported it."""
  assert len(seen[2]) == 5  # the run came to its end, see `seen`


def test_a_missing_package_stops_the_run_before_it_begins(
  seen, small, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(UserError, match=r"train.wandb='p' needs the package"):
    _watch(seen[1], small("train.wandb=p"), tmp_path)


@pytest.mark.parametrize("change", ["report_every=-1", "report_prompts=0"])
def test_a_number_that_makes_no_sense_is_named(seen, small, tmp_path, change):
  with pytest.raises(UserError, match=f"train.{change} "):
    _watch(seen[1], small(f"train.{change}"), tmp_path)
