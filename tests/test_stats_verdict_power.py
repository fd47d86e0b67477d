"""Attempts that settle a task: equal to the sequences' own answers, to enumeration and to simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from testbed.stats import StatsError, attempts_still_needed, failures_needed, p_star
from testbed.stats.sequences import log_e_above, log_e_below
from testbed.stats.verdict_power import attempts_for_verdict, settled_by

SIXTEEN = float(p_star(0.5, 16))


def test_straight_outcomes_settle_when_the_sequences_say() -> None:
    alone = attempts_still_needed(0, 0, SIXTEEN)
    never, always = attempts_for_verdict(0.0, SIXTEEN), attempts_for_verdict(1.0, SIXTEEN)
    assert (never.half, never.anytime) == (140, int(alone.if_all_fail))
    assert (always.half, always.anytime) == (int(alone.if_all_succeed),) * 2
    assert never.fixed == int(failures_needed(SIXTEEN)) == 70
    assert (never.status, always.status) == ("out", "in")


@pytest.mark.parametrize(("p", "threshold", "alpha"), [(0.1, 0.4, 0.2), (0.7, 0.4, 0.2), (0.45, 0.5, 0.3)])
def test_the_chance_of_being_settled_equals_enumeration_of_all_sequences(
    p: float, threshold: float, alpha: float
) -> None:
    length = 12
    settled = np.zeros(length + 1)
    evidence = log_e_below if p < threshold else log_e_above
    other = log_e_above if p < threshold else log_e_below
    limit = np.log(1 / alpha)
    for outcomes in itertools.product((0, 1), repeat=length):
        n, c = np.arange(1, length + 1), np.cumsum(outcomes)
        right, wrong = (np.append(e(n, c, threshold) >= limit, True).argmax() for e in (evidence, other))
        if right < wrong:
            settled[right + 1 :] += p ** int(c[-1]) * (1 - p) ** (length - int(c[-1]))
    found = settled_by(p, threshold, alpha=alpha, most=length)
    assert found == pytest.approx(settled, abs=1e-12)


@pytest.mark.parametrize(("p", "threshold"), [(0.02, SIXTEEN), (0.083, SIXTEEN), (0.2, 0.3)])
def test_the_chance_of_being_settled_agrees_with_simulation(p: float, threshold: float) -> None:
    rng, runs, most = np.random.default_rng(0), 4000, 400
    n, c = np.arange(1, most + 1), np.cumsum(rng.random((runs, most)) < p, axis=1)
    first = [np.where((hit := e(n, c, threshold) >= np.log(20)).any(axis=1), hit.argmax(axis=1), most) + 1
             for e in (log_e_below, log_e_above)]  # fmt: skip
    right, wrong = first if p < threshold else first[::-1]
    exact = settled_by(p, threshold, most=most)
    for look in (50, 150, 400):
        seen = np.mean((right <= look) & (right < wrong))
        assert exact[look] == pytest.approx(seen, abs=4 * np.sqrt(0.25 / runs))


def test_planned_attempts_are_the_first_at_which_the_power_is_reached() -> None:
    plan = attempts_for_verdict(0.01, SIXTEEN, power=0.8)
    assert plan.half is not None
    assert plan.anytime is not None
    chance = settled_by(0.01, SIXTEEN, most=1000)
    assert chance[plan.anytime - 1] < 0.8 <= chance[plan.anytime]
    assert chance[plan.half - 1] < 0.5 <= chance[plan.half]


@pytest.mark.parametrize(("p", "threshold"), [(0.0066, SIXTEEN), (0.134, SIXTEEN), (0.2, 0.4), (0.6, 0.4)])
def test_the_fixed_number_is_the_least_with_level_and_power(p: float, threshold: float) -> None:
    def power(n: int) -> float:
        if p < threshold:
            critical = max((c for c in range(-1, n) if binom.cdf(c, n, threshold) <= 0.05), default=-1)
            return float(binom.cdf(critical, n, p))
        critical = min((c for c in range(n + 1) if binom.sf(c - 1, n, threshold) <= 0.05), default=n + 1)
        return float(binom.sf(critical - 1, n, p))

    fixed = attempts_for_verdict(p, threshold).fixed
    assert fixed is not None
    assert power(fixed) >= 0.8
    assert all(power(n) < 0.8 for n in range(1, fixed))


def test_a_stricter_pair_of_thresholds_costs_more_on_both_sides() -> None:
    p_out, p_in = float(p_star(0.05, 16)), float(p_star(0.95, 16))
    assert attempts_for_verdict(0.0, p_out, p_in).anytime == int(attempts_still_needed(0, 0, p_out, p_in).if_all_fail)
    loose, strict = attempts_for_verdict(0.6, SIXTEEN).anytime, attempts_for_verdict(0.6, p_out, p_in).anytime
    assert loose is not None
    assert strict is not None
    assert strict > loose


def test_what_takes_too_many_attempts_is_none() -> None:
    plan = attempts_for_verdict(0.29, 0.3, most=500)
    assert (plan.fixed, plan.half, plan.anytime) == (None, None, None)


def test_chances_do_not_fall_and_start_at_none() -> None:
    chance = settled_by(0.1, 0.3, most=3000)
    assert chance[0] == 0
    assert (np.diff(chance) >= 0).all()
    assert chance[-1] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("p", "p_out", "p_in", "says"),
    [
        (0.3, 0.3, None, "p = 0.3 lies on the threshold 0.3"),
        (0.2, 0.1, 0.3, "between the thresholds 0.1 and 0.3"),
        (1.2, 0.3, None, "success probability must lie between 0 and 1, not 1.2"),
        (0.2, 0.0, None, "threshold must lie strictly between"),
        (0.2, 0.5, 0.4, "p_out = 0.5 must not exceed p_in = 0.4"),
    ],
)
def test_bad_input_is_named(p: float, p_out: float, p_in: float | None, says: str) -> None:
    with pytest.raises(StatsError, match=says):
        attempts_for_verdict(p, p_out, p_in)
