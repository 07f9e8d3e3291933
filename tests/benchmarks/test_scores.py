"""Each documented rule of scoring, case by case."""

import collections
import itertools
import math

import numpy as np
import pytest

from lfpc_jax.benchmarks import grading, hr_bench, published_rules, vstar
from lfpc_jax.benchmarks.grading import Grade, Ruling
from lfpc_jax.data import option_order
from lfpc_jax.data.examples import Example
from lfpc_jax.errors import UserError
from lfpc_jax.rl import answers

_COLOURS = ("red", "blue", "green", "white")


def _example(answer="A", options=_COLOURS, **changes):
  fields = dict(
    id="q0",
    image=np.zeros((0, 0, 3), np.uint8),
    question="Which colour?",
    answer=answer,
    category="direct_attributes",
    options=options,
    boxes=np.zeros((0, 4), np.int32),
    source="vstar",
  )
  return Example(**{**fields, **changes})


class _ScriptedJudge:
  """Rules as it is told, and remembers what it was asked."""

  def __init__(self, *rulings):
    self.rulings = rulings
    self.asked = []

  def rule(self, disputes):
    self.asked += disputes
    return [Ruling(c, "" if c is not None else "down") for c in self.rulings]


# Rules first, then a judge.


@pytest.mark.parametrize(
  "prediction, expected",
  [
    ("A", True),
    ("(A) red", True),
    ("The answer is red", True),
    ("B", False),
    ("blue", False),
    ("(C) green", False),
    (None, False),
    ("", False),
    ("  ", False),
    ("x" * 1000, False),
    ("crimson", None),
    ("It is the red one", None),
    ("A or B", None),
    ("not red", None),
  ],
)
def test_the_rule_on_a_choice(prediction, expected):
  assert grading.by_rule(prediction, _example()) is expected


@pytest.mark.parametrize(
  "prediction, expected",
  [("red car", True), ("The Red Car.", True), ("B", None), ("", False)],
)
def test_the_rule_on_an_open_question(prediction, expected):
  assert grading.by_rule(prediction, _example("red car", ())) is expected


def test_without_a_judge_what_is_open_is_wrong():
  predictions = ["A", "red", "B", "crimson", "", None, "A or B", "x" * 1000]
  examples = [_example(id=str(k)) for k in range(len(predictions))]
  grades = grading.grade(predictions, examples)
  assert [g.correct for g in grades] == [True, True] + [False] * 6
  assert {(g.by, g.error) for g in grades} == {("rule", "")}


def test_the_judge_is_asked_about_nothing_but_what_is_open():
  judge = _ScriptedJudge(True, False, None)
  predictions = ["A", "crimson", "B", "bluish", None, "A or B"]
  examples = [_example(id=str(k)) for k in range(6)]
  grades = grading.grade(predictions, examples, judge)
  assert [g.correct for g in grades] == [True, True, False, False, False, None]
  assert [g.by for g in grades] == ["rule", "judge"] * 2 + ["rule", "judge"]
  assert [d.prediction for d in judge.asked] == ["crimson", "bluish", "A or B"]
  assert judge.asked[0].truth == "A. red"
  assert judge.asked[0].options == _COLOURS
  assert grades[5].error == "down"
  share = grading.share(grades)
  assert (share.correct, share.valid, share.invalid) == (2, 5, 1)
  assert share.accuracy == 0.4


def test_a_failed_judge_is_never_a_wrong_answer():
  judge = _ScriptedJudge(None)
  (grade,) = grading.grade(["crimson"], [_example()], judge)
  assert grade.correct is None
  share = grading.share([grade])
  assert share.accuracy is None and share.invalid == 1


def test_a_judge_that_is_not_needed_is_not_asked():
  judge = _ScriptedJudge()
  grading.grade(["A"], [_example()], judge)
  assert judge.asked == []


def test_no_question_counts_twice():
  grade = Grade("a", "x", "", "", True)
  with pytest.raises(UserError, match="'a' was graded twice"):
    vstar.score([grade, grade])


# The order of options.


def _shuffled(name, seed=0):
  return option_order.arrange(_example(id=name), "shuffled", seed)


def test_shuffling_keeps_the_options_and_the_truth():
  for k in range(50):
    asked = _shuffled(f"q{k}", seed=3)
    assert sorted(asked.options) == sorted(_COLOURS)
    right = asked.options["ABCD".index(asked.answer)]
    assert right == "red"
    assert answers.matches("red", asked.answer, asked.options)


def test_shuffling_spreads_the_right_option_over_all_places():
  letters = collections.Counter(_shuffled(f"q{k}").answer for k in range(400))
  assert set(letters) == set("ABCD")
  # Binomial, n = 400, p = 1/4: 5 standard deviations are 43.
  assert all(57 <= number <= 143 for number in letters.values())


def test_the_order_depends_on_seed_and_question_alone():
  def orders(seed):
    return [_shuffled(f"q{k}", seed).options for k in range(20)]

  assert orders(0) == orders(0) != orders(1)
  assert len(set(orders(0))) > 5
  permuted = option_order.permutation("q7", 4, 0)
  assert tuple(_COLOURS[k] for k in permuted) == orders(0)[7]


def test_the_stored_order_is_kept():
  asked = option_order.arrange(_example("red"), "stored")
  assert asked.options == _COLOURS and asked.answer == "A"


def test_orders_have_names():
  with pytest.raises(UserError, match="'random'"):
    option_order.arrange(_example(), "random")


def test_an_open_question_has_no_order():
  example = _example("red", ())
  assert option_order.arrange(example, "shuffled") is example


# Likelihood.


@pytest.mark.parametrize(
  "values, expected",
  [
    ([[-1.0], [-2.0]], 0),
    ([[-2.0], [-1.0]], 1),
    # The mean per token decides, not the sum.
    ([[-3.0], [-2.0, -2.0]], 1),
    ([[-1.0, -1.0, -1.0], [-1.5]], 0),
    ([[-1.0], [-1.0]], None),
    ([[-1.0], [-1.0], [-0.5]], 2),
    ([[-math.inf], [-9.0]], 1),
    ([[0.0], [-1e-9]], 0),
  ],
)
def test_the_highest_mean_log_likelihood_is_chosen(values, expected):
  assert vstar.choose_by_likelihood(values) == expected


def test_likelihood_is_the_smallest_cross_entropy():
  rng = np.random.default_rng(0)
  for _ in range(50):
    values = [-rng.exponential(size=rng.integers(1, 9)) for _ in range(4)]
    losses = [-np.sum(v) / len(v) for v in values]
    assert vstar.choose_by_likelihood(values) == int(np.argmin(losses))


@pytest.mark.parametrize(
  "values", [[], [[]], [[-1.0], []], [[math.nan]], [[0.5]], [[math.inf]]]
)
def test_what_is_no_likelihood_is_refused(values):
  with pytest.raises(ValueError, match="log-likelihood"):
    vstar.choose_by_likelihood(values)


def test_grades_by_likelihood_in_any_order():
  own = {"red": [-0.1], "blue": [-1.0], "green": [-2.0], "white": [-3.0, 0.0]}
  for order in itertools.permutations(_COLOURS):
    letter = "ABCD"[order.index("red")]
    example = _example(letter, order)
    (grade,) = vstar.grade_by_likelihood([[own[o] for o in order]], [example])
    assert grade.correct is True and grade.prediction == "red"
    example = _example("ABCD"[order.index("blue")], order)
    (grade,) = vstar.grade_by_likelihood([[own[o] for o in order]], [example])
    assert grade.correct is False


def test_a_policy_that_cannot_tell_options_apart_earns_nothing():
  """The official tool takes the first of equal options: the right one."""
  (grade,) = vstar.grade_by_likelihood([[[-1.0]] * 4], [_example()])
  assert grade.correct is False and grade.prediction is None


def test_likelihoods_of_all_options_are_needed():
  with pytest.raises(ValueError, match="of 3 options, but it has 4"):
    vstar.grade_by_likelihood([[[-1.0]] * 3], [_example()])


# V*Bench.


def _grades(outcomes, category="direct_attributes"):
  return [
    Grade(f"{category}-{k}", category, "", "", correct)
    for k, correct in enumerate(outcomes)
  ]


def test_vstar_is_the_mean_over_questions_not_over_categories():
  grades = _grades([True] * 3 + [False]) + _grades(
    [False, False], "relative_position"
  )
  score = vstar.score(grades)
  assert score.overall.accuracy == 0.5  # 3 of 6; the categories' mean is 3/8
  assert score.categories["direct_attributes"].accuracy == 0.75
  assert score.categories["relative_position"].accuracy == 0.0


def test_vstar_leaves_invalid_answers_out():
  score = vstar.score(_grades([True, None, False, None]))
  assert score.overall.accuracy == 0.5 and score.overall.invalid == 2


# HR-Bench.


def _turned(*groups, category="single"):
  """Grades of questions, each given as its outcomes in rotations 0 to 3."""
  return [
    Grade(f"{category}{g}-{v}", category, f"{category}{g}", str(v), correct)
    for g, found in enumerate(groups)
    for v, correct in enumerate(found)
  ]


T, F = True, False


def test_hr_bench_is_the_mean_over_rotations():
  part = hr_bench.score(_turned((T, T, T, T), (T, F, T, F)))["overall"]
  assert part.accuracy == 0.75
  shares = [part.by_rotation[str(v)].accuracy for v in range(4)]
  assert shares == [1.0, 0.5, 1.0, 0.5]


def test_hr_bench_all_four_correct_is_another_number():
  part = hr_bench.score(_turned((T, T, T, T), (T, T, T, F), (F,) * 4))
  assert part["overall"].accuracy == pytest.approx(7 / 12)
  assert part["overall"].consistent.accuracy == pytest.approx(1 / 3)


def test_hr_bench_by_category():
  single = _turned((T,) * 4, (T, T, F, F))
  cross = _turned((F, F, F, T), category="cross")
  parts = hr_bench.score(single + cross)
  assert list(parts) == ["overall", "single", "cross"]
  assert parts["single"].accuracy == 0.75
  assert parts["cross"].accuracy == 0.25
  assert parts["overall"].accuracy == pytest.approx(7 / 12)
  assert parts["single"].consistent.correct == 1
  assert parts["cross"].consistent.correct == 0


def test_hr_bench_with_equal_categories_is_their_mean():
  """So the published 100 and 100 give one overall score under both rules."""
  rng = np.random.default_rng(0)
  found = [
    _turned(*(rng.random((100, 4)) < p).tolist(), category=category)
    for category, p in (("single", 0.9), ("cross", 0.5))
  ]
  parts = hr_bench.score(found[0] + found[1])
  mean = (parts["single"].accuracy + parts["cross"].accuracy) / 2
  assert parts["overall"].accuracy == pytest.approx(mean)
  assert parts["overall"].estimate.mean == pytest.approx(mean)
  assert parts["overall"].estimate.count == 200


def test_hr_bench_rotations_weigh_the_same_where_answers_are_invalid():
  # Rotation 0: 1 of 1; rotation 1: 1 of 2; rotations 2 and 3: 0 of 2.
  part = hr_bench.score(_turned((T, T, F, F), (None, F, F, F)))["overall"]
  assert part.accuracy == pytest.approx((1 + 0.5 + 0 + 0) / 4)
  assert part.invalid == 1


@pytest.mark.parametrize(
  "found, correct, valid, invalid",
  [
    ((T, T, T, T), 1, 1, 0),
    ((T, T, T, F), 0, 1, 0),
    ((T, T, T, None), 0, 0, 1),
    ((F, T, T, None), 0, 1, 0),  # whatever the fourth was
    ((None,) * 4, 0, 0, 1),
    ((T, T, T), 0, 0, 1),
    ((T, F), 0, 1, 0),
  ],
)
def test_hr_bench_all_four_with_invalid_and_missing_rotations(
  found, correct, valid, invalid
):
  share = hr_bench.score(_turned(found))["overall"].consistent
  assert (share.correct, share.valid, share.invalid) == (
    correct,
    valid,
    invalid,
  )


def test_hr_bench_counts_questions_without_all_rotations():
  part = hr_bench.score(_turned((T,) * 4, (T,) * 3))["overall"]
  assert part.incomplete == 1


def test_hr_bench_without_a_valid_answer_in_a_rotation_has_no_score():
  part = hr_bench.score(_turned((T, T, T, None)))["overall"]
  assert part.accuracy is None and part.estimate is None


def test_hr_bench_interval_counts_questions_not_answers():
  """Four equal answers to a question are one observation."""
  part = hr_bench.score(_turned(*[(T,) * 4, (F,) * 4] * 10))["overall"]
  values = np.array([1.0, 0.0] * 10)
  half = 2.093024 * values.std(ddof=1) / math.sqrt(20)  # t, 19 degrees
  assert part.estimate.mean == 0.5
  assert part.estimate.high - 0.5 == pytest.approx(half, rel=1e-5)


def test_hr_bench_wants_each_rotation_once():
  grades = _turned((T, T))
  twice = [*grades, Grade("other", "single", "single0", "1", True)]
  with pytest.raises(UserError, match="'single0', rotation '1'"):
    hr_bench.score(twice)
  with pytest.raises(UserError, match="question ''"):
    hr_bench.score(_grades([True]))


def test_hr_bench_of_nothing_is_nothing():
  assert hr_bench.score([]) == {}


# How other tools read an answer.


@pytest.mark.parametrize(
  "prediction, expected",
  [
    ("B", 1),
    ("(B)", 1),
    ("B. blue", 1),
    ("The car is B.", 1),
    ("I would say that it is B, because", 1),  # the last but one of the words
    ("B is what I would choose", None),  # not among the last four
    ("A or B", None),
    ("blue", 1),
    ("It is the Blue one", 1),
    ("blue or green", None),
    ("not blue", 1),  # containment: our own rule chooses nothing here
    ("b", None),
    ("Z", None),
    ("Z blue", None),
    ("I can't process this file. B", None),
    ("the answer is B, as everyone can see in this picture", 1),
    ("The answer is **C**, and not the A nor the D of them", 2),
    ("the answer is blue, as everyone can see in this picture", 1),  # b..
    ("", None),
    ("the sky behind all of these cars is blue", None),  # too long
  ],
)
def test_vlmevalkit_rule(prediction, expected):
  assert published_rules.vlmevalkit(prediction, _COLOURS) == expected


@pytest.mark.parametrize(
  "prediction, ours, theirs",
  [
    ("B", True, True),
    ("(B) blue", True, True),
    ("blue", True, True),
    ("not blue", False, True),  # containment
    ("It is the blue one", False, True),
    ("b", True, False),  # that tool wants capitals
    ("A", False, False),
    ("blue or green", False, False),
    ("", False, False),
    (None, False, False),
  ],
)
def test_an_answer_by_our_rule_and_by_vlmevalkits(prediction, ours, theirs):
  example = _example("B", group="g", variant="2")
  (own,) = grading.grade([prediction], [example])
  other = published_rules.grade(prediction, example)
  assert (own.correct, other.correct) == (ours, theirs)
  assert (other.by, other.group, other.variant) == ("VLMEvalKit", "g", "2")


@pytest.mark.parametrize(
  "prediction, expected",
  [
    ("B", True),
    ("A", False),
    ("b", False),
    ("B.", True),
    ("A.", False),
    ("(B)", None),
    ("\\boxed{B}", True),
    ("It is blue.", True),
    ("It is not blue.", True),  # containment over-counts
    ("It is red.", None),
    ("", None),
  ],
)
def test_deep_eyes_rule(prediction, expected):
  assert published_rules.deep_eyes(prediction, 1, _COLOURS) is expected


def test_the_stored_order_pays_a_policy_that_always_says_a():
  """Why the order is shuffled by default."""
  examples = [_example(id=f"q{k}") for k in range(200)]
  for order, low, high in (("stored", 1.0, 1.0), ("shuffled", 0.15, 0.35)):
    asked = [option_order.arrange(example, order) for example in examples]
    score = vstar.score(grading.grade(["A"] * 200, asked))
    assert low <= score.overall.accuracy <= high
