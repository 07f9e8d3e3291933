"""Intervals against SciPy, printed tables and hand-worked cases."""

import math

import numpy as np
import pytest
from scipy import stats

from lfpc_jax import statistics


@pytest.mark.parametrize(
  "successes, total",
  [(0, 1), (1, 1), (0, 10), (10, 10), (1, 3), (137, 191), (577, 800)],
)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_wilson_interval_matches_scipy(successes, total, confidence):
  found = statistics.proportion(successes, total, confidence)
  expected = stats.binomtest(successes, total).proportion_ci(
    confidence, method="wilson"
  )
  assert found.mean == successes / total and found.count == total
  assert found.low == pytest.approx(expected.low, abs=1e-12)
  assert found.high == pytest.approx(expected.high, abs=1e-12)
  assert 0 <= found.low <= found.mean <= found.high <= 1


def test_wilson_interval_by_hand():
  # 5 of 10 at z = 1.96: z² = 3.8416; centre (.5 + .19208) / 1.38416 = .5;
  # half sqrt(.025 + .009604) * 1.96 / 1.38416 = .26341.
  found = statistics.proportion(5, 10)
  assert found.low == pytest.approx(0.23659, abs=2e-5)
  assert found.high == pytest.approx(0.76341, abs=2e-5)


@pytest.mark.parametrize("successes, total", [(0, 0), (-1, 5), (6, 5)])
def test_impossible_proportion_is_an_error(successes, total):
  with pytest.raises(ValueError, match=f"{successes} successes of {total}"):
    statistics.proportion(successes, total)


def test_t_interval_by_the_printed_table():
  # 1..5: mean 3, s = sqrt(2.5), s / sqrt(5) = sqrt(.5); t(.975, 4) = 2.776.
  found = statistics.mean([1, 2, 3, 4, 5])
  assert found.mean == 3 and found.count == 5
  assert found.high - 3 == pytest.approx(2.776 * math.sqrt(0.5), rel=2e-4)
  assert 3 - found.low == pytest.approx(found.high - 3)
  # t(.995, 4) = 4.604.
  found = statistics.mean([1, 2, 3, 4, 5], 0.99)
  assert found.high - 3 == pytest.approx(4.604 * math.sqrt(0.5), rel=2e-4)


def test_normal_interval_by_the_printed_table():
  found = statistics.mean([1, 2, 3, 4, 5], method="normal")
  assert found.high - 3 == pytest.approx(1.95996 * math.sqrt(0.5), rel=1e-5)


@pytest.mark.parametrize("count", [2, 3, 30, 500])
def test_t_interval_matches_scipy(count):
  values = np.random.default_rng(count).normal(3, 2, count)
  found = statistics.mean(values, 0.9)
  low, high = stats.t.interval(
    0.9, count - 1, np.mean(values), stats.sem(values)
  )
  assert found[1:3] == pytest.approx((low, high))


def test_t_interval_covers_the_truth_as_often_as_it_says():
  rng = np.random.default_rng(0)
  runs = [statistics.mean(rng.normal(size=5), 0.8) for _ in range(2000)]
  share = np.mean([run.low <= 0 <= run.high for run in runs])
  # Three standard errors: 3 * sqrt(.8 * .2 / 2000) = .027.
  assert abs(share - 0.8) < 0.027


def test_one_value_has_no_spread():
  assert statistics.mean([0.7]) == (0.7, -math.inf, math.inf, 1)
  assert statistics.mean_over_seeds([0.7]) == (0.7, -math.inf, math.inf, 1)
  assert statistics.paired_difference([0.7], [0.5], method="bootstrap")[1:] == (
    -math.inf,
    math.inf,
    1,
  )


def test_equal_values_have_an_interval_of_no_width():
  assert statistics.mean([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize(
  "values, message",
  [
    ([], r"shape \(0,\)"),
    ([[1.0, 2.0]], r"shape \(1, 2\)"),
    ([1.0, float("nan")], "index 1"),
    ([float("inf"), 1.0], "index 0"),
  ],
)
def test_values_without_a_mean_are_an_error(values, message):
  with pytest.raises(ValueError, match=message):
    statistics.mean(values)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, float("nan")])
def test_confidence_must_be_a_fraction(confidence):
  with pytest.raises(ValueError, match="between 0 and 1"):
    statistics.mean([1, 2], confidence)
  with pytest.raises(ValueError, match="between 0 and 1"):
    statistics.proportion(1, 2, confidence)


def test_paired_difference_matches_scipy():
  rng = np.random.default_rng(1)
  first = rng.normal(size=40)
  second = first + rng.normal(0.1, 0.2, 40)
  found = statistics.paired_difference(first, second)
  expected = stats.ttest_rel(first, second).confidence_interval(0.95)
  assert found.mean == pytest.approx(np.mean(first) - np.mean(second))
  assert found[1:3] == pytest.approx((expected.low, expected.high))


def test_pairing_removes_the_spread_of_the_items():
  items = np.random.default_rng(2).normal(0, 10, 50)
  found = statistics.paired_difference(items + 1, items)
  assert found[:3] == pytest.approx((1, 1, 1))


def test_paired_difference_by_hand():
  # Differences 1, 0, 1, 0: mean .5, s = sqrt(1/3), t(.975, 3) = 3.182:
  # half = 3.182 * .57735 / 2 = .91857.
  found = statistics.paired_difference([1, 1, 1, 0], [0, 1, 0, 0])
  assert found.mean == 0.5
  assert found.high == pytest.approx(0.5 + 0.91857, abs=2e-4)


def test_bootstrap_is_seeded_and_close_to_the_analytic_interval():
  rng = np.random.default_rng(3)
  first, second = rng.random(300), rng.random(300)
  draw = dict(method="bootstrap", resamples=4000)
  found = statistics.paired_difference(first, second, **draw, seed=5)
  assert found == statistics.paired_difference(first, second, **draw, seed=5)
  assert found != statistics.paired_difference(first, second, **draw, seed=6)
  analytic = statistics.paired_difference(first, second)
  width = analytic.high - analytic.low
  assert found.mean == analytic.mean
  assert found.low == pytest.approx(analytic.low, abs=0.05 * width)
  assert found.high == pytest.approx(analytic.high, abs=0.05 * width)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: statistics.paired_difference([1, 2], [1]), "2 and 1 values"),
    (
      lambda: statistics.paired_difference([1, 2], [1, 2], method="exact"),
      "'exact'",
    ),
    (
      lambda: statistics.paired_difference(
        [1, 2], [1, 2], method="bootstrap", resamples=0
      ),
      "resamples is 0",
    ),
    (lambda: statistics.pair_by_item({"a": 1, "b": 0}, {"a": 1}), "'b'"),
    (lambda: statistics.group_means([1, 2], ["a"]), "2 values but 1"),
  ],
)
def test_unusable_input_is_an_error(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_pair_by_item_orders_both_results_alike():
  first, second = statistics.pair_by_item(
    {"a": 1.0, "b": 2.0}, {"b": 20.0, "a": 10.0}
  )
  np.testing.assert_array_equal(first, [1, 2])
  np.testing.assert_array_equal(second, [10, 20])


def test_mean_over_seeds_is_about_runs_not_items():
  # Three runs of two items with means 1, 2, 3: s = 1, t(.975, 2) = 4.303.
  found = statistics.mean_over_seeds([[0, 2], [2, 2], [1, 5]])
  assert found.mean == 2 and found.count == 3
  assert found.high - 2 == pytest.approx(4.303 / math.sqrt(3), rel=1e-4)
  assert found == statistics.mean_over_seeds([1, 2, 3])


def test_group_means_keep_the_order_of_appearance():
  found = statistics.group_means([1, 0, 1, 1], ["q2", "q1", "q2", "q1"])
  np.testing.assert_array_equal(found, [1.0, 0.5])


def test_a_share_of_groups_counts_groups():
  flags = [True, True, False, False, True, False]
  found = statistics.grouped_proportion(flags, "aabbcc")
  assert found == statistics.mean([1, 0, 0.5])
  alone = statistics.grouped_proportion(flags, range(6))
  assert alone == statistics.proportion(3, 6)
