from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, binomtest

from testbed.stats import (
    StatsError,
    attempts_still_needed,
    clopper_pearson,
    confidence_sequence,
    failures_needed,
    p_star,
)
from testbed.stats.sequences import log_e_above, log_e_below, log_martingale

counts = st.integers(0, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


def test_thresholds_of_the_design_are_reproduced() -> None:
    assert float(p_star(0.5, 16)) == pytest.approx(0.0424, abs=5e-5)
    assert failures_needed([0.1, 0.01, 0.001]).tolist() == [29, 299, 2995]
    assert -np.log(0.05) / 8192 == pytest.approx(3.66e-4, rel=1e-3)


def test_out_costs_70_straight_failures_at_one_look_and_140_at_any() -> None:
    threshold = float(p_star(0.5, 16))
    assert int(failures_needed(threshold)) == 70
    assert float(attempts_still_needed(0, 0, threshold).if_all_fail) == 140
    assert float(confidence_sequence(140, 0)[1]) < threshold <= float(confidence_sequence(139, 0)[1])


def test_a_strict_threshold_needs_58_failures_per_affordable_attempt() -> None:
    for k in (16, 64, 256):
        assert int(failures_needed(p_star(0.05, k))) / k == pytest.approx(58.4, abs=0.3)


@settings(deadline=None)
@given(counts, st.sampled_from([0.01, 0.05, 0.3]))
def test_the_ends_of_the_sequence_solve_its_equation(case: tuple[int, int], alpha: float) -> None:
    n, c = case
    low, high = (float(end) for end in confidence_sequence(n, c, alpha))
    assert 0 <= low <= (c / n if n else 0.5) <= high <= 1
    if c:
        assert float(log_martingale(n, c, low)) == pytest.approx(np.log(1 / alpha), abs=1e-7)
    else:
        assert low == 0
    if c < n:
        assert float(log_martingale(n, c, high)) == pytest.approx(np.log(1 / alpha), abs=1e-7)
    else:
        assert high == 1


def test_the_ends_are_good_to_ten_digits_at_a_million_attempts() -> None:
    low, high = confidence_sequence(1_000_000, [1, 1000, 500_000])
    again = [(float(v), float(w)) for v, w in zip(low, high, strict=True)]
    for (left, right), c in zip(again, (1, 1000, 500_000), strict=True):
        for end in (left, right):
            step = 1e-10 * end
            inside = [float(log_martingale(1_000_000, c, end + s)) < np.log(20) for s in (-step, step)]
            assert inside[0] != inside[1]


def test_the_mixture_is_a_martingale_of_mean_one_under_the_true_p() -> None:
    for p in (0.02, 0.3, 0.9):
        for n in (1, 7, 30):
            c = np.arange(n + 1)
            assert binom.pmf(c, n, p) @ np.exp(log_martingale(n, c, p)) == pytest.approx(1.0, abs=1e-12)


def test_the_mixture_is_the_integral_it_claims_to_be() -> None:
    n, c, p = 12, 3, 0.1

    def ratio(q: float) -> float:
        prior = 1 / (np.pi * np.sqrt(q * (1 - q)))
        return float(prior * (q / p) ** c * ((1 - q) / (1 - p)) ** (n - c))

    assert float(log_martingale(n, c, p)) == pytest.approx(np.log(quad(ratio, 0, 1)[0]), abs=1e-6)


def test_e_values_have_mean_at_most_one_under_their_null() -> None:
    c = np.arange(41)
    for p in np.linspace(0.1, 1, 19):
        assert binom.pmf(c, 40, p) @ np.exp(log_e_below(40, c, 0.1)) <= 1 + 1e-12
    for p in np.linspace(0, 0.1, 11):
        assert binom.pmf(c, 40, p) @ np.exp(log_e_above(40, c, 0.1)) <= 1 + 1e-12


def peeked(p: float, runs: int, looks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    successes = np.cumsum(np.random.default_rng(seed).random((runs, looks)) < p, axis=1)
    return np.broadcast_to(np.arange(1, looks + 1), successes.shape), successes


def test_peeking_1000_times_misleads_the_sequence_seldom_and_clopper_pearson_often() -> None:
    n, c = peeked(0.05, 3000, 1000, seed=0)
    mixture = (log_martingale(n, c, 0.05) >= np.log(20)).any(axis=1).mean()
    low, high = clopper_pearson(n[:1000], c[:1000])
    exact = ((low > 0.05) | (high < 0.05)).any(axis=1).mean()
    assert mixture == pytest.approx(0.023, abs=0.01)
    assert exact == pytest.approx(0.30, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.001, 0.01, 0.05, 0.2, 0.5])
def test_the_sequence_is_ever_wrong_at_most_5_percent_of_the_time(p: float) -> None:
    n, c = peeked(p, 20_000, 1000, seed=11)
    assert (log_martingale(n, c, p) >= np.log(20)).any(axis=1).mean() <= 0.05


def test_straight_failures_certify_at_their_level_when_sampling_stops_at_the_first_success() -> None:
    for epsilon in (0.5, 0.1, 0.013):
        for alpha in (0.25, 0.05):
            needed = int(failures_needed(epsilon, alpha))
            assert (1 - epsilon) ** needed <= alpha * (1 + 1e-9) < (1 - epsilon) ** (needed - 1)


@given(st.integers(1, 80).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_clopper_pearson_is_scipy_s(case: tuple[int, int]) -> None:
    n, c = case
    expected = binomtest(c, n).proportion_ci(method="exact")
    low, high = clopper_pearson(n, c)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-10)


@settings(deadline=None, max_examples=80)
@given(counts, st.sampled_from([0.01, 0.1, 0.4]))
def test_attempts_still_needed_is_the_first_number_that_settles_it(case: tuple[int, int], threshold: float) -> None:
    n, c = case
    low, high = confidence_sequence(n, c)
    needed = attempts_still_needed(n, c, threshold)
    fail, win = int(needed.if_all_fail), int(needed.if_all_succeed)
    if low >= threshold or high < threshold:
        assert (fail, win, float(needed.at_this_rate)) == (0, 0, 0)
        return
    assert confidence_sequence(n + fail, c)[1] < threshold <= confidence_sequence(n + fail - 1, c)[1]
    after, before = confidence_sequence(n + win, c + win)[0], confidence_sequence(n + win - 1, c + win - 1)[0]
    assert after >= threshold - 1e-12
    assert before < threshold
    assert float(needed.at_this_rate) >= min(fail, win) - 1


def test_a_rate_on_the_threshold_is_never_settled() -> None:
    assert float(attempts_still_needed(1, 0, 0.25).at_this_rate) == np.inf  # (0 + ½)/(1 + 1)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, np.nan])
def test_a_level_outside_0_and_1_is_refused(alpha: float) -> None:
    with pytest.raises(StatsError, match="alpha must lie strictly between 0 and 1"):
        confidence_sequence(10, 1, alpha)


def test_impossible_reaches_and_spends_are_refused() -> None:
    with pytest.raises(StatsError, match="rho must lie strictly"):
        p_star(1.0, 16)
    with pytest.raises(StatsError, match="affordable attempts K must be a finite number > 0, not 0"):
        p_star(0.5, 0)
    with pytest.raises(StatsError, match="3 successes among 2"):
        confidence_sequence(2, 3)
