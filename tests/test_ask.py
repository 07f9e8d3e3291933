"""The ask command: turns as they are written, pictures, errors.

A scripted policy writes known episodes; the shipped one is asked in the slow
test alone.
"""

import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax.asking import command, episode, inputs
from lfpc_jax.data.batches import Packer
from lfpc_jax.errors import UserError
from lfpc_jax.image import views
from lfpc_jax.report import pictures
from lfpc_jax.rollout.episode import Rollout
from lfpc_jax.rollout.types import Stop
from tests.rollout import scripted_policy

ROOT = pathlib.Path(__file__).parents[1]
QUESTION = "What digit is on the red sign?"


@dataclasses.dataclass(frozen=True)
class _ScriptPacker(Packer):
  """Ends each prompt with a script's own token."""

  script: str = ""

  def pack(self, examples, budgets):
    batch = super().pack(examples, budgets)
    number = scripted_policy._FIRST + list(scripted_policy.SCRIPTS).index(
      self.script
    )
    batch.tokens[0, batch.length[0] - 1] = scripted_policy.token(str(number))
    return batch


def _agent(script):
  fields = vars(scripted_policy.make_packer())
  return agent_lib.Agent(
    directory=agent_lib.ASSETS / "tiny_qwen",
    tokenizer=scripted_policy.load_tokenizer(),
    policy=scripted_policy.config(),
    episodes=dataclasses.replace(scripted_policy.limits(0.0), group=1),
    packer=_ScriptPacker(**fields, script=script),
    texts=scripted_policy.make_texts(),
    precision={},
  )


@pytest.fixture(scope="module")
def config():
  changes = ("gap.tokens=12",)
  return config_lib.freeze(
    config_lib.load_config(f"{ROOT}/configs/tiny.py:stage1", changes)
  )


@pytest.fixture(scope="module")
def original():
  return scripted_policy.make_examples(1)[0].image


@pytest.fixture(scope="module")
def asked(config, original):
  """Asks the scripted policy: script -> (ready, parameters, turns, states)."""
  params = scripted_policy.make_params()
  compiled = {}  # the programs, by the function's name: all scripts share them
  jit, play = jax.jit, episode.play

  def once(function, **_):
    name = function.__name__
    if name not in compiled:
      compiled[name] = jit(
        function, compiler_options=scripted_policy.FAST_COMPILE
      )
    return compiled[name]

  def ask(script):
    states = []

    def spy(*arguments):
      for state in play(*arguments):
        states.append(state)
        yield state

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(agent_lib, "make_agent", lambda *_, **__: _agent(script))
      patch.setattr(jax, "jit", once)
      patch.setattr(episode, "play", spy)
      ready = episode.prepare(config, original, QUESTION)
      return ready, params, list(ready.turns(params, seed=0)), states

  return ask


def test_turns_are_those_of_the_script(asked):
  _, _, found, _ = asked("crop and answer")
  (first, _), (second, stop) = found
  assert first.text.endswith("</tool_call>") and "bbox_2d" in first.text
  assert first.box_written == scripted_policy._BOX
  assert first.box is not None and first.grid is not None
  assert second == episode.Turn("<answer>7</answer><|im_end|>")
  assert stop == Stop.ANSWERED


def test_a_failed_call_says_why_and_what_the_policy_was_told(asked):
  _, _, found, _ = asked("no JSON")
  (first, _), (second, _) = found
  assert first.failure == "not_json" and first.box is None
  assert first.told == "The call is not valid JSON."
  assert second.failure == second.told == ""


def test_an_error_that_comes_too_late_was_not_told(asked):
  _, _, found, _ = asked("calls for ever")
  turns, stop = [turn for turn, _ in found], found[-1][1]
  assert [turn.box is not None for turn in turns] == [True, True, False, False]
  assert turns[2].told == "No crops left."
  assert turns[3].failure == "no_crops_left" and turns[3].told == ""
  assert stop == Stop.TURNS


@pytest.mark.slow  # compiles the rollout in one and in parts
def test_turn_by_turn_is_the_one_program(asked):
  ready, params, found, states = asked("crop and answer")
  agent = ready.agent
  batch = agent.packer.pack([ready.example], [ready.budget])
  batch = agent_lib.device_batch(batch)
  arguments = (params, batch, agent.texts, jax.random.key(0))
  rollout = Rollout(agent.policy, agent.episodes, agent.packer.view_capacity)
  whole = jax.jit(rollout, compiler_options=scripted_policy.FAST_COMPILE)
  expected = whole(*arguments)
  last = states[-1].trajectory
  exact = ("tokens", "boxes", "turn_end", "outcome", "stop", "length")
  for name in exact:
    np.testing.assert_array_equal(
      getattr(last, name), getattr(expected, name), name
    )
  np.testing.assert_allclose(last.logp, expected.logp, rtol=1e-4, atol=1e-4)
  assert len(found) == int(expected.turns[0, 0])


def test_the_command_prints_the_turns_and_saves_the_pictures(
  asked, original, tmp_path, capsys, monkeypatch, config
):
  ready, _, found, _ = asked("crop and answer")
  (tmp_path / "crop_2.png").write_text("of an earlier question")
  (tmp_path / "crop_mine.png").write_text("not ours")
  Image.fromarray(original).save(tmp_path / "photo.png")
  monkeypatch.setattr(episode, "prepare", lambda *_: ready)
  monkeypatch.setattr(episode.Asked, "turns", lambda *_: iter(found))
  monkeypatch.setattr(agent_lib, "load_params", lambda *_: None)
  command.ask(
    config, tmp_path, image=str(tmp_path / "photo.png"), question=QUESTION
  )
  out = capsys.readouterr().out
  turn = found[0][0]
  for text in (QUESTION, turn.text.split("\n")[0], str(turn.box), "answer   7"):
    assert text in out
  names = {path.name for path in tmp_path.iterdir()}
  ours = {"boxes.png", "view.png", "crop_1.png", "episode.json", "ask.json"}
  assert names == ours | {"crop_mine.png", "photo.png"}
  crop = Image.open(tmp_path / "crop_1.png")
  assert crop.size == (turn.grid[1] * 28, turn.grid[0] * 28)
  stored = json.loads((tmp_path / "episode.json").read_text())
  assert stored["turns"][0]["box"] == list(turn.box)
  assert stored["stop"] == "answered"


def test_what_a_policy_writes_cannot_command_a_terminal(asked, capsys):
  ready, *_ = asked("answer")
  command._Printer(ready).turn(1, episode.Turn("\x1b[2J[bold]hi\nthere\x07"))
  out = capsys.readouterr().out
  assert out == "turn 1   �[2J[bold]hi\n         there�\n"


def test_a_shown_region_is_what_the_policy_sees(original):
  box, grid = (10, 20, 97, 100), (2, 3)
  view = views.render_view(
    jnp.asarray(original), jnp.array(box), jnp.array(grid), 6
  )
  patches = np.asarray(view.patches).reshape(2, 3, 2, 2, 3, 14, 14)
  pixels = patches.transpose(0, 2, 5, 1, 3, 6, 4).reshape(56, 84, 3)
  pixels = (pixels * views.QWEN.std + views.QWEN.mean) * 255
  shown = np.asarray(pictures.shown(original, box, grid, 28), float)
  away = np.round(np.abs(shown - pixels))  # in levels of 256
  assert away.max() <= 2 and away.mean() < 0.1


def test_boxes_are_drawn_around_their_pixels():
  image = np.full((120, 100, 3), 9, np.uint8)
  boxes = [(30, 60, 70, 90), (0, 0, 20, 20)]
  drawn = np.asarray(pictures.with_boxes(image, boxes))
  assert (image == 9).all()
  assert (drawn[60:90, 30:70] == 9).all()
  for line in (drawn[59, 30:70], drawn[90, 30:70], drawn[60:90, 70]):
    assert (line == line[0]).all() and (line[0] != 9).any()
  assert (drawn[0, :20] != 9).any()  # at the edge, where no room is outside


def test_the_shipped_scene_is_one_of_the_data_set():
  from lfpc_jax.data import scene_render, scenes

  words = json.loads(inputs.SCENE_WORDS.read_text())
  number = int(words["id"].rpartition("-")[2])
  made = scenes._draw_example(scene_render.EASY, 0, "test", number)
  assert words == {
    name: made[name] for name in ("id", "question", "answer")
  } | {"boxes": made["boxes"].tolist()}
  assert inputs.SCENE.stat().st_size < 100_000
  file = Image.open(inputs.SCENE)
  drawn = Image.open(io.BytesIO(made["image"]))
  away = np.abs(np.asarray(file, int) - np.asarray(drawn, int))
  assert away.mean() < 1  # another libjpeg may round otherwise


def test_the_shipped_scene_has_a_question_and_an_answer():
  asked, answer = inputs.read_question("", None)
  assert asked.endswith("sign?") and answer.isdecimal()
  assert inputs.read_question("", asked) == (asked, answer)
  assert inputs.read_question("", "Which?") == ("Which?", "")
  assert inputs.read_question("a.jpg", asked) == (asked, "")
  assert inputs.read_image("").shape == (512, 512, 3)


@pytest.mark.parametrize("image, question", [("", " "), ("a.jpg", None)])
def test_without_a_question_there_is_one_clear_error(image, question):
  with pytest.raises(UserError, match="question is empty: add --question"):
    inputs.read_question(image, question)


def _damaged(folder):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  Image.fromarray(noise).save(folder / "whole.png")
  data = (folder / "whole.png").read_bytes()
  (folder / "cut.png").write_bytes(data[: len(data) // 2])
  (folder / "text.png").write_text("no picture")
  (folder / "empty.png").touch()
  Image.new("RGB", (33_000, 200)).save(folder / "long.png")
  Image.new("RGB", (6_000, 28)).save(folder / "thin.png")


@pytest.mark.parametrize(
  "name, says",
  [
    ("none.png", "it is not there"),
    (".", "it is a directory"),
    ("a\0b", "it is not there|null byte|embedded"),
    ("cut.png", "cannot be decoded"),
    ("text.png", "10 bytes are no JPEG"),
    ("empty.png", "0 bytes are no JPEG"),
    ("long.png", "200 x 33000 pixels.*scale it down"),
    ("thin.png", "thinner than 1 : 200"),
  ],
)
def test_a_bad_picture_is_named(tmp_path, name, says):
  _damaged(tmp_path)
  path = str(tmp_path / name)
  with pytest.raises(UserError, match=says) as error:
    inputs.read_image(path)
  assert str(error.value).startswith(f"--image={path}: ")
  assert "\n" not in str(error.value)


def test_a_missing_checkpoint_is_named_before_anything_runs(config, tmp_path):
  with pytest.raises(UserError, match="no checkpoint at .*none"):
    command.ask(config, tmp_path / "out", checkpoint=str(tmp_path / "none"))
  assert not (tmp_path / "out").exists()


def test_a_question_finds_room_or_is_too_long(config, original):
  long = "Which of the many digits is it? " * 9
  packer = episode.prepare(config, original, long).agent.packer
  assert packer.text_capacity > config.rollout.text_capacity
  assert packer.image_capacity == (256, 256)
  with pytest.raises(UserError, match="too many for a policy of 4,096"):
    episode.prepare(config, original, long * 40)


def _call(folder, *args):
  done = subprocess.run(
    [sys.executable, "-m", "lfpc_jax.ask", f"--workdir={folder}", *args],
    cwd=ROOT,
    # What another machine has compiled may not run on this one.
    env={**os.environ, "JAX_PLATFORMS": "cpu", "LFPC_COMPILE_CACHE": "off"},
    capture_output=True,
    text=True,
    timeout=1500,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


def test_a_bad_flag_is_one_line_and_a_failure(tmp_path):
  status, _, err = _call(tmp_path, "--image=none.jpg", "--question=Which?")
  assert (status, err) == (
    1,
    "error: --image=none.jpg: it is not there; name a picture's file\n",
  )


@pytest.mark.slow  # compiles the shipped policy's programs
def test_the_command_works_without_any_flag(tmp_path):
  status, out, err = _call(tmp_path)
  assert status == 0, err
  shipped = json.loads(inputs.SCENE_WORDS.read_text())
  assert shipped["question"] in out and "turn 1" in out and "crop 1" in out
  assert f"(expected: {shipped['answer']})" in out
  assert {"boxes.png", "view.png"} < {path.name for path in tmp_path.iterdir()}
