"""What is promised about error rates: being ever wrong while one peeks, exactly; false discoveries, by simulation.

The slow forms print the tables that docs/measurement.md keeps: pytest -m slow -s tests/test_stats_error_rates.py
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import pytest

from testbed.stats import (
    Accessibility,
    Status,
    Verdict,
    accessibility,
    clopper_pearson,
    confidence_sequence,
    e_bh,
    p_star,
    verdicts,
)
from testbed.stats.sequences import log_e_above, log_e_below

# ---- peeking, exactly ------------------------------------------------------------------------------------------------


def ever(chance: np.ndarray, wrong: list[np.ndarray]) -> np.ndarray:
    """Probability that a statement is wrong at any look, per success probability, by dynamic programming.

    Args:
        chance: success probabilities, shape (P,).
        wrong: for n = 1, 2, …: which counts c = 0…n make it wrong, shape (P, n + 1).
    """
    alive, total = np.ones((chance.size, 1)), np.zeros(chance.size)
    for bad in wrong:
        after = np.zeros((chance.size, alive.shape[1] + 1))
        after[:, 1:] = alive * chance[:, None]
        after[:, :-1] += alive * (1 - chance[:, None])
        total += np.where(bad, after, 0).sum(axis=1)
        alive = np.where(bad, 0, after)
    return total


PEEKED = np.array([0, 1e-4, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 0.9999, 1])


def excluded(p: np.ndarray, looks: int, alpha: float, interval: str) -> list[np.ndarray]:
    n, c = np.tril_indices(looks + 1)
    ends = confidence_sequence(n, c, alpha) if interval == "sequence" else clopper_pearson(n, c, alpha)
    split = np.cumsum(np.arange(1, looks + 1))
    parts = [np.split(end, split) for end in ends]
    slack = 1e-12  # an end that is the truth itself, 0 or 1, is no error
    return [(p[:, None] < low - slack) | (p[:, None] > high + slack) for low, high in zip(*parts, strict=True)][1:]


def test_a_sequence_peeked_at_200_times_is_ever_wrong_less_often_than_its_level() -> None:
    p = np.linspace(0, 1, 41)
    found = ever(p, excluded(p, 200, 0.05, "sequence"))
    assert found.max() <= 0.05
    assert ever(p, excluded(p, 200, 0.05, "clopper-pearson")).max() > 0.15


@pytest.mark.slow
def test_a_sequence_peeked_at_after_each_of_1000_attempts_is_ever_wrong_less_often_than_its_level() -> None:
    fine = np.unique(np.concatenate([PEEKED, np.linspace(0, 1, 201)]))
    sequence = ever(fine, excluded(fine, 1000, 0.05, "sequence"))
    peeked = ever(fine, excluded(fine, 1000, 0.05, "clopper-pearson"))
    low, high = (end[-1] for end in confidence_sequence([1000, 1000], [0, 50]))
    print(f"\nat 1,000 attempts and 50 successes the sequence is [{low:.4f}, {high:.4f}]")
    print("       p   sequence   Clopper-Pearson")
    for p, one, two in zip(fine, sequence, peeked, strict=True):
        if p in PEEKED:
            print(f"{p:8.4f}   {one:8.4f}   {two:8.4f}")
    print(f"greatest of {fine.size}: {sequence.max():.4f}")
    assert sequence.max() <= 0.05
    for alpha in (0.01, 0.2):
        assert ever(PEEKED, excluded(PEEKED, 1000, alpha, "sequence")).max() <= alpha


@pytest.mark.parametrize("k", [1, 16, 64])
def test_a_status_peeked_at_1000_times_is_ever_wrong_less_often_than_its_level(k: int) -> None:
    """At the threshold itself the task is *in*, so "out" is wrong; just below it, "in" is."""
    threshold = float(p_star(0.5, k))
    p = np.array([threshold])
    n, c = np.tril_indices(1001)
    split = np.cumsum(np.arange(1, 1001))
    for log_e in (log_e_below(n, c, threshold), log_e_above(n, c, threshold)):
        wrong = [part[None, :] >= np.log(20) for part in np.split(log_e, split)][1:]
        assert 0 < float(ever(p, wrong)[0]) <= 0.05
    assert accessibility([1000], [0], k).status[0] == Status.OUT


# ---- false discoveries -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Discoveries:
    """Means over suites: false discovery rate of e-BH, share of true expansions found, and the same without e-BH."""

    fdr: float
    found: float
    uncorrected: float


@cache
def every_status(n: int) -> Accessibility:
    return accessibility(np.full(n + 1, n), np.arange(n + 1), 16)


def judged(n: int, c: np.ndarray) -> Accessibility:
    """Accessibility after n attempts; it depends on the count of successes alone."""
    table = every_status(n)
    needed = type(table.needed)(*(getattr(table.needed, f.name)[c] for f in fields(table.needed)))
    arrays = (table.status, table.n, table.p_out, table.p_in, table.log_e_in, table.log_e_out)
    return Accessibility(*(array[c] for array in arrays), needed, table.alpha)


def discoveries(
    expanded: float,
    nulls: str,
    suites: int,
    *,
    tasks: int = 40,
    shared: bool = False,
    peek: bool = False,
    seed: int = 0,
) -> Discoveries:
    """Expands a share of the tasks, the others sitting where "expanded" is hardest to tell from the truth.

    Args:
        expanded: share of tasks that are truly expanded.
        nulls: "bare": the others are on the bare threshold with an able tool; "tool": out of reach of the bare arm,
            just below the threshold with tools; "same": both arms alike.
        suites: simulated suites.
        tasks: tasks of a suite.
        shared: whether tasks share their random numbers in blocks of ten, so that e-values depend on each other.
        peek: whether one looks after each of eight batches and reports the look with the most discoveries.
        seed: seed.
    """
    rng = np.random.default_rng([seed, tasks, int(1000 * expanded)])
    threshold, n = float(p_star(0.5, 16)), 320
    null_p, null_q = {
        "bare": (threshold, 0.9),
        "tool": (0.0, threshold * 0.999),
        "same": (threshold, threshold),
    }[nulls]
    looks = np.linspace(n // 8, n, 8).astype(int) if peek else np.array([n])
    rates, powers, raw = [], [], []
    for _ in range(suites):
        truly = rng.random(tasks) < expanded
        p, q = np.where(truly, 0.004, null_p), np.where(truly, 0.3, null_q)
        uniform = rng.random((2, -(-tasks // 10) if shared else tasks, n))
        uniform = np.repeat(uniform, 10, axis=1)[:, :tasks] if shared else uniform
        counts = np.cumsum(uniform < np.stack([p, q])[:, :, None], axis=2)
        best = None
        for look in looks:
            found = verdicts(*(judged(int(look), arm[:, look - 1]) for arm in counts))
            if best is None or found.expanded_fdr.sum() > best.expanded_fdr.sum():
                best = found
        assert best is not None
        rates.append((best.expanded_fdr & ~truly).sum() / max(best.expanded_fdr.sum(), 1))
        alone = best.verdict == Verdict.EXPANDED
        raw.append((alone & ~truly).sum() / max(alone.sum(), 1))
        powers.append(best.expanded_fdr[truly].mean() if truly.any() else np.nan)
    power = float(np.nanmean(powers)) if not np.isnan(powers).all() else float("nan")
    return Discoveries(float(np.mean(rates)), power, float(np.mean(raw)))


@pytest.mark.parametrize("nulls", ["bare", "tool", "same"])
def test_without_any_expansion_e_bh_seldom_declares_one(nulls: str) -> None:
    assert discoveries(0.0, nulls, 100).fdr <= 0.05


def test_in_a_mixture_that_is_peeked_at_e_bh_keeps_its_rate_and_finds_the_expansions() -> None:
    found = discoveries(0.3, "bare", 25, peek=True)
    assert found.fdr <= 0.05
    assert found.found > 0.75


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("peek", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_false_discovery_rate_of_the_verdicts_stays_below_its_level(shared: bool, peek: bool) -> None:
    print(f"\ndependent: {shared}, peeked at: {peek}\nexpanded  nulls      FDR    found  FDR without e-BH")
    for expanded in (0.0, 0.1, 0.5):
        for nulls in ("bare", "tool", "same"):
            found = discoveries(expanded, nulls, 2000, shared=shared, peek=peek, seed=4)
            print(f"{expanded:8.1f} {nulls:>6} {found.fdr:8.4f} {found.found:8.3f} {found.uncorrected:8.4f}")
            assert found.fdr <= 0.05


@pytest.mark.slow
def test_e_bh_keeps_its_level_also_where_e_values_are_as_large_as_they_may_be() -> None:
    """E-values that are 1/α' with chance α' make Markov's inequality an equality: the hardest nulls there are."""
    rng, tasks = np.random.default_rng(1), 50
    for share in (0.0, 0.2, 0.6):
        rates = []
        for _ in range(4000):
            truly = rng.random(tasks) < share
            level = np.exp(rng.uniform(np.log(0.001), 0, tasks))
            log_e = np.where(rng.random(tasks) < level, -np.log(level), -np.inf)
            said = e_bh(np.where(truly, 8.0, log_e), 0.1)
            rates.append((said & ~truly).sum() / max(said.sum(), 1))
        print(f"{share=} FDR {np.mean(rates):.4f}")
        assert np.mean(rates) <= 0.1
