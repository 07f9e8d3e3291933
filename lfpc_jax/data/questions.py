"""Questions about a scene's signs, with the boxes that hold the answer."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from lfpc_jax.data import scene_render

CATEGORIES = ("attribute", "relation")

_TEXTS = {
  "attribute": "What digit is on the {} sign?",
  "relation": "What digit is on the sign next to the {} sign?",
}


def question_text(category: str, colour: str) -> str:
  """The question of a category that names the sign of this colour."""
  return _TEXTS[category].format(colour)


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a scene.

  Attributes:
    text: the question.
    answer: a digit.
    category: one of `CATEGORIES`.
    boxes: i32[n, 4], nested, the smallest first: the digit's ink, its sign,
      and for a relation the pair.
  """

  text: str
  answer: str
  category: str
  boxes: np.ndarray


def questions_about(signs: Sequence[scene_render.Sign]) -> list[Question]:
  """All questions of a scene: one per sign, one more per sign of a pair."""
  questions = []
  for sign in signs:
    questions.append(_question("attribute", sign, [sign]))
    if sign.partner >= 0:
      partner = signs[sign.partner]
      questions.append(_question("relation", sign, [partner, sign]))
  return questions


def draw_question(
  rng: np.random.Generator,
  signs: Sequence[scene_render.Sign],
  category: str,
) -> Question:
  """One question of a category, each with the same chance.

  Raises:
    ValueError: the scene has no such question.
  """
  questions = [q for q in questions_about(signs) if q.category == category]
  if not questions:
    raise ValueError(
      f"No question of category {category!r} can be asked about this scene:"
      f" choose one of {CATEGORIES}, and scenes with a pair for a relation."
    )
  return questions[rng.integers(len(questions))]


def _question(
  category: str,
  named: scene_render.Sign,
  signs: Sequence[scene_render.Sign],
) -> Question:
  """A question that names one sign and whose answer is on `signs[0]`."""
  boxes = [signs[0].digit_box, signs[0].box]
  if len(signs) > 1:
    corners = np.array([sign.box for sign in signs])
    boxes.append((*corners[:, :2].min(0), *corners[:, 2:].max(0)))
  return Question(
    text=question_text(category, named.colour),
    answer=str(signs[0].digit),
    category=category,
    boxes=np.array(boxes, np.int32),
  )
