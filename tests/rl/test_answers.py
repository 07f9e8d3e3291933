"""The judge: extraction, format rule, equality of answers, hostile text."""

import string
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from lfpc_jax.errors import UserError
from lfpc_jax.rl import answers

_COLOURS = ("red", "dark red", "green", "blue")


@pytest.mark.parametrize(
  "text, expected",
  [
    ("<answer>B</answer>", "B"),
    ("<think>x</think><answer>\n the red one </answer>", "the red one"),
    ("<answer>A</answer> no: <answer>B</answer>", "B"),
    ("<answer>A</answer> no: <answer>B", "A"),  # the last COMPLETE one
    ("<answer>draft <answer>B</answer></answer>", "B"),
    ("</answer><answer>B</answer></answer>", "B"),
    ("<answer></answer>", ""),
    ("<answer>B", None),
    ("B</answer>", None),
    ("</answer><answer>", None),
    ("The answer is B", None),
    ("<Answer>B</Answer>", None),
    ("", None),
  ],
)
def test_answer_is_the_last_complete_one(text, expected):
  assert answers.extract_answer(text) == expected


def test_whole_text_is_judged_only_on_request():
  assert answers.extract_answer(" B. ") is None
  assert answers.extract_answer(" B. ", fallback=True) == "B."
  assert answers.extract_answer("x<answer>A</answer>", fallback=True) == "A"


_GOOD = "<think>look</think><answer>B</answer>"
_CALL = '<think>zoom</think><tool_call>{"name": "zoom"}</tool_call>'


@pytest.mark.parametrize(
  "turns, expected",
  [
    ([_GOOD], True),
    (["<answer>B</answer>"], True),  # thinking is not compulsory
    ([_CALL, _GOOD], True),
    ([_CALL, _CALL, _GOOD], True),
    ([], False),
    ([""], False),
    (["B"], False),
    (["<think>x<answer>B</answer>"], False),
    (["x</think><answer>B</answer>"], False),
    (["</think>x<think><answer>B</answer>"], False),  # counts agree
    (["<think><think>x</think></think><answer>B</answer>"], False),
    (["<answer>B"], False),
    (["<answer>A</answer><answer>B</answer>"], False),
    (["</answer>B<answer>"], False),
    (["<tool_call>{}" + _GOOD], False),
    ([_CALL], False),
    ([_GOOD, _CALL], False),  # the answer is not in the final turn
    (["<think>zoom", _GOOD], False),
    ([_GOOD + "<|vision_start|>"], False),
    ([_GOOD + "<|vision_start|><|image_pad|><|vision_end|>"], False),
    (["<|image_pad|>" + _CALL, _GOOD], False),
    (["<answer>" + "x" * 999 + "</answer>"], True),
    (["<answer>" + "x" * 1000 + "</answer>"], False),
  ],
)
def test_format_rule(turns, expected):
  assert answers.well_formed(*turns) is expected


@pytest.mark.parametrize(
  "prediction, answer",
  [
    ("7", "7.0"),
    ("7.0", "7"),
    ("7.", "7"),
    ("1,000", "1000"),
    ("1,234,567.50", "1234567.5"),
    (".5", "0.5"),
    ("-3", "−3.0"),
    ("0", "-0.0"),
    ("100", "100.00"),
    ("$5.00", "$5"),
    ("７", "7"),
    ("three", "3"),
    ("Twenty", "20"),
    ("7.0 metres", "7 Metres"),
    ("Red", "red"),
    ("  the  Red\tcar. ", "red car"),
    ("An apple", "apple"),
    ("traffic-light", "traffic light"),
    ("women's", "womens"),
    ("women’s", "women's"),
    ("U.S.A.", "USA"),
    ("No.5", "No. 5"),
    ("Ben & Jerry", "ben and jerry"),
    ("red,blue", "red, blue"),
    ('"STOP"', "stop"),
    ("**stop**", "stop"),
    ("Straße", "STRASSE"),
    ("10:30", "10:30."),
    ("ABC_12", "abc 12"),
    ("A", "a"),
    ("the", "The"),
    ("+", "+"),
    ("?", " ? "),
    ("The answer is red.", "red"),
    ("Answer: 7", "7"),
    ("my final answer is: the dog", "dog"),
  ],
)
def test_open_answers_that_mean_the_same(prediction, answer):
  assert answers.matches(prediction, answer)
  assert answers.matches(answer, answer)


@pytest.mark.parametrize(
  "prediction, answer",
  [
    (None, "red"),
    ("", "red"),
    ("   ", "red"),
    ("...", "?"),
    ("", ""),
    ("red or blue", "red"),
    ("not red", "red"),
    ("red", "red car"),
    ("35", "3.5"),
    ("-7", "7"),
    ("7", "-7"),
    ("1,2", "12"),
    ("1, 2", "12"),
    ("7", "70"),
    ("70", "7"),
    ("007", "7"),
    ("50%", "50"),
    ("$5", "5"),
    ("1/2", "12"),
    ("1/2", "1 2"),
    ("10:30", "1030"),
    ("3:1", "3/1"),
    ("a", "the"),
    ("A 12", "12"),
    ("twenty one", "21"),
    ("1e2", "100"),
    ("nan", "inf"),
    ("inf", "1"),
    ("9" * 30 + "1", "9" * 30 + "2"),
    ("0.1" + "0" * 30 + "1", "0.1"),
    ("vitamin a", "vitamin"),
    ("1.2.3", "1.2.30"),
    ("+", "-"),
  ],
)
def test_open_answers_that_differ(prediction, answer):
  assert not answers.matches(prediction, answer)


@pytest.mark.parametrize(
  "prediction, answer",
  [
    (r"\boxed{7}", "7"),
    ("$7$", "7"),
    ("$$7.0$$", "7"),
    (r"\(7\)", "7"),
    (r"\[ 7 \]", "7"),
    (r"$\boxed{7}$.", "7"),
    (r"\boxed{\text{red car}}", "red car"),
    (r"\boxed{\mathrm{Red}}", "red"),
    (r"The answer is $7$.", "7"),
    (r"The answer is \boxed{7}", "7"),
    (r"\boxed{The answer is 7}", "7"),
    (r"**\boxed{7}**", "7"),
    (r"\frac{1}{2}", "1/2"),
    (r"$\frac{1}{2}$", "1/2"),
    (r"\boxed{\dfrac12}", "1/2"),
    (r"-\tfrac{1}{2}", "-1/2"),
    (r"\frac{-1}{2}", "-1/2"),
    (r"3\frac{1}{2}", "3 1/2"),
    (r"\boxed{\frac{10}{3} cm}", "10/3 cm"),
    (r"$\boxed{\{1, 2\}}$", r"\{1, 2\}"),
    (r"\boxed{50\%}", "50%"),
    (r"\boxed{$5}", "$5"),
  ],
)
def test_latex_around_a_whole_answer_is_no_part_of_it(prediction, answer):
  assert answers.matches(prediction, answer)
  if "answer" not in prediction and "*" not in prediction:
    # A truth may be written so as well.
    assert answers.matches(answer, prediction)


@pytest.mark.parametrize(
  "prediction, answer",
  [
    (r"\boxed{7} or \boxed{8}", "7"),
    (r"\boxed{7}\boxed{8}", "7"),
    (r"not \boxed{7}", "7"),
    (r"\boxed{7", "7 boxed"),
    (r"\boxed{}", ""),
    (r"\boxed{7}}", "8"),
    ("$7", "7"),
    ("7$", "7"),
    ("-$7$", "7"),
    ("$5 or $6$", "5 or 6"),
    ("$7$ and $8$", "7 and 8"),
    (r"3\frac{1}{2}", "31/2"),
    (r"\frac{1}{2}3", "1/23"),
    (r"\frac{1}{2}", "12"),
    (r"\frac{1}{2}", "1 2"),
    (r"\frac{1}{2}", "2/1"),
    (r"\frac{1+x}{2}", "1+x/2"),
    (r"\frac{a}{b}", "a/b"),
    (r"\boxed{1}\frac{1}{2}", "1/2"),
  ],
)
def test_other_latex_loosens_nothing(prediction, answer):
  assert not answers.matches(prediction, answer)


@pytest.mark.parametrize(
  "prediction, index",
  [
    (r"\boxed{B}", 1),
    (r"\boxed{(B)}", 1),
    (r"$\boxed{B}$", 1),
    (r"\boxed{\text{B}}.", 1),
    (r"The answer is \boxed{B}.", 1),
    (r"\boxed{B. dark red}", 1),
    (r"B. \boxed{dark red}", 1),
    (r"\boxed{dark red}", 1),
    (r"$C$", 2),
    (r"\boxed{A} or \boxed{B}", None),
    (r"\boxed{A, B}", None),
    (r"\boxed{A}, not \boxed{B}", None),
    (r"\boxed{not red}", None),
    (r"\boxed{A. blue}", None),
    (r"\boxed{}", None),
    (r"\boxed{E}", None),
  ],
)
def test_a_boxed_choice(prediction, index):
  assert answers.chosen_option(prediction, _COLOURS) == index


def test_options_in_latex():
  options = (r"$\frac{1}{2}$", r"$\frac{2}{1}$", "$5$", "$5")
  assert answers.chosen_option("1/2", options) == 0
  assert answers.chosen_option(r"\boxed{\frac{2}{1}}", options) == 1
  assert answers.chosen_option("5", options) == 2
  assert answers.chosen_option("$5$", options) == 2
  assert answers.chosen_option("$5", options) == 3
  assert answers.matches("1/2", r"$\frac{1}{2}$", options)


@pytest.mark.parametrize(
  "prediction, index",
  [
    ("A", 0),
    ("a", 0),
    ("(B)", 1),
    ("[B]", 1),
    ("C.", 2),
    ("d)", 3),
    ("(C).", 2),
    ("**B**", 1),
    (" B:\n", 1),
    ("The answer is B", 1),
    ("the correct answer is (D).", 3),
    ("Answer: C", 2),
    ("Option B", 1),
    ("The answer is option C.", 2),
    ("So the best choice is A", 0),
    ("Answer C", 2),
    ("red", 0),
    ("Dark red.", 1),
    ("the green", 2),
    ("The answer is blue", 3),
    ("A) red", 0),
    ("(A) red", 0),
    ("A. red", 0),
    ("A: red", 0),
    ("A - red", 0),
    ("B. Dark Red", 1),
    ("B dark red", 1),
    ("C.green", 2),
    ("The answer is D. blue", 3),
    ("A. The car is red.", 0),
    ("B. The car is dark red", 1),
    ("(D) A blue car", 3),
  ],
)
def test_option_forms(prediction, index):
  assert answers.chosen_option(prediction, _COLOURS) == index
  right = string.ascii_uppercase[index]
  assert answers.matches(prediction, right, _COLOURS)
  assert answers.matches(prediction, _COLOURS[index], _COLOURS)
  wrong = string.ascii_uppercase[(index + 1) % 4]
  assert not answers.matches(prediction, wrong, _COLOURS)


@pytest.mark.parametrize(
  "prediction",
  [
    "",
    "E",
    "(Z)",
    "A or B",
    "A, B",
    "A) B) C) D)",
    "A. red or green",
    "A. blue",
    "(A) dark red",
    "A and B",
    "AB",
    "red, green",
    "red or blue",
    "not red",
    "The answer is not A",
    "A. or (B)",
    "reddish",
    "Apple",
    "B red",
    "C. It is A",
    "A. blue\nor green",
    "answer",
    "the answer is",
    "D" * 999,
    "A" + " " * 999,
    "the car is red",
  ],
)
def test_prediction_that_chooses_no_single_option(prediction):
  assert answers.chosen_option(prediction, _COLOURS) is None
  for letter in "ABCD":
    assert not answers.matches(prediction, letter, _COLOURS)


def test_a_before_a_word_is_the_article():
  assert answers.chosen_option("A blue", _COLOURS) == 3
  assert answers.chosen_option("A red", ("blue", "red")) == 1


def test_options_that_are_numbers_or_contain_each_other():
  numbers = ("1", "10", "100", "3.5")
  assert answers.matches("10", "B", numbers)
  assert answers.matches("ten", "B", numbers)
  assert answers.matches("D. 3.50", "D", numbers)
  assert not answers.matches("10", "A", numbers)
  assert not answers.matches("35", "D", numbers)


def test_letter_wins_where_options_are_letters():
  options = ("B", "A")
  assert answers.matches("A", "A", options)
  assert answers.chosen_option("A", options) == 0


def test_exact_spelling_decides_between_options_of_equal_form():
  assert answers.chosen_option("C#", ("C", "C#", "C++")) == 1
  assert answers.chosen_option("red", ("red", "blue", "red")) is None


def test_option_text_with_initials():
  assert answers.chosen_option("D.C.", ("York", "D.C.", "Bonn", "Rome")) == 1


def test_truth_outside_the_options_is_an_error_that_names_it():
  with pytest.raises(UserError, match="'purple'.*A to D.*'dark red'"):
    answers.matches("red", "purple", _COLOURS)


@pytest.mark.parametrize("options", [(), ("x" * 1000, "b")])
def test_answer_of_a_thousand_characters_is_wrong(options):
  long = "x" * 1000
  assert not answers.matches(long, "A" if options else long, options)
  assert answers.matches("x" * 999, "x" * 999)


def test_verdict_reads_the_final_turn():
  early = "<answer>red</answer>" + _CALL
  assert answers.verdict([early, _GOOD], "B", _COLOURS) == (True, True, "B")
  assert answers.verdict([early, "so"], "red") == (False, False, None)
  assert answers.verdict(["red"], "red", fallback=True) == (True, False, "red")
  assert answers.verdict([], "red") == (False, False, None)
  with pytest.raises(TypeError, match="list of the turns"):
    answers.verdict(_GOOD, "B")


_BOMBS = (
  "<answer>~</answer>~<answer></answer>~<think>~<~the answer~,000~1,000~1.~"
  "-~(a~a)~ ~*~\n~A. ~&~.a~"
  "<think></think>~9~ﬀ~\u0301~option ~red ~<|image_pad~\\boxed{~$~\\(~}~"
  "\\frac{1}{~\\frac12~\\frac{1}{2}~{\\text{"
).split("~")


@pytest.mark.parametrize("bomb", _BOMBS)
@pytest.mark.parametrize(
  "before, after",
  [
    ("", ""),
    ("<answer>", "</answer>"),
    ("<answer>A", "x"),
    ("the answer is ", "!"),
  ],
)
def test_hostile_text_takes_linear_time(bomb, before, after):
  text = before + bomb * (100_000 // len(bomb)) + after
  start = time.process_time()
  answers.verdict([text, text], "A", _COLOURS, fallback=True)
  answers.verdict([text[:999]], "red", fallback=True)
  answers.verdict([text[:999]], "A", _COLOURS, fallback=True)
  # It takes some milliseconds; a quadratic pass would take minutes.
  assert time.process_time() - start < 1.0


_pieces = st.lists(
  st.sampled_from(
    [
      "<answer>",
      "</answer>",
      "<think>",
      "</think>",
      "A",
      "red",
      " ",
      ".",
      "(",
      ")",
      "7",
      ",",
      "-",
      "the ",
      "\x00",
      "İ",
      "²",
      "½",
      "٣",
      "\ud800",
    ]
  ),
  max_size=12,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(_pieces, _pieces)
def test_any_text_is_judged_without_an_error(first, second):
  found = answers.verdict([first, second], "red", _COLOURS, fallback=True)
  assert found.correct in (True, False)
  if found.formed:
    assert answers.extract_answer(second) is not None
  answers.matches(first, second)


@settings(max_examples=200, deadline=None)
@given(_pieces)
def test_normalising_twice_changes_nothing(text):
  once = answers.normalise(text)
  assert answers.normalise(once) == once
  assert once == " ".join(once.split())


@settings(max_examples=200, deadline=None)
@given(_pieces)
def test_a_prediction_is_right_for_one_option_at_most(text):
  right = [
    letter for letter in "ABCD" if answers.matches(text, letter, _COLOURS)
  ]
  assert len(right) <= 1
