from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, geom

from testbed.stats import StatsError
from testbed.stats.energy import (
    bernoulli_kl,
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_success,
    budgeted_free_energy,
    budgeted_free_energy_estimate,
    budgeted_free_energy_stopped,
    free_energy,
    harmonic,
    log_partition,
    success_ceiling,
    tilt,
    tilt_kl,
    tool_gain_nats,
)

inside = st.floats(1e-6, 1 - 1e-6)


def test_best_of_8_at_7_percent_has_the_known_answers() -> None:
    assert float(best_of_n_success(0.07, 8)) == pytest.approx(0.4404, abs=5e-5)
    assert float(best_of_n_kl(0.07, 8)) == pytest.approx(0.52577, abs=5e-6)
    assert float(best_of_n_kl_bound(8)) == pytest.approx(1.20444, abs=5e-6)


@given(inside, st.floats(-30, 30))
def test_the_tilt_s_divergence_is_beta_p_minus_log_z(p: float, beta: float) -> None:
    tilted = float(tilt(p, beta))
    assert float(tilt_kl(p, beta)) == pytest.approx(beta * tilted - float(log_partition(p, beta)), abs=1e-9)
    direct = p * np.exp(beta) / (p * np.exp(beta) + 1 - p)
    assert tilted == pytest.approx(direct, rel=1e-9)


@given(inside, st.floats(-20, 20))
def test_the_partition_function_is_its_definition(p: float, beta: float) -> None:
    assert float(log_partition(p, beta)) == pytest.approx(np.log1p(p * np.expm1(beta)), rel=1e-9, abs=1e-12)


def test_extremes_neither_overflow_nor_turn_into_nan() -> None:
    assert log_partition([0.0, 1.0, 0.5], 800.0).tolist() == pytest.approx([0.0, 800.0, 800 + np.log(0.5)])
    assert tilt([0.0, 1.0], [50.0, -50.0]).tolist() == [0.0, 1.0]
    assert bernoulli_kl([0.0, 1.0, 0.3, 0.3], [0.0, 1.0, 0.0, 1.0]).tolist() == [0.0, 0.0, np.inf, np.inf]
    assert float(best_of_n_success(1.0, 3)) == 1.0
    assert float(budgeted_free_energy_estimate(64, 0)) == pytest.approx(float(harmonic(64)))


def test_free_energy_tends_to_minus_p_as_beta_vanishes() -> None:
    assert float(free_energy(0.3, 0.0)) == -0.3
    assert float(free_energy(0.3, 1e-7)) == pytest.approx(-0.3, abs=1e-6)


@given(inside, st.integers(1, 300))
def test_best_of_n_never_costs_more_than_the_usual_bound(p: float, draws: int) -> None:
    assert float(best_of_n_kl(p, draws)) <= float(best_of_n_kl_bound(draws)) + 1e-12


def test_budgeted_free_energy_rises_to_minus_log_p() -> None:
    assert float(budgeted_free_energy(0.2, 500)) == pytest.approx(-np.log(0.2), abs=1e-12)
    assert float(budgeted_free_energy(0.0, 10)) == pytest.approx(float(harmonic(10)))


@pytest.mark.parametrize("n", [1, 5, 24])
def test_h_n_minus_h_c_is_unbiased_for_the_budgeted_free_energy(n: int) -> None:
    c = np.arange(n + 1)
    for p in (0.0, 0.01, 0.4, 1.0):
        for budget in {1, n // 2 + 1, n}:
            mean = binom.pmf(c, n, p) @ budgeted_free_energy_estimate(n, c, budget)
            assert mean == pytest.approx(float(budgeted_free_energy(p, budget)), abs=1e-12)
        assert budgeted_free_energy_estimate(n, c, n) == pytest.approx(budgeted_free_energy_estimate(n, c), abs=1e-12)


@pytest.mark.parametrize("p", [0.01, 0.2, 0.9])
def test_the_stopped_form_is_unbiased_when_sampling_ends_at_the_first_success(p: float) -> None:
    cap = 12
    first = np.arange(1, cap + 2)
    chance = np.append(geom.pmf(first[:-1], p), (1 - p) ** cap)
    assert chance @ budgeted_free_energy_stopped(first, cap) == pytest.approx(float(budgeted_free_energy(p, cap)))


def test_tool_gain_at_equal_n_is_a_difference_of_harmonic_numbers() -> None:
    gain = tool_gain_nats([20, 20], [0, 4], [20, 20], [3, 2])
    assert gain.tolist() == pytest.approx([1 + 1 / 2 + 1 / 3, -1 / 3 - 1 / 4])


def test_tool_gain_at_unequal_n_needs_a_budget_that_both_can_pay() -> None:
    with pytest.raises(StatsError, match="different numbers of attempts"):
        tool_gain_nats([20], [1], [10], [1])
    assert np.isfinite(tool_gain_nats([20], [1], [10], [1], 10)).all()
    with pytest.raises(StatsError, match="B = 11, n = 10"):
        tool_gain_nats([20], [1], [10], [1], 11)


def test_m_bits_raise_success_at_most_2_to_the_m() -> None:
    assert success_ceiling(0.01, [0, 3, 10]).tolist() == pytest.approx([0.01, 0.08, 1.0])


@pytest.mark.parametrize(("p", "words"), [(1.2, "between 0 and 1"), (np.nan, "between 0 and 1"), (-0.1, "between")])
def test_probabilities_outside_0_and_1_are_refused(p: float, words: str) -> None:
    with pytest.raises(StatsError, match=words):
        tilt(p, 1.0)
