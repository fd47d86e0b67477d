"""Ways to look better than one is, which the instrument must expose or withstand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from testbed import registry
from testbed.calibration import codes
from testbed.calibration.case import Check, Size, Written
from testbed.calibration.claims import claims_with_missing
from testbed.calibration.codes import WORDINGS
from testbed.calibration.expect import coverage, few_wrong, that, too_narrow, written
from testbed.calibration.policies import Guesser, Tabular
from testbed.calibration.suites import (
    REPLICATES,
    FloatArray,
    comparison,
    covers,
    draw,
    generators,
    interval,
    through,
)
from testbed.experiment_file import parse_experiment
from testbed.report.analyse import analyse_run
from testbed.report.record import Analysis
from testbed.runner import Runner
from testbed.stats import Range, Status, Verdict, accessibility, clopper_pearson, p_star, paired_mean_sequence, verdicts
from testbed.store import Store


def lenient_verifier(size: Size, seed: int) -> list[Check]:
    """A verifier that looks at the first digit only, and a policy that knows nothing and guesses."""
    registry.load_plugin(Path(codes.__file__))
    strata = {"all": size.tasks}
    honest = registry.make_env("CalibrationCodes-v0", strata=strata).validate()
    lenient = registry.make_env("CalibrationLenient-v0", strata=strata).validate()
    passes = {}
    for name in ("CalibrationCodes-v0", "CalibrationLenient-v0"):
        found = through(
            {"guesser": Guesser("guesser"), "again": Guesser("again")}, {"all": [0.0] * size.tasks},
            attempts=size.attempts, seed=seed, measure={"elicitation": 4}, env={"id": name},
        ).analysis  # fmt: skip
        passes[name] = found.arm("guesser").pass_1
    strict, lax = passes.values()
    return [
        that("validate() passes the strict verifier", f"{len(honest.problems)} problems", not honest.problems),
        that(
            "validate() finds the lenient one by its near misses, on every task",
            f"{len(lenient.problems)} problems in {lenient.checked} tasks",
            len(lenient.problems) >= lenient.checked,
        ),
        that("a guesser never passes the strict verifier", written(strict), strict.value == 0),
        that("and passes the lenient one (truth .0625)", written(lax), lax.low is not None and lax.low > 0),
    ]


def under_reported_cost(size: Size, seed: int) -> list[Check]:
    """A policy that owns up to a twentieth of the tokens it writes, beside an honest one that is the same otherwise."""
    table = {"all": [0.3] * size.tasks}

    def long(success: bool, u: float) -> int:
        return 60 + int(40 * u)

    honest, liar = (Tabular("same", table, tokens=long, reported=share) for share in (1.0, 0.05))
    capped = [{"name": n, "budget": {"generated_tokens": 50}, "samples": 8} for n in ("honest", "liar")]
    seen, limited = (
        through({"honest": _named(honest, "honest"), "liar": _named(liar, "liar")}, table,
                attempts=16, seed=seed, arms=arms, measure={"elicitation": 4}).analysis
        for arms in ([], capped)
    )  # fmt: skip
    tokens = {name: seen.arm(name).cost["generated_tokens"] for name in ("honest", "liar")}
    passed = {name: limited.arm(name).successes for name in ("honest", "liar")}
    return [
        that(
            "both are booked the same tokens",
            f"{tokens['honest']:.1f} and {tokens['liar']:.1f} an attempt",
            abs(tokens["liar"] / tokens["honest"] - 1) < 0.1,
        ),
        that(
            "a limit of 50 tokens stops both before their answer",
            f"{passed['honest']} and {passed['liar']} successes",
            not any(passed.values()),
        ),
    ]


def _named(policy: Tabular, name: str) -> Tabular:
    return Tabular(name, policy.bare, tokens=policy.tokens, reported=policy.reported)


def duplicated_clusters(size: Size, seed: int) -> list[Check]:
    """Every task five times over, in other words: five times the tasks, and no more to learn from them."""
    locks = max(12, size.tasks // 2)
    table = {"all": _locks(np.random.default_rng([seed, 90]), locks).tolist()}
    policy = {"policy": Tabular("policy", table), "again": Tabular("again", table)}
    declared, hidden = (
        through(
            policy, table, attempts=16, seed=seed, measure={"elicitation": 8},
            env={"wordings": len(WORDINGS), "clustered": clustered},
        ).analysis.arm("policy").pass_1
        for clustered in (True, False)
    )  # fmt: skip
    wide, narrow = ((e.high or 0) - (e.low or 0) for e in (declared, hidden))
    honest, naive = [], []
    for n, rng in enumerate(generators(size.suites, seed, 91)):
        p = np.repeat(_locks(rng, 24), len(WORDINGS))
        outcomes = draw(rng, "policy", p, 8)
        labels = [str(i // len(WORDINGS)) for i in range(p.size)]
        honest.append(covers(interval(outcomes.c / outcomes.n, n, clusters=labels), 0.5))
        naive.append(covers(interval(outcomes.c / outcomes.n, n), 0.5))
    return [
        that(
            "the same attempts: one mean",
            f"{declared.value:.3f} and {hidden.value:.3f}",
            declared.value == hidden.value,
        ),
        that("declared clusters widen the interval", f"{wide:.2f} instead of {narrow:.2f}", wide > 1.4 * narrow),
        coverage("pass@1, clusters declared", honest),
        too_narrow("pass@1, clusters kept quiet", naive),
    ]


def _locks(rng: np.random.Generator, locks: int) -> FloatArray:
    return np.asarray(rng.beta(0.3, 0.3, locks), dtype=np.float64)


def stopped_when_good(size: Size, seed: int) -> list[Check]:
    """A run that is looked at all the time, and reported at the moment when it looks best."""
    table = {"all": [0.3] * (size.tasks // 2) + [0.02] * (size.tasks // 2)}
    looks = sorted({max(4, round(size.attempts * share)) for share in (1 / 8, 1 / 4, 1 / 2, 1)})
    seen = _looked_at(table, looks, seed)
    tasks = len(table["all"])
    changed = np.zeros(tasks, dtype=np.bool_)
    for found in seen:
        verdict = comparison(found, "other").figures.verdicts.verdict
        changed |= (verdict == Verdict.EXPANDED) | (verdict == Verdict.LOST)
    runs, threshold = max(300, size.suites), float(p_star(0.5, 16))
    n = np.unique(np.geomspace(1, 1000, 200).round().astype(np.int64))
    # At p = p* a task is in, and "out" is wrong; at a p just below, which looks the same, "in" is wrong.
    bare, other = (_peeked(threshold, n, runs, [seed, 92, arm]) for arm in (0, 1))
    attempts = np.tile(n, runs)
    before, after = (accessibility(attempts, c.ravel(), 16) for c in (bare, other))
    pair = verdicts(before, after).verdict.reshape(runs, n.size)
    low, high = clopper_pearson(n, bare)
    held = np.asarray(((low <= threshold) & (threshold <= high)).all(axis=1))
    return [
        few_wrong(f"verdicts at {len(looks)} looks, whole instrument", int(changed.sum()), tasks, 0.1),
        few_wrong(
            f"ever out, at {n.size} looks at up to 1,000 attempts", _ever(before.status == Status.OUT, runs), runs
        ),
        few_wrong("ever in", _ever(after.status == Status.IN, runs), runs),
        few_wrong("ever expanded", _ever(pair == Verdict.EXPANDED, runs), runs),
        too_narrow("Clopper–Pearson at the same looks", held),
        *_gain_looked_at(size, seed),
    ]


def _peeked(p: float, looks: NDArray[np.int64], runs: int, seed: list[int]) -> NDArray[np.int64]:
    """Successes at each look, by run."""
    drawn = np.random.default_rng(seed).random((runs, int(looks[-1]))) < p
    return np.asarray(np.cumsum(drawn, axis=1)[:, looks - 1], dtype=np.int64)


def _ever(claimed: NDArray[np.bool_], runs: int) -> int:
    """Runs in which something was claimed at any look."""
    return int(claimed.reshape(runs, -1).any(axis=1).sum())


def _looked_at(table: dict[str, list[float]], looks: list[int], seed: int) -> list[Analysis]:
    """One store; the run goes on from look to look, as with a rising number of samples in the experiment file."""
    registry.load_plugin(Path(codes.__file__))
    models = {f"scripted:{name}": Tabular(name, table) for name in ("one", "other")}
    found = []
    with TemporaryDirectory(prefix="testbed-calibrate-") as folder, Store.open(Path(folder) / "store.sqlite") as store:
        for attempts in looks:
            name = f"after-{attempts}"
            data = {
                "name": name,
                "seed": seed,
                "samples": attempts,
                "measure": {"elicitation": 16, "replicates": REPLICATES, "bare": "one"},
                "env": [{"id": "CalibrationCodes-v0", "strata": {k: len(v) for k, v in table.items()}}],
                "arm": [{"name": name.partition(":")[2], "model": name} for name in models],
            }
            runner = Runner(parse_experiment(data), store, models=dict(models))
            asyncio.run(runner.run())
            found.append(analyse_run(store, name))
    return found


def _gain_looked_at(size: Size, seed: int) -> list[Check]:
    """Tasks come one after another; the run stops as soon as the interval of the gain leaves out 0."""
    anytime, naive = [], []
    for rng in generators(size.suites, seed, 93):
        p = rng.beta(0.5, 0.5, 160)
        gain = (rng.binomial(4, p) - rng.binomial(4, p)) / 4
        sequence = paired_mean_sequence(gain, candidates=201)
        anytime.append(bool(((sequence.low <= 0) & (sequence.high >= 0)).all()))
        seen = np.arange(1, gain.size + 1)
        mean, square = np.cumsum(gain) / seen, np.cumsum(gain**2) / seen
        off = np.abs(mean) > 1.96 * np.sqrt(np.maximum(square - mean**2, 1e-12) / seen)
        naive.append(not off[9:].any())
    return [
        coverage("gain, looked at after every task: anytime-valid sequence", anytime),
        too_narrow("mean ± 1.96 standard errors after every task", naive),
    ]


def missing_on_failure(size: Size, seed: int) -> list[Check]:
    """An infrastructure that breaks down when the attempt would have failed, beside the same attempts unbroken."""
    table = {"all": [0.3] * size.tasks}
    models = {
        "bare": Tabular("bare", table),
        "whole": Tabular("whole", table, shared=True),
        "broken": Tabular("broken", table, shared=True, breaks=0.5),
    }
    found = through(
        models, table, attempts=32, seed=seed, measure={"elicitation": 4}, retries=0,
    ).analysis  # fmt: skip
    truth, gained = found.arm("whole").pass_1.value, comparison(found, "whole").figures.gain.value
    pass_1, bounds = found.arm("broken").pass_1, found.arm("broken").if_missing
    missing = comparison(found, "broken").missing
    gain = missing.figures["gain"] if missing else None
    assert truth is not None
    assert gained is not None
    return [
        that(f"scored attempts alone mislead (truth {truth:.3f})", written(pass_1), not covers(pass_1, truth)),
        that(f"bounds hold {truth:.3f}", _range(bounds), _inside(truth, bounds)),
        that(f"bounds of the gain hold {gained:+.3f}", _range(gain), _inside(gained, gain)),
        claims_with_missing(found, "broken"),
        that("the report warns of it", len(found.warnings), any("infrastructure" in text for text in found.warnings)),
    ]


def _inside(truth: float, bounds: Range | None) -> bool:
    return bounds is not None and bounds.low - 1e-9 <= truth <= bounds.high + 1e-9


def _range(bounds: Range | None) -> str:
    return f"{bounds.low:+.3f} to {bounds.high:+.3f}" if bounds else "none"


CASES = (
    Written("lenient-verifier", "a verifier that compares the first digit only", lenient_verifier),
    Written("under-reported-cost", "a policy that owns up to 5% of its tokens", under_reported_cost),
    Written("duplicated-clusters", "every task five times, in other words", duplicated_clusters),
    Written("stopped-when-good", "identical arms, looked at all the time", stopped_when_good),
    Written("missing-on-failure", "p = .3; half of the failures end as infrastructure errors", missing_on_failure),
)
