"""What is promised about intervals and estimates, checked by simulation: coverage and bias.

The slow forms print the tables that docs/measurement.md keeps: pytest -m slow -s tests/test_stats_coverage.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from testbed.stats import (
    ArmOutcomes,
    Estimate,
    Figures,
    compare_arms,
    decompose_cross_fitted,
)
from testbed.stats.energy import budgeted_free_energy, budgeted_free_energy_stopped

# ---- suites whose truth is known -------------------------------------------------------------------------------------

KINDS = 240  # kinds of tasks in a population; a suite draws from them, so every truth is a mean over them


@dataclass(frozen=True)
class Population:
    """Kinds of tasks, each with its success probabilities and its numbers of attempts in both arms."""

    p: np.ndarray
    q: np.ndarray
    n0: np.ndarray
    n1: np.ndarray


def population(name: str, n: int) -> Population:
    rng = np.random.default_rng(5)
    p = rng.beta(0.3, 2, KINDS) * (rng.random(KINDS) >= 0.3)
    n0 = n1 = np.full(KINDS, n)
    if name == "mixed":  # three tasks in ten gain much, the others nothing
        return Population(p, np.where(rng.random(KINDS) < 0.3, rng.beta(4, 2, KINDS), p), n0, n1)
    if name == "same":
        return Population(p, p, n0, n1)
    if name == "harmful":
        return Population(np.maximum(p, 0.1), np.maximum(p, 0.1) * 0.3, n0, n1)
    n0 = np.where(np.arange(KINDS) % 2 == 0, n, 2 * n)  # "uneven": numbers of attempts differ
    return Population(p, np.where(rng.random(KINDS) < 0.5, rng.beta(2, 2, KINDS), p), n0, n1)


@dataclass(frozen=True)
class Truth:
    """What the intervals are about: name of a figure to its value in the population.

    `expected` are the expectations of the cross-fitted parts, which the means are held against.
    """

    figures: dict[str, float]
    expected: dict[str, float]
    equivalent: int | None


@cache
def cross_fitted_means(n0: int, n1: int, big: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross-fitted creation and loss for every pair of counts, shape (n0 + 1, n1 + 1)."""
    c0, c1 = (m.ravel() for m in np.meshgrid(np.arange(n0 + 1), np.arange(n1 + 1), indexing="ij"))
    parts = decompose_cross_fitted(n0, c0, n1, c1, elicitation=big)
    shape = (n0 + 1, n1 + 1)
    return parts.creation.reshape(shape), parts.loss.reshape(shape)


def truth_of(found: Population, big: int) -> Truth:
    """Exact values; expectations of the cross-fitted estimators are taken over both arms' counts."""
    parts = np.empty((KINDS, 2))
    for i in range(KINDS):
        chance0 = binom.pmf(np.arange(found.n0[i] + 1), found.n0[i], found.p[i])
        chance1 = binom.pmf(np.arange(found.n1[i] + 1), found.n1[i], found.q[i])
        tables = cross_fitted_means(int(found.n0[i]), int(found.n1[i]), big)
        parts[i] = [chance0 @ table @ chance1 for table in tables]
    creation, loss = parts.mean(axis=0)
    p, q = found.p, found.q
    y, reached = 1 - (1 - p) ** big, 1 - (1 - q) ** big
    budget = int(min(found.n0.min(), found.n1.min()))
    both, more, less = (y * reached).mean(), ((1 - y) * reached).mean(), (y * (1 - reached)).mean()
    srr, ndr = both / (both + less), more / (both + more)
    most = int(found.n0.min())
    curve = np.array([(1 - (1 - p) ** k).mean() for k in range(1, most + 1)])
    first = np.flatnonzero(curve >= q.mean() - 1e-12)
    figures = {
        "bare_pass1": p.mean(),
        "bare_elicitation": y.mean(),
        "gain": (q - p).mean(),
        "creation": np.maximum(0, q - y).mean(),
        "loss": np.maximum(0, p - q).mean(),
        "elicitation_part": np.maximum(0, np.minimum(q, y) - p).mean(),
        "nats": (budgeted_free_energy(p, budget) - budgeted_free_energy(q, budget)).mean(),
        "srr": srr,
        "ndr": ndr,
        "sds": 2 * srr * ndr / (srr + ndr),
        "nscr": (more - less) / (both + more + less),
    }
    return Truth(
        figures={name: float(value) for name, value in figures.items()},
        expected={
            "creation": float(creation),
            "loss": float(loss),
            "elicitation_part": float((q - p).mean() - creation + loss),
        },
        equivalent=int(first[0]) + 1 if first.size else None,
    )


def suite(
    found: Population, sizes: Sequence[int], rng: np.random.Generator
) -> tuple[ArmOutcomes, ArmOutcomes, dict[str, int]]:
    """Both arms on a random suite; seven tasks in ten of a cluster are of one kind."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    kind = np.where(
        rng.random(label.size) < 0.7, rng.integers(KINDS, size=len(sizes))[label], rng.integers(KINDS, size=label.size)
    )
    names = [str(i) for i in range(label.size)]
    n0, n1 = found.n0[kind], found.n1[kind]
    bare = ArmOutcomes.from_counts("bare", names, n0, rng.binomial(n0, found.p[kind]))
    tool = ArmOutcomes.from_counts("tool", names, n1, rng.binomial(n1, found.q[kind]))
    return bare, tool, dict(zip(names, label.tolist(), strict=True))


class Tally:
    """How often an interval held its truth, its mean width, and the estimates' mean."""

    def __init__(self) -> None:
        self.held: list[bool] = []
        self.width: list[float] = []
        self.values: list[float] = []

    def add(self, found: Estimate, truth: float) -> None:
        if found.value is None:
            # Nothing is claimed where a ratio has no denominator; it is no failure and no success.
            return
        assert found.low is not None
        assert found.high is not None
        self.held.append(found.low - 1e-9 <= truth <= found.high + 1e-9)
        self.width.append(found.high - found.low)
        self.values.append(found.value)

    @property
    def coverage(self) -> float:
        return float(np.mean(self.held))


@dataclass
class Simulated:
    """Tallies by figure, how often more elicitation was claimed than there is, and how often other statements held."""

    truth: Truth
    tallies: dict[str, Tally]
    elicits: float
    equivalent: float
    null_gain: float


def simulate(
    name: str, sizes: Sequence[int], n: int, big: int, suites: int, *, seed: int = 0, replicates: int = 500
) -> Simulated:
    """Compares the arms of many suites by the whole instrument."""
    kinds = population(name, n)
    truth = truth_of(kinds, big)
    tallies = {figure: Tally() for figure in truth.figures}
    rng = np.random.default_rng([seed, n, big, len(sizes)])
    elicits, worth, null = [], [], []
    for number in range(suites):
        bare, tool, clusters = suite(kinds, sizes, rng)
        found = compare_arms(bare, tool, elicitation=big, replicates=replicates, seed=number, clusters=clusters)
        f = found.figures
        for figure, tally in tallies.items():
            tally.add(
                getattr(f.support if figure in ("srr", "ndr", "sds", "nscr") else f, figure), truth.figures[figure]
            )
        elicits.append(low_of(f.elicitation_part) > truth.figures["elicitation_part"] + 1e-9)
        worth.append(holds_equivalent(f, truth.equivalent))
        assert found.null is not None
        null.append(low_of(found.null.gain) <= 1e-9 and (found.null.gain.high or 0) >= -1e-9)
    return Simulated(truth, tallies, *(float(np.mean(part)) for part in (elicits, worth, null)))


def low_of(found: Estimate) -> float:
    assert found.low is not None
    return found.low


def holds_equivalent(f: Figures, truth: int | None) -> bool:
    """Whether the interval of the sample-equivalent gain holds the truth; None stands for "more than n"."""
    least, value, most = (np.inf if k is None else k for k in (f.equivalent.low, truth, f.equivalent.high))
    return bool(least <= value <= most)


def show(title: str, found: Simulated) -> None:
    print(
        f"\n{title}\n{'figure':>18} {'target':>8} {'mean':>8} {'error':>8} {'sim. se':>8} {'covered':>8} {'width':>7}"
    )
    for name, tally in found.tallies.items():
        values = np.array(tally.values)
        target, error = found.truth.figures[name], values.std(ddof=1) / np.sqrt(values.size)
        target = found.truth.expected.get(name, target)
        print(
            f"{name:>18} {target:8.4f} {values.mean():8.4f} {values.mean() - target:+8.4f} {error:8.4f} "
            f"{tally.coverage:8.3f} {np.mean(tally.width):7.3f}"
        )
    print(
        "".join(
            f"{name:>18} {found.truth.figures[name]:8.4f}   truth, expectation less truth: "
            f"{value - found.truth.figures[name]:+.4f}\n"
            for name, value in found.truth.expected.items()
        )
        + f"more elicitation claimed than there is: {found.elicits:.4f}\n"
        f"{'worth':>18} {found.truth.equivalent!s:>8}   covered {found.equivalent:.3f}\n"
        f"{'null row gain':>18} {0:8.4f}   covered {found.null_gain:.3f}"
    )


UNBIASED = ("bare_pass1", "bare_elicitation", "gain", "creation", "loss", "elicitation_part", "nats")


def check(found: Simulated, least: float, sigmas: float = 4.0) -> None:
    for name, tally in found.tallies.items():
        assert tally.coverage >= least, (name, tally.coverage)
        if name in UNBIASED:
            values = np.array(tally.values)
            error = max(values.std(ddof=1) / np.sqrt(values.size), 1e-12)
            target = found.truth.expected.get(name, found.truth.figures[name])
            assert abs(values.mean() - target) <= sigmas * error + 1e-9, name
    # Never biased upward: the cross-fitted estimators' expectation is at most the truth.
    for part in ("creation", "loss"):
        assert found.truth.expected[part] <= found.truth.figures[part] + 1e-9
    assert found.elicits <= 1 - least
    assert min(found.equivalent, found.null_gain) >= least


SETTINGS = {
    "10 tasks, n = 16, B = 8": ("mixed", [1] * 10, 16, 8),
    "30 tasks, n = 64, B = 16": ("mixed", [1] * 30, 64, 16),
    "100 tasks, n = 64, B = 16": ("mixed", [1] * 100, 64, 16),
    "400 tasks, n = 16, B = 8": ("mixed", [1] * 400, 16, 8),
    "12 clusters of 5, n = 16, B = 8": ("mixed", [5] * 12, 16, 8),
    "20 clusters of 1 to 8, n = 24 or 48 bare, 24 with tools, B = 12": ("uneven", [1, 2, 3, 8] * 5, 24, 12),
    "30 tasks, no effect, n = 64, B = 16": ("same", [1] * 30, 64, 16),
    "30 tasks, harmful, n = 16, B = 8": ("harmful", [1] * 30, 16, 8),
}


def test_intervals_of_every_figure_cover_in_a_small_clustered_suite_and_estimates_are_unbiased() -> None:
    check(simulate("mixed", [1, 1, 2, 3, 1, 2, 4, 1, 1, 2], 12, 4, 50, replicates=200), least=0.86, sigmas=4.5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("setting", SETTINGS)
def test_intervals_at_95_percent_cover_at_least_94_and_estimates_are_unbiased(setting: str) -> None:
    found = simulate(*SETTINGS[setting], suites=2000)
    show(setting, found)
    check(found, least=0.94)


# ---- the cost axis ---------------------------------------------------------------------------------------------------


def reach_within(p: np.ndarray, spend: int) -> np.ndarray:
    """Chance that the first success ends within the spend, where a failure costs 1 or 2 evenly and a success 2."""
    reach = [np.zeros(p.shape), np.zeros(p.shape)]  # of spends −1 and 0
    for left in range(1, spend + 1):
        reach.append(p * (left >= 2) + (1 - p) * (reach[-1] + reach[-2]) / 2)
    return reach[-1]


def costed_arm(name: str, p: np.ndarray, n: int, rng: np.random.Generator) -> ArmOutcomes:
    success = rng.random((p.size, n)) < p[:, None]
    cost = np.where(success, 2, rng.integers(1, 3, success.shape))
    tasks = np.repeat([str(i) for i in range(p.size)], n).tolist()
    return ArmOutcomes.from_rows(name, tasks, success.ravel(), costs={"calls": cost.ravel()})


def simulate_costs(suites: int, tasks: int, n: int, b: int, big: int) -> dict[str, Tally]:
    kinds = population("mixed", n)
    x, y, t = reach_within(kinds.p, b), reach_within(kinds.p, big), reach_within(kinds.q, b)
    truth = {
        "bare_operating": x.mean(),
        "tool_operating": t.mean(),
        "bare_elicitation": y.mean(),
        "gain": (t - x).mean(),
    }
    bound = {"creation": np.maximum(0, t - y).mean(), "loss": np.maximum(0, x - t).mean()}
    tallies = {name: Tally() for name in (*truth, *bound)}
    rng = np.random.default_rng(12)
    for number in range(suites):
        kind = rng.integers(KINDS, size=tasks)
        bare, tool = costed_arm("bare", kinds.p[kind], n, rng), costed_arm("tool", kinds.q[kind], n, rng)
        f = compare_arms(bare, tool, axis="calls", operating=b, elicitation=big, replicates=300, seed=number).figures
        for name, value in truth.items():
            tallies[name].add(getattr(f, name), float(value))
        for name, value in bound.items():
            part = getattr(f, name)
            tallies[name].add(Estimate(part.value, part.low, 1.0), float(value))
    print(f"\ncost axis: {tasks} tasks, n = {n}, b = {b}, B = {big}")
    for name, value in {**truth, **bound}.items():
        values = np.array(tallies[name].values)
        se = values.std(ddof=1) / np.sqrt(values.size)
        off = values.mean() - value
        if name in truth:
            assert abs(off) <= 4.5 * se, name
        else:
            assert off <= 4 * se, name  # never biased upward
        print(
            f"{name:>18} {value:8.4f} {values.mean():8.4f} {off:+8.4f} {se:8.4f} {tallies[name].coverage:8.3f} "
            f"{np.mean(tallies[name].width) if name in truth else float('nan'):7.3f}"
        )
    return tallies


def test_on_a_cost_axis_intervals_cover_and_creation_is_not_biased_upward() -> None:
    assert min(tally.coverage for tally in simulate_costs(25, 8, 16, 3, 8).values()) >= 0.84


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_a_cost_axis_intervals_at_95_percent_cover_at_least_94() -> None:
    assert min(tally.coverage for tally in simulate_costs(2000, 20, 24, 3, 12).values()) >= 0.94


# ---- budgeted free energy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.003, 0.05, 0.4, 1.0])
def test_stopping_at_the_first_success_leaves_the_budgeted_free_energy_unbiased(p: float) -> None:
    rng, cap, runs = np.random.default_rng(8), 64, 40_000
    first = rng.geometric(p, runs) if p > 0 else np.full(runs, cap + 1)
    values = budgeted_free_energy_stopped(first, cap)
    error = values.std() / np.sqrt(runs)
    assert abs(values.mean() - float(budgeted_free_energy(p, cap))) <= 4 * error + 1e-9
