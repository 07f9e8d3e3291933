"""Fields of a row: text, options, boxes and answers out of untrusted values."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
import math
import re
import string
from typing import Any

from lfpc_jax.data.sources.rows import LEFT_OUT, RowError
from lfpc_jax.rl import answers

_MAX_LITERAL = 10_000
_MAX_DEPTH = 6  # of an answer: a list of boxed lists

# Everything from here on tells the policy which format to answer in; our own
# prompt does that.
_INSTRUCTION = re.compile(
  r"\s*(?:Think first, call|Think in the mind first|Think in your mind first"
  r"|Format strictly as|Guidelines?: Understand"
  r"|Answer with the option's letter|Answer the question using a single word"
  r"|Please select the correct answer from the options above"
  r"|Please provide only the single option letter"
  r"|(?:You FIRST|You should first) think about the reasoning)"
)
_PLACEHOLDER = re.compile(r"\s*<(?:image|video)>\s*")
_LEAD_IN = re.compile(r"\A\s*question\s*:\s*", re.IGNORECASE)
_CHOICES = re.compile(r"\s*(?:choices|options)\s*:?\s*\Z", re.IGNORECASE)
_OPTION = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*(.*)")
_BOXED = re.compile(r"\s*\$?\\boxed\{(.*)\}\$?\s*", re.DOTALL)


def field(row: Any, name: str) -> Any:
  """A field of a mapping.

  Raises:
    RowError: the row is no mapping, or has no such field.
  """
  if not isinstance(row, Mapping):
    raise RowError(f"a row must be an object, not {_short(row)}")
  if row.get(name) is None:
    raise RowError(f"the field {name!r} is missing")
  return row[name]


def text(value: Any, name: str) -> str:
  """Text that is not empty; numbers are taken as they are printed.

  Raises:
    RowError: another type, nothing but white space, or no valid Unicode.
  """
  if isinstance(value, bool) or not isinstance(value, (str, int, float)):
    raise RowError(f"{name} must be text, not {_short(value)}")
  if isinstance(value, float) and not math.isfinite(value):
    raise RowError(f"{name} is {value}")
  value = str(value).strip()
  if not value:
    raise RowError(f"{name} is empty")
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise RowError(f"{name} is no valid Unicode: {_short(value)}") from error
  return value


def options(value: Any, *, equal: bool = False) -> tuple[str, ...]:
  """Two to 26 choices, or () for None and an empty list.

  Args:
    value: a list of them.
    equal: whether two may be the same; a letter alone then tells them apart.

  Raises:
    RowError: anything else.
  """
  if value is None or (isinstance(value, Sequence) and not len(value)):
    return ()
  if isinstance(value, str) or not isinstance(value, Sequence):
    raise RowError(f"options must be a list, not {_short(value)}")
  found = tuple(text(option, "an option") for option in value)
  if not 2 <= len(found) <= 26:
    raise RowError(f"{len(found)} options: give 2 to 26, or none")
  if len(set(found)) < len(found) and not equal:
    raise RowError(f"two options are the same: {_short(found)}")
  return found


def boxes(
  value: Any, form: str = "xyxy"
) -> tuple[tuple[float, float, float, float], ...]:
  """Boxes as (x1, y1, x2, y2), the smallest first; () for None or [].

  Args:
    value: one list of four numbers, or a list of such lists.
    form: 'xyxy', corners, or 'xywh', corner and size.

  Raises:
    RowError: not four finite numbers each, or a box without area.
  """
  if value is None or (isinstance(value, Sequence) and not len(value)):
    return ()
  if isinstance(value, str) or not isinstance(value, Sequence):
    raise RowError(f"boxes must be a list, not {_short(value)}")
  if not isinstance(value[0], Sequence):
    value = [value]
  found = [_box(box, form) for box in value]
  return tuple(sorted(found, key=lambda b: (b[2] - b[0]) * (b[3] - b[1])))


def _box(value: Any, form: str) -> tuple[float, float, float, float]:
  if (
    isinstance(value, str)
    or not isinstance(value, Sequence)
    or len(value) != 4
    or any(isinstance(x, bool) or not isinstance(x, int | float) for x in value)
  ):
    raise RowError(f"a box must be four numbers, not {_short(value)}")
  if any(not abs(x) < 2**31 for x in value):
    raise RowError(f"box {_short(value)} is not finite or far too large")
  x1, y1, x2, y2 = (float(x) for x in value)
  if form == "xywh":
    x2, y2 = x1 + x2, y1 + y2
  if not (x1 < x2 and y1 < y2):
    raise RowError(f"box {_short(value)} ({form}) has no area")
  return x1, y1, x2, y2


def union(
  found: Sequence[tuple[float, float, float, float]],
) -> tuple[tuple[float, float, float, float], ...]:
  """The one box around all, or () for none.

  A question about several objects is answered by a region with all of them:
  no single object's box holds the answer.
  """
  if not found:
    return ()
  low, high = zip(*(b[:2] for b in found)), zip(*(b[2:] for b in found))
  return ((*map(min, low), *map(max, high)),)


def question(value: Any) -> str:
  """The question alone: no image placeholder, no instruction on the format."""
  value = _PLACEHOLDER.sub("\n", text(value, "the question")).strip()
  value = _INSTRUCTION.split(value, maxsplit=1)[0]
  return text(_LEAD_IN.sub("", value), "the question")


def split_options(value: str) -> tuple[str, tuple[str, ...]]:
  r"""Separates "Which colour?\n(A) red\n(B) blue" into question and options.

  Options are whole lines at the end, lettered from A on without a gap, as
  "(A) red", "A. red", "A) red" or "A: red". Anything else is left as it is.
  """
  lines = value.strip().split("\n")
  first = next(
    (n for n, line in enumerate(lines) if _letter(line) == "A"), len(lines)
  )
  matches = [_OPTION.fullmatch(line) for line in lines[first:] if line.strip()]
  letters = [match and (match[1] or match[2]) for match in matches]
  wanted = list(string.ascii_uppercase[: len(letters)])
  asked = _CHOICES.sub("", "\n".join(lines[:first])).strip()
  if len(letters) < 2 or letters != wanted or not asked:
    return value, ()
  found = tuple(match[3].strip() for match in matches)
  if not all(found) or len(set(found)) < len(found):
    return value, ()
  return asked, found


def choice(value: Any, truth: str) -> tuple[str, tuple[str, ...]]:
  """A question's text and options, where the options stand in the text.

  Where the truth names none of them, the lines are no options: the text stays
  whole and the question is open.
  """
  asked, found = split_options(question(value))
  if found and answers.chosen_option(truth, found) is None:
    return question(value), ()
  return asked, found


def _letter(line: str) -> str | None:
  match = _OPTION.fullmatch(line)
  return match and (match[1] or match[2])


def answer(value: Any) -> str:
  r"""The one answer: unpacked from a list and from `\boxed{..}`.

  Raises:
    RowError: no answer; several different ones leave the row out, since a
      list does not say whether one or all of them are asked for.
  """
  found = list(_answers(value))
  if not found:
    raise RowError("the answer is empty")
  different = dict.fromkeys(found)
  if len(different) > 1:
    raise RowError(f"several answers: {_short(list(different))}", LEFT_OUT)
  return found[0]


def _answers(value: Any, depth: int = 0):
  if isinstance(value, list | tuple) and depth < _MAX_DEPTH:
    for one in value:
      yield from _answers(one, depth + 1)
    return
  value = text(value, "the answer")
  boxed = _BOXED.fullmatch(value)
  if boxed and depth < _MAX_DEPTH:
    yield from _answers(boxed[1], depth + 1)
  elif value[0] == "[" and value[-1] == "]" and depth < _MAX_DEPTH:
    inner = _literal_list(value)
    if inner is None:
      yield value
    else:
      yield from _answers(inner, depth + 1)
  else:
    yield value


def _literal_list(value: str) -> list | None:
  """A list of literals as Python prints it; None if it is none."""
  if len(value) > _MAX_LITERAL:
    return None
  try:
    found = ast.literal_eval(value)
  except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
    return None
  plain = isinstance(found, list) and all(
    isinstance(x, str | int | float) for x in found
  )
  return found if plain and found else None


def _short(value: Any) -> str:
  shown = repr(value)
  return shown if len(shown) <= 80 else shown[:77] + "..."
