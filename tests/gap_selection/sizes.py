"""A config, examples and a source small enough for seconds."""

import functools
import io
import pathlib

from PIL import Image

from lfpc_jax import agent as agent_lib
from lfpc_jax import config as config_lib
from lfpc_jax.data.gap_file import Chosen
from lfpc_jax.data.loader import PromptSource
from tests.rollout import scripted_policy

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "tiny.py")
FULL, LEVELS, BATCH = 30, (9, 4), 3
_CHANGES = (
  f"gap.full_tokens={FULL}",
  "gap.tokens=4",
  "data.image_capacity=224,224",
  f"selection.levels={LEVELS}",
  f"selection.batch={BATCH}",
  "selection.answer_tokens=4",
)


def load(*changes):
  """The shipped policy at toy sizes."""
  config = config_lib.load_config(CONFIG, (*_CHANGES, *changes))
  return config_lib.freeze(config)


@functools.cache
def params():
  """The shipped policy's parameters."""
  return agent_lib.load_params(agent_lib.make_agent(load(), 4), "")


def chosen(name: str, tokens: int, **changes) -> Chosen:
  """What was selected for an example."""
  fields = dict(
    diverged=True,
    original_tokens=324,
    original_answer="7",
    original_correct=True,
    answer="1",
    correct=False,
    levels=(64, tokens),
    answers=("7", "1"),
  )
  return Chosen(name, tokens, **(fields | changes))


def source(number: int = 5) -> PromptSource:
  """Examples of different sizes, the images as PNG, without loss."""
  rows = []
  for example in scripted_policy.make_examples(number):
    file = io.BytesIO()
    Image.fromarray(example.image).save(file, "PNG")
    rows.append(
      dict(
        id=example.id,
        image=file.getvalue(),
        question=example.question,
        answer=example.answer,
        category=example.category,
        boxes=example.boxes,
      )
    )
  return PromptSource(rows, "waves")
