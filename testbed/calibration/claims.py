"""What the report says in words and in small print, held against made-up outcomes whose truth is known.

The attempts do not go through the runner here: a claim that is wrong once in forty times shows only over many groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

from testbed.calibration.case import Check, Size, Written
from testbed.calibration.expect import coverage, few_wrong, that
from testbed.calibration.suites import FloatArray, comparison, generators, groups, made_up
from testbed.experiment import Measure
from testbed.report.analyse import analyse, scored_arms
from testbed.report.arms import curves
from testbed.report.record import Analysis, Effect, GroupEffect
from testbed.stats import Estimate, SampleEquivalent, SupportRow
from testbed.stats.energy import tilt

ONE_END = 0.025  # level of a claim that rests on one end of a 95% interval
CLAIM = 0.05  # of one that rests on such an end or on e-values, half of the level each
TASKS = 40  # of a group
ROWS = 1_000_000  # attempts that an analysis may hold


@dataclass(frozen=True)
class Setting:
    """A pair of policies, alike at every task, in many groups of tasks.

    Attributes:
        what: for people.
        bare: chance of success of the bare arm.
        tool: of the other.
        attempts: at each task in each arm.
        elicitation: B, asked for.
        must: what must be seen in most groups; None where nothing need be.
    """

    what: str
    bare: float
    tool: float
    attempts: int
    elicitation: int
    must: Effect | None = None

    @property
    def truths(self) -> dict[Effect, bool]:
        """Which claims are true of it."""
        within = 1 - (1 - self.bare) ** self.elicitation
        return {
            Effect.CREATED: self.tool > within,
            Effect.ELICITED: min(self.tool, within) > self.bare,
            Effect.LOST: self.tool < self.bare,
        }


NOTHING_TO_ELICIT = (
    Setting("alike, n = 4, B = 3", 0.5, 0.5, 4, 3),
    Setting("alike, n = 3, B = 2", 0.5, 0.5, 3, 2),
    Setting("alike, n = 16, B = 15", 0.3, 0.3, 16, 15),
    Setting("creation only, n = 16, B = 15", 0.0, 0.6, 16, 15),
    Setting("creation only, n = 16, B = 8", 0.0, 0.25, 16, 8),
    Setting("creation only, n = 3, B = 2", 0.0, 0.6, 3, 2),
    Setting("creation only, n = 4, B = 1", 0.2, 0.8, 4, 1),
    Setting("loss only, n = 4, B = 3", 0.5, 0.3, 4, 3),
)
SOMETHING = (
    Setting("elicitation, n = 32, B = 16", 0.1, float(tilt(0.1, 1.5)), 32, 16, Effect.ELICITED),
    Setting("elicitation, n = 32, B = 16", 0.2, float(tilt(0.2, 1.5)), 32, 16, Effect.ELICITED),
    Setting("a gain that two attempts do not split, n = 2", 0.45, 0.3, 2, 1),
    Setting("expanded without creation, n = 500, B = 16", 0.01, 0.13, 500, 16, Effect.EXPANDED),
)


def words(size: Size, seed: int, settings: tuple[Setting, ...] = (*NOTHING_TO_ELICIT, *SOMETHING)) -> list[Check]:
    """Effects that the report names, where each is true and where it is not, in groups of 40 tasks."""
    many = max(12, min(size.suites // 5, 200))
    checks: list[Check] = []
    seen: dict[Effect, list[bool]] = {Effect.ELICITED: [], Effect.EXPANDED: []}
    hidden = excluded = 0
    for number, setting in enumerate(settings):
        few = max(12, min(many, ROWS // (2 * TASKS * setting.attempts)))
        found = _effects(setting, few, [seed, 120, number])
        for effect, true in setting.truths.items():
            said = sum(effect in e.effects for e in found)
            if not true:
                level = ONE_END if effect is Effect.ELICITED else CLAIM
                checks.append(few_wrong(f"{setting.what}: groups said to be {effect}", said, len(found), level))
        if setting.must is not None:
            seen[setting.must] += [setting.must in e.effects for e in found]
        off = [e for e in found if e.gain.low is not None and e.gain.high is not None and not _holds(e.gain, 0)]
        excluded += len(off)
        hidden += sum(Effect.NOTHING in e.effects for e in off)
    return [
        *checks,
        *(
            that(f"{what} is seen in most groups", f"{np.mean(s):.0%}", np.mean(s) > 0.5)
            for what, s in seen.items()
            if s
        ),
        that(
            "no effect seen: never where the gain's interval leaves out 0",
            f"{hidden} of {excluded} such groups",
            excluded > many // 2 and not hidden,
        ),
    ]


def _effects(setting: Setting, many: int, seed: list[int]) -> list[GroupEffect]:
    table = {f"group {i}": np.full(TASKS, setting.bare) for i in range(many)}
    after = {label: np.full(TASKS, setting.tool) for label in table}
    data = made_up({"bare": table, "tool": after}, setting.attempts, np.random.default_rng(seed))
    found = analyse(data, bare="bare", elicitation=setting.elicitation, replicates=200)
    return [effect for group in groups(found) for effect in group.effects]


def _holds(found: Estimate, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low - 1e-9 <= truth <= found.high + 1e-9


A, B, K = 0.3, 2.0, 8  # Beta law of the chances; the spend of support


def small_print(size: Size, seed: int) -> list[Check]:
    """SRR, NDR, SDS, NSCR, the sample-equivalent gain, bands and creation by spend, as they are printed."""
    many = max(24, size.suites // 4)
    chosen, creation_missing = [], 0
    inside: list[bool] = []
    by_spend: list[bool] = []
    for number, rng in enumerate(generators(many, seed, 121)):
        p = {"all": rng.beta(A, B, TASKS)}
        data = made_up({"bare": p, "tool": p}, 2 * K, rng)
        settings = Measure(operating=2, elicitation=K, replicates=200, seed=number)
        drawn = list(curves(scored_arms(data), (), settings))
        inside.append(all(_inside(curve.low, curve.high, curve.spend) for curve in drawn))
        found = analyse(data, bare="bare", operating=2, elicitation=K, replicates=200, seed=number)
        chosen.append(comparison(found, "tool").figures)
        curve = comparison(found, "tool").creation_by_spend
        creation_missing += curve is None or len(curve.spends) < 3
        by_spend += [_holds(estimate, 0.0) for estimate in (curve.creation if curve else ())]
    miss, twice = (float(np.exp(betaln(A, B + n * K) - betaln(A, B))) for n in (1, 2))
    srr = (1 - 2 * miss + twice) / (1 - miss)
    truth = {"srr": srr, "ndr": 1 - srr, "sds": 2 * srr * (1 - srr), "nscr": 0.0}
    return [
        *(check for name, value in truth.items() for check in _ratio(name, [f.support for f in chosen], value)),
        *_worth([f.equivalent for f in chosen], 2),
        coverage("bands: whole curves of two arms", inside),
        that("creation by spend is shown", f"{creation_missing} lack it", not creation_missing),
        coverage("creation by spend: 0", by_spend),
    ]


def _inside(low: tuple[float, ...] | None, high: tuple[float, ...] | None, spends: tuple[float, ...]) -> bool:
    k = np.array(spends)
    true = -np.expm1(betaln(A, B + k) - betaln(A, B))
    return low is not None and high is not None and bool(((np.array(low) <= true) & (true <= np.array(high))).all())


def _ratio(name: str, rows: list[SupportRow], truth: float) -> list[Check]:
    found = [getattr(row, name) for row in rows]
    values: FloatArray = np.array([e.value for e in found if e.value is not None])
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))
    return [
        coverage(f"{name.upper()}, printed", [_holds(e, truth) for e in found if e.value is not None]),
        # A ratio is biased in suites of 40 tasks, by .02 at most here.
        that(
            f"{name.upper()}: {truth:.3f}, but for .02 of bias", f"{mean:.3f}", abs(mean - truth) < 0.02 + 4.5 * error
        ),
    ]


def _worth(found: list[SampleEquivalent], truth: int) -> list[Check]:
    """An arm like the bare one, read at two attempts, is worth two."""
    held = [(e.low or np.inf) <= truth <= (np.inf if e.high is None else e.high) for e in found]
    middle = float(np.median([np.inf if e.k is None else e.k for e in found]))
    return [
        coverage(f"worth {truth} bare attempts", held),
        that(f"worth {truth} bare attempts in the median suite", f"{middle:g}", abs(middle - truth) <= 1),
    ]


def claims_with_missing(found: Analysis, arm: str) -> Check:
    """Of arms that do not differ, nothing is claimed, since it would not hold however missing attempts had ended."""
    said = sorted(
        {str(effect) for group in found.groups for e in group.effects if e.arm == arm for effect in e.effects}
    )
    return that("and nothing is claimed from what is left", ", ".join(said), said == ["undetermined"])


CASES = (
    Written("claims", "alike; creation, elicitation or loss only, near B and far", words),
    Written("small-print", "one policy in both arms, tasks Beta(.3, 2), b = 2, B = 8", small_print),
)
