"""How other tools read an answer to a choice: for comparison alone.

Scores of papers rest on these. They are kinder than our rule, which training
rewards and our scores use: they look for a letter or an option anywhere in a
text, so that a negation or an aside can count as an answer. VLMEvalKit's
stands in a column of its own beside V*Bench's and HR-Bench's score.
"""

from __future__ import annotations

from collections.abc import Sequence
import re
import string

from lfpc_jax.benchmarks.grading import Grade
from lfpc_jax.data.examples import Example
from lfpc_jax.rl import answers

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)
_REFUSALS = (
  "Sorry, I can't help with images of people yet.",
  "I can't process this file.",
  "I'm sorry, but without the image provided",
  "Cannot determine the answer",
)


def vlmevalkit(prediction: str, options: Sequence[str]) -> int | None:
  """VLMEvalKit's `can_infer`: the index of the option it would read, or None.

  - A text with one of four known refusals chooses nothing.
  - Separators become spaces. If exactly one of the letters stands alone among
    the words, and its first occurrence is one of the last four, that is it.
    A lone Z, and no letter, chooses nothing.
  - Else the letter A to D behind "answer is", in capitals or not, even where
    it begins a word.
  - Else, if exactly one option's text is contained, without regard to case,
    that is it; not in a text of more than twice all options' length.

  What this leaves open that tool gives to a judge, or counts as wrong.
  """
  if any(refusal in prediction for refusal in _REFUSALS):
    return None
  words = prediction.translate(_SEPARATORS).split()
  letters = string.ascii_uppercase[: len(options)]
  named = [k for k, letter in enumerate(letters) if letter in words]
  if len(named) == 1:
    if words.index(letters[named[0]]) >= len(words) - _LAST_WORDS:
      return named[0]
  elif not named and "Z" in words:
    return None
  match = _ANSWER_IS.search(prediction)
  if match and match[1].upper() in letters:
    return letters.index(match[1].upper())
  text = prediction.lower()
  if len(text) > 2 * sum(map(len, options)):
    return None
  held = [k for k, option in enumerate(options) if option.lower() in text]
  return held[0] if len(held) == 1 else None


def grade(prediction: str | None, example: Example) -> Grade:
  """The grade of an answer to a choice, as `vlmevalkit` reads it.

  That tool is given the extracted answer here, not the whole reply. What it
  leaves open is wrong, as in its scores without a judge.

  Raises:
    UserError: the example's answer is none of its options.
  """
  chosen = vlmevalkit(prediction or "", example.options)
  right = answers.answer_index(example.answer, example.options)
  return Grade(
    id=example.id,
    category=example.category,
    group=example.group,
    variant=example.variant,
    correct=chosen == right,
    by="VLMEvalKit",
    prediction=prediction,
  )


def deep_eyes(
  prediction: str, right: int, options: Sequence[str]
) -> bool | None:
  r"""DeepEyes' rule: right, wrong, or None where its judge is asked.

  The inside of a `\boxed{}`, if there is one, is taken. One character is right
  if it is the letter; two with a full stop, if they hold the letter; anything
  else, if it contains the right option's text.
  """
  if "\\boxed{" in prediction:
    prediction = prediction.split("\\boxed{")[1].split("}")[0]
  letter = string.ascii_uppercase[right]
  if len(prediction) == 1:
    return prediction == letter
  if len(prediction) == 2 and "." in prediction:
    return letter in prediction
  return True if options[right] in prediction else None
