"""Fields out of untrusted values."""

import pytest

from lfpc_jax.data.sources import fields
from lfpc_jax.data.sources.rows import BROKEN, LEFT_OUT, RowError


@pytest.mark.parametrize(
  "value, expected",
  [(" red ", "red"), (7, "7"), (7.5, "7.5"), ("<b>", "<b>")],
)
def test_text(value, expected):
  assert fields.text(value, "x") == expected


@pytest.mark.parametrize(
  "value",
  ["", "  ", None, True, [], {}, b"x", float("nan"), float("inf"), "\ud800"],
)
def test_no_text(value):
  with pytest.raises(RowError, match="^x "):
    fields.text(value, "x")


@pytest.mark.parametrize(
  "value, expected",
  [
    ("<image>\nWhich colour?", "Which colour?"),
    ("<image> Question: Which colour?", "Which colour?"),
    ("Which colour?\n<image>", "Which colour?"),
    ("Which?\nThink first, call **image_zoom_in_tool** if", "Which?"),
    ("Which?\nThink in the mind first, and then decide", "Which?"),
    ("Which?\nAnswer with the option's letter from the", "Which?"),
    ("Which?\n\nGuidelines: Understand the given visual", "Which?"),
    ("Which?\nAnswer the question using a single word or phrase.", "Which?"),
    ("Which question: this?", "Which question: this?"),
  ],
)
def test_a_question_without_placeholder_and_instruction(value, expected):
  assert fields.question(value) == expected


def test_an_instruction_alone_is_no_question():
  with pytest.raises(RowError, match="question is empty"):
    fields.question("<image>\nThink first, call")


@pytest.mark.parametrize(
  "value, asked, found",
  [
    ("Which?\n(A) red\n(B) blue", "Which?", ("red", "blue")),
    ("Which?\nA. red\nB. blue\nC. green", "Which?", ("red", "blue", "green")),
    ("Which?\nA) red\nB) blue", "Which?", ("red", "blue")),
    ("Which?\nchoices:\nA: red\nB: blue", "Which?", ("red", "blue")),
    ("Which?\nOptions:\n(A) red\n\n(B) blue", "Which?", ("red", "blue")),
    ("One\ntwo?\n(A) a (b)\n(B) c", "One\ntwo?", ("a (b)", "c")),
  ],
)
def test_options_are_taken_out_of_the_text(value, asked, found):
  assert fields.split_options(value) == (asked, found)


@pytest.mark.parametrize(
  "value",
  [
    "Which?",
    "Which? (A) red (B) blue",
    "Which?\n(A) red",
    "Which?\n(A) red\n(C) blue",
    "Which?\n(B) red\n(C) blue",
    "Which?\n(A) red\n(B) red",
    "Which?\n(A) red\n(B)",
    "(A) red\n(B) blue",
    "Which?\n(A) red\n(B) blue\nExplain.",
    "A. Smith met whom?\nB. Jones said what?",
  ],
)
def test_text_that_lists_no_options_stays(value):
  assert fields.split_options(value) == (value, ())


def test_options_that_hold_no_truth_are_no_options():
  text = "Which?\n(A) red\n(B) blue"
  assert fields.choice(text, "B") == ("Which?", ("red", "blue"))
  assert fields.choice(text, "blue") == ("Which?", ("red", "blue"))
  assert fields.choice(text, "green") == (text, ())


@pytest.mark.parametrize(
  "value, expected",
  [
    ("red", "red"),
    (["red"], "red"),
    (["\\boxed{B}"], "B"),
    ("\\boxed{ red car }", "red car"),
    ("$\\boxed{7}$", "7"),
    ("\\boxed{['red']}", "red"),
    (["red", "red"], "red"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("[1, 2", "[1, 2"),
    ("[x for x in y]", "[x for x in y]"),
    ("[__import__('os')]", "[__import__('os')]"),
    (7, "7"),
  ],
)
def test_answers_are_unpacked(value, expected):
  assert fields.answer(value) == expected


def test_several_answers_leave_a_row_out():
  for value in (["red", "blue"], "\\boxed{['1', '2']}"):
    with pytest.raises(RowError, match="several answers") as caught:
      fields.answer(value)
    assert caught.value.kind == LEFT_OUT


@pytest.mark.parametrize("value", ["", [], [""], "\\boxed{}", None, {}, [[]]])
def test_no_answer_is_broken(value):
  with pytest.raises(RowError) as caught:
    fields.answer(value)
  assert caught.value.kind == BROKEN


def test_a_deep_literal_is_text():
  assert fields.answer("[" * 5000 + "]" * 5000).startswith("[[")


@pytest.mark.parametrize(
  "value, form, expected",
  [
    (None, "xyxy", ()),
    ([], "xyxy", ()),
    ([1, 2, 3, 5], "xyxy", ((1, 2, 3, 5),)),
    ([[1, 2, 3, 5]], "xywh", ((1, 2, 4, 7),)),
    ([[0, 0, 9, 9], [1, 1, 2, 2.5]], "xyxy", ((1, 1, 2, 2.5), (0, 0, 9, 9))),
  ],
)
def test_boxes(value, form, expected):
  assert fields.boxes(value, form) == expected


@pytest.mark.parametrize(
  "value, form",
  [
    ("1,2,3,4", "xyxy"),
    ({}, "xyxy"),
    (5, "xyxy"),
    ([1, 2, 3], "xyxy"),
    ([[1, 2, 3, 4], [1, 2]], "xyxy"),
    ([[1, 2, 3, "4"]], "xyxy"),
    ([[1, 2, 3, True]], "xyxy"),
    ([[1, 2, 1, 4]], "xyxy"),
    ([[3, 2, 1, 4]], "xyxy"),
    ([[1, 2, 0, 4]], "xywh"),
    ([[1, 2, float("nan"), 4]], "xyxy"),
    ([[1, 2, float("inf"), 4]], "xyxy"),
    ([[1, 2, 10**400, 4]], "xyxy"),
  ],
)
def test_no_boxes(value, form):
  with pytest.raises(RowError, match="box"):
    fields.boxes(value, form)


def test_the_union_holds_all_boxes():
  assert fields.union(()) == ()
  assert fields.union([(1, 9, 3, 11), (5, 2, 6, 4)]) == ((1, 2, 6, 11),)


@pytest.mark.parametrize(
  "value",
  ["red", ["red"], ["red", "red"], ["red", ""], ["red", None], list("a" * 27)],
)
def test_no_options(value):
  with pytest.raises(RowError, match="option"):
    fields.options(value)


def test_options():
  assert fields.options(["red", 7]) == ("red", "7")
  assert fields.options(None) == fields.options([]) == ()
