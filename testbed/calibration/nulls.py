"""Pairs that do not differ: whatever the instrument claims of them is wrong."""

from __future__ import annotations

import numpy as np
from scipy.special import betaln

from testbed.calibration.case import Check, Size, Written
from testbed.calibration.claims import CLAIM, ONE_END
from testbed.calibration.expect import (
    coverage,
    false_discoveries,
    few_wrong,
    near,
    not_above,
    standard_error,
    that,
)
from testbed.calibration.policies import Tabular
from testbed.calibration.suites import (
    LOOKUP,
    REPLICATES,
    comparison,
    covers,
    draw,
    effects,
    generators,
    numbered,
    through,
)
from testbed.report.record import Analysis
from testbed.stats import Figures, Verdict, accessibility, compare_arms, verdicts

A, B = 0.3, 2.0  # tasks of a suite have chances of this Beta law


def bare_against_bare(size: Size, seed: int) -> list[Check]:
    """Two arms of one policy with random streams of their own."""
    suites = max(6, size.tasks // 4)
    table = numbered("suite", suites, np.random.default_rng([seed, 50]).beta(A, B, 8 * suites))
    found = through(
        {"one": Tabular("one", table), "other": Tabular("other", table)}, table,
        attempts=size.attempts, seed=seed, measure={"elicitation": 16},
    ).analysis  # fmt: skip
    return [*_claims_nothing(found, "other"), *_in_simulation(size, seed)]


def _claims_nothing(found: Analysis, arm: str) -> list[Check]:
    own = effects(found, arm)
    gain = comparison(found, arm).figures.gain
    claims = [str(effect) for e in own for effect in e.effects]
    tasks = sum(sum(e.verdicts.values()) for e in own)
    changed = sum(e.verdicts[Verdict.EXPANDED] + e.verdicts[Verdict.LOST] for e in own)
    return [
        coverage("gain 0, whole instrument", [covers(e.gain, 0.0) for e in own] + [covers(gain, 0.0)]),
        few_wrong("groups said to be created", claims.count("created"), len(own), CLAIM),
        few_wrong("groups said to be expanded", claims.count("expanded"), len(own), CLAIM),
        few_wrong("groups said to be elicited", claims.count("elicited"), len(own), ONE_END),
        few_wrong("groups said to be lost", claims.count("lost"), len(own), CLAIM),
        few_wrong("tasks said to be expanded or lost", changed, tasks, 0.1),
    ]


def _in_simulation(size: Size, seed: int) -> list[Check]:
    tasks, k, attempts = 30, 16, 34  # half the attempts can still read 16 in the null row
    rows: list[Figures] = []
    halves: list[Figures] = []
    for n, rng in enumerate(generators(size.suites, seed, 51)):
        p = rng.beta(A, B, tasks)
        full = compare_arms(
            draw(rng, "one", p, attempts), draw(rng, "other", p, attempts),
            operating=2, elicitation=k, replicates=REPLICATES, seed=n,
        )  # fmt: skip
        rows.append(full.figures)
        assert full.null is not None
        halves.append(full.null)
    values = {
        name: np.array([getattr(row, name).value for row in rows])
        for name in ("gain", "elicitation_part", "creation", "loss")
    }
    sums = values["elicitation_part"] + values["creation"] - values["loss"] - values["gain"]
    claimed = [max(row.verdicts.expanded_fdr.any(), row.verdicts.lost_fdr.any()) for row in rows]
    return [
        coverage("gain", [covers(row.gain, 0.0) for row in rows]),
        coverage("nats", [covers(row.nats, 0.0) for row in rows]),
        near("mean gain", float(values["gain"].mean()), 0.0, standard_error(values["gain"])),
        not_above("mean creation", float(values["creation"].mean()), 0.0, standard_error(values["creation"])),
        not_above("mean loss", float(values["loss"].mean()), 0.0, standard_error(values["loss"])),
        that("gain = elicitation + creation − loss", f"off by {abs(sums).max():.0e} at most", abs(sums).max() < 1e-9),
        false_discoveries("expanded or lost after e-BH", np.array(claimed, dtype=np.float64), 0.1),
        *_support("two arms", rows, k),
        *_support("null row", halves, k),
    ]


def _support(who: str, rows: list[Figures], k: int) -> list[Check]:
    """SRR and NDR of identical policies, of the expected counts summed over suites: E R² / E R and its complement."""
    preserved, expanded, shrunk = (
        np.array([getattr(row.support, name) for row in rows]) for name in ("preserved", "expanded", "shrunk")
    )
    miss, twice = (float(np.exp(betaln(A, B + n * k) - betaln(A, B))) for n in (1, 2))
    truth = (1 - 2 * miss + twice) / (1 - miss)
    checks = []
    for name, part, whole, true in (
        ("SRR", preserved, preserved + shrunk, truth),
        ("NDR", expanded, preserved + expanded, 1 - truth),
    ):
        ratio = float(part.sum() / whole.sum())
        checks.append(near(f"{who}: {name}", ratio, true, standard_error((part - ratio * whole) / whole.mean())))
    return checks


def one_stream(size: Size, seed: int) -> list[Check]:
    """Two arms of one policy that also share their random numbers, as equal models with equal seeds do."""
    table = {"all": np.random.default_rng([seed, 60]).beta(A, B, size.tasks).tolist()}
    found = through(
        {name: Tabular(name, table, shared=True) for name in ("one", "other")}, table,
        attempts=size.attempts, seed=seed, measure={"elicitation": 16},
    ).analysis  # fmt: skip
    figures = comparison(found, "other").figures
    creation, loss = figures.creation.value or 0.0, figures.loss.value or 0.0
    changed = figures.verdicts.counts["expanded"] + figures.verdicts.counts["lost"]
    return [
        that("attempts pair off: the gain is exactly 0", f"{figures.gain.value}", figures.gain.value == 0),
        that("no creation, no loss", f"{creation:+.4f}, {loss:+.4f}", max(abs(creation), abs(loss)) <= 1e-9),
        that("no task expanded or lost", f"{changed}", changed == 0),
    ]


def bare_against_inert(size: Size, seed: int) -> list[Check]:
    """A tool is offered and called, and makes no difference; inert, it also tells nothing to one who would listen."""
    suites = max(6, size.tasks // 6)
    table = numbered("suite", suites, np.random.default_rng([seed, 70]).beta(A, B, 6 * suites))
    deaf, listens = Tabular("deaf", table), Tabular("listens", table, reads=True)
    tools = {"tools": [LOOKUP]}
    found = through(
        {"deaf": deaf, "listens": listens}, table, attempts=size.attempts, seed=seed, measure={"elicitation": 16},
        arms=[
            {"name": "bare", "model": "deaf"},
            {"name": "inert", "model": "deaf", "control": "inert", **tools},
            {"name": "live", "model": "deaf", **tools},
            {"name": "listens to inert", "model": "listens", "control": "inert", **tools, "samples": 8},
            {"name": "listens to live", "model": "listens", **tools, "samples": 8},
        ],
    ).analysis  # fmt: skip
    arms = {arm.name: arm for arm in found.arms}
    steps = [covers(rung.difference, 0.0) for rung in found.ladder if "listens" not in rung.upper + rung.lower]
    offered = arms["inert"].cost["tool_calls"]
    heard = [arms[f"listens to {control}"].pass_1.value for control in ("inert", "live")]
    return [
        *_claims_nothing(found, "inert"),
        that("the inert tool was called in every attempt", f"{offered:g} calls an attempt", offered == 1),
        coverage("steps of the ladder", steps + [covers(e.gain, 0.0) for e in effects(found, "live")]),
        that("who listens: nothing from inert, the code from live", f"{heard[0]:g} and {heard[1]:g}", heard == [0, 1]),
    ]


# (bare, tool) chances: a third of the tasks is expanded, the others sit close to the threshold p* = .0424 in an arm.
MIXTURE = ((0.0, 0.5), (0.045, 0.5), (0.0, 0.04))


def some_expanded(size: Size, seed: int) -> list[Check]:
    """Expanded tasks among others that nearly are: bare just within reach, or tool just out of it."""
    each, attempts = max(8, size.tasks // 4), 256
    bare, tool = ({str(i): [pair[arm]] * each for i, pair in enumerate(MIXTURE)} for arm in (0, 1))
    found = through(
        {"bare": Tabular("bare", bare), "tool": Tabular("tool", tool)}, bare,
        attempts=attempts, seed=seed, measure={"elicitation": 16},
    )  # fmt: skip
    figures = comparison(found.analysis, "tool").figures
    family = {task.hash: task.meta["family"] for task in found.outcomes.tasks}
    kind = np.array([int(family[task]) for task in figures.tasks])
    said = figures.verdicts.verdict == Verdict.EXPANDED
    false, power = [], []
    for rng in generators(size.suites, seed, 55):
        kinds = rng.choice(3, 60)
        p = np.array(MIXTURE)[kinds]
        before, after = (accessibility(attempts, rng.binomial(attempts, column), 16) for column in p.T)
        rejected = verdicts(before, after).expanded_fdr
        false.append(float((rejected & (kinds != 0)).sum() / max(1, rejected.sum())))
        power.append(float(rejected[kinds == 0].mean()))
    return [
        that("every expanded task reads expanded", f"{said[kind == 0].sum()} of {each}", said[kind == 0].all()),
        few_wrong("others said to be expanded", int(said[kind != 0].sum()), 2 * each),
        false_discoveries("expanded after e-BH", np.array(false)),
        that("e-BH finds the expanded ones", f"{np.mean(power):.1%} of them", np.mean(power) > 0.9),
    ]


CASES = (
    Written("bare-bare", "one policy in both arms, tasks Beta(.3, 2)", bare_against_bare),
    Written("some-expanded", "a third of tasks 0 → .5, the others near p* = .0424", some_expanded),
    Written("one-stream", "one policy in both arms, with the same random numbers", one_stream),
    Written("bare-inert", "a tool that is called and changes nothing", bare_against_inert),
)
