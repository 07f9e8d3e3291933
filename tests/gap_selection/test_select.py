"""The walk down the ladder, on answers worked out by hand."""

import numpy as np
import pytest

from lfpc_jax.data.examples import Example
from lfpc_jax.gap_selection import select

FULL, LEVELS = 324, (64, 16, 4)


def _example(name, answer="7", options=()):
  return Example(
    id=name,
    image=np.zeros((0, 0, 3), np.uint8),
    question="?",
    answer=answer,
    category="attribute",
    options=options,
    boxes=np.zeros((0, 4), np.int32),
    source="test",
  )


def _choose(table, examples=None):
  """Rows from (answers at FULL and LEVELS, tokens of the original)."""
  examples = examples or [_example(f"e{i}") for i in range(len(table))]
  asked = []

  def answer(level, indices):
    asked.append((level, list(indices)))
    place = (FULL, *LEVELS).index(level)
    return [(table[i][0][place], table[i][1]) for i in indices]

  return select.choose_levels(examples, FULL, LEVELS, answer), asked


def test_the_first_level_whose_answer_diverges_is_chosen():
  rows, asked = _choose(
    [
      (("7", "7", "1", "7"), 324),  # diverges at 16, and would come back
      (("7", "3", "3", "3"), 324),  # at once
      (("7", "7", "7", "7"), 324),  # never
      (("5", "5", "5", "7"), 324),  # wrong on the original, then right
    ]
  )
  assert [row.tokens for row in rows] == [16, 64, 4, 4]
  assert [row.diverged for row in rows] == [True, True, False, True]
  assert [row.original_correct for row in rows] == [True, True, True, False]
  assert [row.answer for row in rows] == ["1", "3", "7", "7"]
  assert [row.correct for row in rows] == [False, False, True, True]
  assert rows[0].levels == (64, 16) and rows[0].answers == ("7", "1")
  # Nothing is asked again of an example that has diverged.
  assert asked == [
    (FULL, [0, 1, 2, 3]),
    (64, [0, 1, 2, 3]),
    (16, [0, 2, 3]),
    (4, [2, 3]),
  ]


def test_a_level_that_is_no_smaller_than_the_original_is_not_asked():
  rows, asked = _choose(
    [
      (("7", "no", "no", "1"), 16),  # 16 tokens: levels 64 and 16 are itself
      (("7", "no", "no", "no"), 4),
    ]
  )
  assert asked == [(FULL, [0, 1]), (4, [0])]
  assert (rows[0].tokens, rows[0].diverged, rows[0].levels) == (4, True, (4,))
  assert (rows[1].tokens, rows[1].diverged, rows[1].levels) == (4, False, ())
  assert rows[1].answer == "7" and rows[1].correct


@pytest.mark.parametrize(
  "answer, original, options, expected",
  [
    ("7", "7", (), False),
    ("seven", "7", (), False),
    ("The answer is 7.", "7", (), False),
    ("7", "the answer is 7", (), False),
    ("1", "7", (), True),
    ("", "", (), False),
    ("", "7", (), True),
    ("A", "(a) red", ("red", "blue"), False),
    ("blue", "A", ("red", "blue"), True),
    ("neither", "A", ("red", "blue"), True),
    ("neither", "neither", ("red", "blue"), False),
    ("neither", "both", ("red", "blue"), True),
  ],
)
def test_answers_diverge_as_the_judge_reads_them(
  answer, original, options, expected
):
  assert select.diverges(answer, original, options) is expected


def test_options_decide_whether_an_answer_is_right():
  examples = [_example("e", "B", ("red", "blue"))]
  rows, _ = _choose([(("blue", "B", "b)", "red"), 324)], examples)
  assert rows[0].tokens == 4 and rows[0].diverged
  assert rows[0].original_correct and not rows[0].correct
