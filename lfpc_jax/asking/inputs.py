"""What a user gives: a picture and a question, or the shipped ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import json
import pathlib

import numpy as np

from lfpc_jax.agent import ASSETS
from lfpc_jax.data import images
from lfpc_jax.data.sources import fields
from lfpc_jax.data.sources.files import MAX_IMAGE_BYTES
from lfpc_jax.data.sources.rows import RowError
from lfpc_jax.errors import UserError

SCENE, SCENE_WORDS = ASSETS / "scene.jpg", ASSETS / "scene.json"


def read_question(image: str, question: str | None) -> tuple[str, str]:
  """The question, and its answer where it is known.

  Args:
    image: path of a picture; '' for the shipped one, which has a question
      and an answer of its own.
    question: None for the shipped one's.

  Raises:
    UserError: there is no question, or it is no valid Unicode.
  """
  shipped = {} if image else json.loads(SCENE_WORDS.read_text())
  if question is None:
    question = shipped.get("question", "")
  if not question.strip():
    raise UserError('the question is empty: add --question="What ...?"')
  with _flag("question"):
    fields.text(question, "the question")
  is_shipped = question == shipped.get("question")
  return question, shipped["answer"] if is_shipped else ""


def read_options(options: Sequence[str]) -> tuple[str, ...]:
  """The choices of a question, or () for none.

  Raises:
    UserError: one choice alone, more than have letters, two that are equal, or
      one that is empty or no valid Unicode.
  """
  with _flag("option"):
    return fields.options(options)


@contextlib.contextmanager
def _flag(name: str) -> Iterator[None]:
  """Names the flag whose value is refused."""
  try:
    yield
  except RowError as error:
    raise UserError(f"--{name}: {error}") from error


def read_image(path: str) -> np.ndarray:
  """A picture u8[H, W, 3], upright; '' for the shipped one.

  Raises:
    UserError: there is no such file, it is no picture, or it is too large.
  """
  file = pathlib.Path(path).expanduser() if path else SCENE
  try:
    if not file.is_file():
      kind = "a directory" if file.is_dir() else "not there"
      raise UserError(f"--image={path}: it is {kind}; name a picture's file")
    if file.stat().st_size > MAX_IMAGE_BYTES:
      raise UserError(
        f"--image={path}: {file.stat().st_size:,} bytes are too many; the "
        f"limit is {MAX_IMAGE_BYTES:,}"
      )
    data = file.read_bytes()
  except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"--image={path}: {reason}") from error
  try:
    return images.decode(data).pixels
  except UserError as error:
    raise UserError(f"--image={path}: {error}") from error
