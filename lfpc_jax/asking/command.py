"""The ask command: prints the episode as it is written, saves pictures."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import rich.console
import rich.text

from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax import files
from lfpc_jax.asking import episode, inputs
from lfpc_jax.asking.episode import Asked, Turn
from lfpc_jax.report import pictures
from lfpc_jax.rl import answers
from lfpc_jax.rollout.types import Stop

CONFIG = "ask.json"  # beside the pictures
_ENDS = {
  Stop.ANSWERED: "the policy ended its turn without a call",
  Stop.TURN_LENGTH: "a turn reached rollout.max_turn_tokens",
  Stop.RESPONSE_LENGTH: "the response reached rollout.max_response_tokens",
  Stop.TURNS: "the last of rollout.max_turns turns ended with a call",
}


def ask(
  config: Any,
  folder: pathlib.Path,
  *,
  checkpoint: str = "",
  image: str = "",
  question: str | None = None,
  options: Sequence[str] = (),
) -> None:
  """Asks, prints each turn when it is written, and saves pictures.

  Args:
    config: a whole config, see configs/.
    folder: of the pictures.
    checkpoint: see `agent.load_params`; '' for the config's starting policy.
    image: a picture's file; '' for the shipped one.
    question: None for the shipped picture's own.
    options: the choices of a multiple-choice question.

  Raises:
    UserError: a bad flag, picture, question or checkpoint.
  """
  text, answer = inputs.read_question(image, question)
  pixels = inputs.read_image(image)
  choices = inputs.read_options(options)
  asked = episode.prepare(config, pixels, text, choices, answer)
  checkpoint = checkpoint or config.policy.checkpoint
  params = agent_lib.load_params(asked.agent, checkpoint)
  printer = _Printer(asked)
  printer.begin()
  turns, stop = [], Stop.TURNS
  for turn, stop in asked.turns(params, config.eval.seed):  # noqa: B007
    turns.append(turn)
    printer.turn(len(turns), turn)
  printer.end(turns[-1], stop)
  config_lib.write_config(config, folder, CONFIG)
  printer.line(
    "files", f"{folder}: {', '.join(save(folder, asked, turns, stop))}"
  )


class _Printer:
  """Prints the parts of an episode, each with its name before it."""

  def __init__(self, asked: Asked):
    self._asked = asked
    self._console = rich.console.Console(highlight=False)
    self._crops = 0

  def line(self, name: str, text: str) -> None:
    """Plain text: what a policy writes is neither markup nor control."""
    shown = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
    for k, part in enumerate(shown.split("\n")):
      start = name if k == 0 else ""
      self._console.print(rich.text.Text(f"{start:<9}{part}"), soft_wrap=True)

  def begin(self) -> None:
    """The question and what is seen of the picture."""
    asked, cell = self._asked, self._asked.agent.policy.vision.cell
    rows, cols = asked.grid
    height, width = asked.example.image.shape[:2]
    self.line("question", asked.example.question)
    for number, option in enumerate(asked.example.options):
      self.line("", f"{chr(ord('A') + number)}. {option}")
    self.line(
      "view",
      f"{cols * cell} x {rows * cell} pixels of {width} x {height}: "
      f"{rows * cols} visual tokens",
    )

  def turn(self, number: int, turn: Turn) -> None:
    """What the policy wrote, and what came of it."""
    self.line(f"turn {number}", turn.text)
    if turn.box:
      self._crops += 1
      tokens = turn.grid[0] * turn.grid[1]
      self.line(
        "",
        f"-> crop {self._crops}: {turn.box} of the picture, {tokens} visual "
        "tokens",
      )
    elif turn.failure:
      told = f", the policy was told: {turn.told}" if turn.told else ""
      self.line("", f"-> no crop: {turn.failure}{told}")

  def end(self, last: Turn, stop: Stop) -> None:
    """The answer, and why the episode ended."""
    answer = answers.extract_answer(last.text)
    known = self._asked.example.answer
    right = f" (expected: {known})" if known else ""
    self.line("answer", f"{'none' if answer is None else answer}{right}")
    self.line("ended", _ENDS[stop])


def save(
  folder: pathlib.Path, asked: Asked, turns: Sequence[Turn], stop: Stop
) -> list[str]:
  """Writes pictures and episode.json; returns the files' names.

  boxes.png is the original with the boxes, view.png the global view and
  crop_1.png, ... the crops as the policy saw them.
  """
  image, cell = asked.example.image, asked.agent.policy.vision.cell
  height, width = image.shape[:2]
  cut = [turn for turn in turns if turn.box]
  whole = pictures.shown(image, (0, 0, width, height), asked.grid, cell)
  drawn = {
    "boxes.png": pictures.with_boxes(image, [turn.box for turn in cut]),
    "view.png": whole,
  } | {
    f"crop_{number}.png": pictures.shown(image, turn.box, turn.grid, cell)
    for number, turn in enumerate(cut, 1)
  }
  for name, picture in drawn.items():
    files.atomic_write(folder / name, pictures.png_bytes(picture))
  content = {
    "question": asked.example.question,
    "options": asked.example.options,
    "view_tokens": int(np.prod(asked.grid)),
    "turns": [dataclasses.asdict(turn) for turn in turns],
    "stop": stop.name.lower(),
  }
  text = json.dumps(content, indent=2) + "\n"
  files.atomic_write(folder / "episode.json", text.encode())
  for old in folder.glob("crop_*.png"):  # of an earlier question
    if old.name not in drawn and old.stem.removeprefix("crop_").isdecimal():
      old.unlink()
  return [*drawn, "episode.json"]
