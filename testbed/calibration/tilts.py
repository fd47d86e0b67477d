"""Policies that are the bare one re-weighted, exactly: elicitation, as long as re-sampling is given enough."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from testbed.calibration.case import Check, Size, Written
from testbed.calibration.expect import coverage, near, not_above, standard_error, that, written
from testbed.calibration.instrument import Examination
from testbed.calibration.policies import Tabular
from testbed.calibration.suites import (
    REPLICATES,
    FloatArray,
    comparison,
    covers,
    draw,
    effects,
    generators,
    numbered,
    through,
)
from testbed.report.analyse import analyse
from testbed.report.record import Analysis
from testbed.stats import Figures, compare_arms
from testbed.stats.energy import bernoulli_kl, best_of_n_kl, best_of_n_kl_bound, best_of_n_success, tilt, tilt_kl

BETA = 1.5
CHANCES = (0.05, 0.1, 0.2)
P, N = 0.07, 8  # best of 8 at .07: .4404 at .52577 nats


def exact_tilt(size: Size, seed: int) -> list[Check]:
    """Logit p + 1.5: what training towards a reward does to a policy that it does not teach anything."""
    each = max(12, size.tasks // 3)
    table = {k: v for p in CHANCES for k, v in numbered(f"p={p:g}", 1, np.full(each, p)).items()}
    after = {label: [float(tilt(p, BETA)) for p in chances] for label, chances in table.items()}
    enough = size.attempts // 2
    found = through(
        {"bare": Tabular("bare", table), "tilted": Tabular("tilted", after)}, table,
        attempts=size.attempts, seed=seed, measure={"elicitation": enough},
    )  # fmt: skip
    checks = [*_elicited(found.analysis, "tilted", enough), *_created(found, "tilted", 1)]
    for p in CHANCES:
        q, spent = float(tilt(p, BETA)), float(tilt_kl(p, BETA))
        checks.append(_divergence(found, f"p={p:g}-", f"tilt of {p:g}", p, q, spent))
    before = np.repeat(CHANCES, 8)
    return checks + _in_simulation(size, seed, before, tilt(before, BETA), enough=16, small=1)


def best_of_n(size: Size, seed: int) -> list[Check]:
    """The best of 8 under a perfect verifier: the bare arm's own reach@8, as one attempt."""
    each = max(36, size.tasks)
    table = {"locks-1": [P] * each}
    found = through(
        {"bare": Tabular("bare", table), "best": Tabular("best", table, draws=N)}, table,
        attempts=size.attempts, seed=seed, measure={"elicitation": size.attempts // 2},
    )  # fmt: skip
    figures = comparison(found.analysis, "best").figures
    equivalent = figures.equivalent
    low, high = equivalent.low or 1, equivalent.high or size.attempts
    bound = float(best_of_n_kl_bound(N))
    q, spent = float(best_of_n_success(P, N)), float(best_of_n_kl(P, N))
    return [
        *_elicited(found.analysis, "best", size.attempts // 2),
        *_created(found, "best", 2),
        that("worth 8 bare attempts", f"{equivalent.k} [{low}, {high}]", low <= N <= high),
        _divergence(found, "", f"best of {N}, less than the usual bound {bound:.3f},", P, q, spent),
        *_in_simulation(size, seed, np.full(24, P), np.full(24, q), enough=16, small=2),
    ]


def _elicited(found: Analysis, arm: str, enough: int) -> list[Check]:
    seen = {str(effect) for group in found.groups if not group.within for e in group.effects for effect in e.effects}
    figures = comparison(found, arm).figures
    return [
        that(f"at B = {enough} it reads elicited, not created", ", ".join(sorted(seen)), seen == {"elicited"}),
        that(
            "no task is called expanded", figures.verdicts.counts["expanded"], not figures.verdicts.expanded_fdr.any()
        ),
    ]


def _created(found: Examination, arm: str, small: int) -> list[Check]:
    """The same attempts, with re-sampling allowed next to nothing."""
    bare = found.analysis.bare or ""
    again = analyse(found.outcomes, bare=bare, elicitation=small, replicates=REPLICATES)
    figures = comparison(again, arm).figures
    names = sorted({str(name) for e in effects(again, arm) for name in e.effects} | _names(again, arm))
    return [
        that(
            f"at B = {small} it reads created or undetermined",
            f"{', '.join(names)}; creation {written(figures.creation)}",
            set(names) <= {"created", "undetermined", "elicited"} and "created" in names,
        )
    ]


def _names(found: Analysis, arm: str) -> set[str]:
    return {str(name) for g in found.groups if not g.within for e in g.effects if e.arm == arm for name in e.effects}


def _divergence(found: Examination, label: str, what: str, p: float, q: float, spent: float) -> Check:
    """kl(q‖p) of the measured rates against the divergence that the re-weighting truly spent."""
    rates, attempts = [], []
    for position in range(2):
        rows = (found.outcomes.arm == position) & np.array(
            [str(found.outcomes.tasks[t].meta["family"]).startswith(label) for t in found.outcomes.task]
        )
        rates.append(float(found.outcomes.success[rows].mean()))
        attempts.append(int(rows.sum()))
    slopes = (p - q) / (p * (1 - p)), np.log(q / p) - np.log((1 - q) / (1 - p))
    error = np.hypot(slopes[0] * np.sqrt(p * (1 - p) / attempts[0]), slopes[1] * np.sqrt(q * (1 - q) / attempts[1]))
    return near(f"{what} spends nats", float(bernoulli_kl(rates[1], rates[0])), spent, float(error))


def _in_simulation(
    size: Size, seed: int, before: FloatArray, after: FloatArray, *, enough: int, small: int
) -> list[Check]:
    """The parts of the gain in made-up suites, at an elicitation spend that suffices and one that does not."""
    attempts = 2 * enough
    rows: dict[int, list[Figures]] = {enough: [], small: []}
    for n, rng in enumerate(generators(max(16, size.suites // 2), seed, 80)):
        bare, tool = draw(rng, "bare", before, attempts), draw(rng, "tool", after, attempts)
        for spend, seen in rows.items():
            full = compare_arms(bare, tool, elicitation=spend, replicates=REPLICATES, seed=n)
            seen.append(full.figures)
    gain = float(np.mean(after - before))  # all of it elicitation at B = enough
    reach = {spend: -np.expm1(spend * np.log1p(-before)) for spend in rows}
    truth = {spend: float(np.maximum(0.0, after - reach[spend]).mean()) for spend in rows}
    value = {spend: np.array([row.creation.value for row in seen]) for spend, seen in rows.items()}
    claimed = [row.creation.low is not None and row.creation.low > 0 for row in rows[enough]]
    nats = float(np.mean(_free_energy(before, attempts) - _free_energy(after, attempts)))
    return [
        coverage("gain", [covers(row.gain, gain) for row in rows[enough]]),
        coverage("nats", [covers(row.nats, nats) for row in rows[enough]]),
        *(
            not_above(
                f"mean creation at B = {spend}", float(value[spend].mean()), truth[spend], standard_error(value[spend])
            )
            for spend in rows
        ),
        coverage(f"creation at B = {enough} is not claimed", [not claim for claim in claimed], 0.975),
        coverage(f"elicitation at B = {enough}", [covers(row.elicitation_part, gain) for row in rows[enough]]),
        that(
            f"creation at B = {small}: seen, truth {truth[small]:.3f}",
            f"{value[small].mean():.3f}",
            value[small].mean() > truth[small] / 2,
        ),
    ]


def _free_energy(p: FloatArray, budget: int) -> FloatArray:
    k = np.arange(1, budget + 1)
    return np.asarray(np.exp(xlogy(k, 1 - p[:, None])) @ (1 / k), dtype=np.float64)


CASES = (
    Written("exact-tilt", f"logit p + {BETA:g} for p = .05, .1, .2", exact_tilt),
    Written("best-of-n", f"best of {N} at p = {P:g}: {float(best_of_n_success(P, N)):.4f}", best_of_n),
)
