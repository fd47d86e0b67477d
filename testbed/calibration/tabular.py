"""Policies without tools whose chances are written in a table: fixed, mixed, correlated, unequal in cost, tilted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import binom

from testbed.calibration.case import Check, Size, Written
from testbed.calibration.expect import coverage, few_wrong, near, standard_error, that, too_narrow
from testbed.calibration.policies import Tabular
from testbed.calibration.suites import (
    REPLICATES,
    FloatArray,
    comparison,
    covers,
    draw,
    effects,
    generators,
    groups,
    interval,
    numbered,
    through,
)
from testbed.stats import (
    ArmOutcomes,
    Comparison,
    Verdict,
    clopper_pearson,
    compare_arms,
    p_star,
    reach_at_k,
    reach_curve,
)
from testbed.stats.energy import budgeted_free_energy, budgeted_free_energy_estimate
from testbed.store import Outcomes
from testbed.types import COST_COMPONENTS

CHANCES = (0.0, 1e-4, 0.01, 0.1, 0.5, 1.0)


def fixed_chances(size: Size, seed: int) -> list[Check]:
    """Suites of tasks that all have the same chance, from never to always."""
    suites = max(2, size.tasks // 12)
    table = {k: v for p in CHANCES for k, v in numbered(f"p={p:g}", suites, np.full(3 * suites, p)).items()}
    spend = max(2, size.attempts // 16)
    found = through(
        {"first": Tabular("first", table), "second": Tabular("second", table)},
        table, attempts=size.attempts, seed=seed, measure={"elicitation": spend},
    ).analysis  # fmt: skip
    own = [(p, arm.pass_1) for p in CHANCES for group in groups(found, f"p={p:g}-") for arm in group.arms]
    claims = {p: [e.verdicts for e in effects(found, "second", f"p={p:g}-")] for p in CHANCES}
    threshold = float(p_star(0.5, spend))
    right = {p: Verdict.PRESERVED if p >= threshold else Verdict.OUT_OF_REACH for p in CHANCES}
    wrong = sum(n for p in CHANCES for e in claims[p] for v, n in e.items() if v not in (right[p], "undetermined"))
    surely = sum(e[right[p]] for p in (0.0, 0.5, 1.0) for e in claims[p])
    highest = [pass_1.high for p, pass_1 in own if p < 1e-3]
    return [
        coverage("success of one attempt, whole instrument", [covers(pass_1, p) for p, pass_1 in own]),
        few_wrong("verdicts", wrong, sum(sum(e.values()) for p in CHANCES for e in claims[p])),
        that(
            "p = 0 reads out of reach, p = .5 and p = 1 preserved, on every task",
            f"{surely} of {9 * suites}",
            surely == 9 * suites,
        ),
        that(
            "no success is never a certain 0: intervals reach above",
            f"up to {max(h or 0 for h in highest):.2f}",
            all(h is not None and h > 0 for h in highest),
        ),
        _exactly_unbiased(size.attempts),
    ]


def _exactly_unbiased(n: int) -> Check:
    """Expectation of reach@k and of the free energy over all n + 1 counts, by the binomial law: no simulation."""
    c, worst = np.arange(n + 1), 0.0
    for p in CHANCES:
        law = binom.pmf(c, n, p)
        for k in (1, max(1, n // 4), n):
            worst = max(worst, abs(float(law @ reach_at_k(n, c, k)) - (1 - (1 - p) ** k)))
            estimate = budgeted_free_energy_estimate(np.full(n + 1, n), c, k)
            worst = max(worst, abs(float(law @ estimate) - float(budgeted_free_energy(p, k))))
        worst = max(
            worst,
            abs(float(law @ budgeted_free_energy_estimate(np.full(n + 1, n), c)) - float(budgeted_free_energy(p, n))),
        )
    return that("reach@k and H_n − H_c have the true expectation", f"off by {worst:.0e} at most", worst < 1e-9)


ZEROS, A, B = 0.4, 0.3, 2.0  # share of hopeless tasks; Beta law of the others


def zero_inflated(size: Size, seed: int) -> list[Check]:
    """Suites in which many tasks are hopeless: what pass@k curves of real benchmarks look like."""
    pass_1, reach_8 = _mixture_reach(1), _mixture_reach(8)
    whole = max(6, size.tasks // 4)
    chances = _mixture(np.random.default_rng([seed, 20]), 10 * whole)
    table = numbered("suite", whole, chances)
    attempts = max(16, size.attempts // 4)
    found = through(
        {"policy": Tabular("policy", table)}, table, attempts=attempts, seed=seed,
        measure={"operating": 8, "elicitation": 8},
    ).analysis  # fmt: skip
    arms = [arm for group in groups(found) for arm in group.arms]
    checks: list[Check] = [
        coverage("success of one attempt, whole instrument", [covers(arm.pass_1, pass_1) for arm in arms]),
        coverage("reach@8, whole instrument", [covers(arm.operating.estimate, reach_8) for arm in arms]),
    ]
    for tasks in (5, 20, 60):
        one, eight = [], []
        for n, rng in enumerate(generators(size.suites, seed, 21)):
            outcomes = draw(rng, "policy", _mixture(rng, tasks), 16)
            one.append(covers(interval(outcomes.c / outcomes.n, n), pass_1))
            eight.append(covers(interval(reach_at_k(outcomes.n, outcomes.c, 8), n), reach_8))
        checks += [coverage(f"pass@1, {tasks} tasks", one), coverage(f"reach@8, {tasks} tasks", eight)]
    return checks


def _mixture(rng: np.random.Generator, tasks: int) -> FloatArray:
    return np.where(rng.random(tasks) < ZEROS, 0.0, rng.beta(A, B, tasks))


def _mixture_reach(k: int) -> float:
    return float((1 - ZEROS) * -np.expm1(betaln(A, B + k) - betaln(A, B)))


def correlated(size: Size, seed: int) -> list[Check]:
    """Half of a task's attempts repeat one fixed outcome; and a greedy policy whose attempts are all the same."""
    p = 0.3
    suites = max(24, size.tasks // 2)
    table = numbered("suite", suites, np.full(6 * suites, p))
    found = through(
        {"policy": Tabular("policy", table, repeats=0.5)}, table, attempts=size.attempts, seed=seed,
        measure={"elicitation": 8},
    ).analysis  # fmt: skip
    arms = [arm for group in groups(found) for arm in group.arms]
    naive = [
        clopper_pearson(arm.attempts, round((arm.pass_1.value or 0) * arm.attempts), 0.05) for arm in arms
    ]  # as if all attempts were independent
    copies = Tabular("copies", table, repeats=1.0)
    greedy = through(
        {"copies": copies, "more": Tabular("more", table, repeats=1.0)}, table, attempts=4, seed=seed,
        arms=[{"name": n, "model": {"id": n, "temperature": 0.0}} for n in ("copies", "more")],
        measure={"elicitation": 2},
    ).analysis  # fmt: skip
    warned = [text for text in greedy.warnings if "nearly identical" in text]
    claimed = {str(effect) for group in greedy.groups for e in group.effects for effect in e.effects}
    return [
        coverage("success of one attempt, whole instrument", [covers(arm.pass_1, p) for arm in arms]),
        too_narrow("binomial interval of all attempts", [bool(low <= p <= high) for low, high in naive]),
        that("copies at temperature 0: both arms are flagged", f"{len(warned)} warnings", len(warned) == 2),
        that("and nothing is claimed from them", ", ".join(sorted(claimed)), claimed == {"undetermined"}),
    ]


def unequal_costs(size: Size, seed: int) -> list[Check]:
    """The dearer policy wins by the attempt and loses by the token."""
    tasks = max(48, size.tasks)
    table, better = {"all": [0.2] * tasks}, {"all": [0.35] * tasks}
    cheap = Tabular("cheap", table, tokens=lambda success, u: 12 if success else 20)
    dear = Tabular("dear", better, tokens=lambda success, u: 64 if success else 80)
    found = through(
        {"cheap": cheap, "dear": dear}, table, attempts=size.attempts, seed=seed, measure={"elicitation": 4}
    )
    arms = {arm.name: arm for arm in found.analysis.arms}
    paid = {name: arm.cost["generated_tokens"] * arm.attempts for name, arm in arms.items()}
    owed = {
        name: won * arms[name].successes + lost * (arms[name].attempts - arms[name].successes)
        for name, won, lost in (("cheap", 12, 20), ("dear", 64, 80))
    }
    by_attempt = comparison(found.analysis, "dear").figures.gain
    by_token = _by_token(found.outcomes, 80.0).figures.gain
    truth = _reach_within(80, 0.35, 64, 80) - _reach_within(80, 0.2, 12, 20)
    spends = np.array([20.0, 50.0, 80.0, 120.0])
    within = np.array([_reach_within(b, 0.2, 12, 20) for b in spends])
    rows = []
    for rng in generators(size.suites, seed, 40):
        won = rng.random(24) < 0.2
        rows.append(reach_curve(_costed(won), spends, axis="tokens").lower[0])
    means, errors = np.mean(rows, axis=0), [standard_error(column) for column in np.array(rows).T]
    return [
        that(
            "tokens are booked as they were written",
            ", ".join(f"{paid[name]:.0f} of {owed[name]}" for name in paid),
            all(abs(paid[name] - owed[name]) < 1e-6 * owed[name] for name in paid),
        ),
        that("by the attempt the dear policy gains", f"{by_attempt.value:+.3f}", (by_attempt.low or 0) > 0),
        that(f"by 80 tokens it loses (truth {truth:+.3f})", f"{by_token.value:+.3f}", (by_token.high or 0) < 0),
        *(
            near(f"reach within {b:.0f} tokens", float(means[i]), float(within[i]), errors[i])
            for i, b in enumerate(spends)
        ),
    ]


def _reach_within(spend: float, p: float, won: float, lost: float) -> float:
    """Reach within a spend where a success costs `won` and a failure `lost`."""
    return 0.0 if spend < won else 1 - (1 - p) ** (1 + int((spend - won) // lost))


def _costed(won: NDArray[np.bool_]) -> ArmOutcomes:
    return ArmOutcomes.from_rows("cheap", ["t"] * won.size, won, costs={"tokens": np.where(won, 12.0, 20.0)})


def _by_token(outcomes: Outcomes, spend: float) -> Comparison:
    """The stored attempts compared on the axis of generated tokens."""
    axis, arms = COST_COMPONENTS.index("generated_tokens"), []
    for position, arm in enumerate(outcomes.arms):
        rows = outcomes.arm == position
        names = [outcomes.tasks[t].hash for t in outcomes.task[rows]]
        spent = {"generated_tokens": outcomes.cost[rows, axis]}
        arms.append(ArmOutcomes.from_rows(arm.name, names, outcomes.success[rows].astype(np.float64), costs=spent))
    return compare_arms(
        arms[0], arms[1], axis="generated_tokens", operating=spend, elicitation=spend, replicates=REPLICATES
    )


CASES = (
    Written("fixed-chances", "p = 0, 1e-4, .01, .1, .5, 1; two arms alike", fixed_chances),
    Written("zero-inflated", "40% of tasks hopeless, the others Beta(.3, 2)", zero_inflated),
    Written("correlated", "p = .3, half of a task's attempts share one outcome", correlated),
    Written("unequal-costs", "p = .2 at 12-20 tokens against p = .35 at 64-80", unequal_costs),
)
