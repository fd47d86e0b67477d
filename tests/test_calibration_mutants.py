"""A calibration that cannot fail shows nothing: each test breaks the instrument in one way and sees its case fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import betaincinv

import testbed.report.analyse
import testbed.report.arms
import testbed.report.groups
import testbed.stats.bootstrap
import testbed.stats.figures
import testbed.trial
import testbed.wrappers
from helpers.calibrated import keep_runs
from testbed.calibration import CASES, cheaters, suites, tabular
from testbed.calibration.case import Size
from testbed.env import Environment, Validation
from testbed.episode import Episode
from testbed.stats import (
    ArmOutcomes,
    Decomposition,
    cluster_bootstrap,
    decompose,
    decompose_cross_fitted,
    reach_at_k,
)
from testbed.stats.intervals import Replicates
from testbed.types import Usage

FEW = Size(tasks=24, attempts=16, suites=4)
Finds = Callable[..., list[str]]


def broken(name: str, size: Size = FEW) -> list[str]:
    """What a case finds wrong, in attempts of its own."""
    case = next(case for case in CASES if case.name == name)
    return [f"{check.what}: {check.said}" for check in case.run(size, seed=3) if not check.passed]


@pytest.fixture
def misread(calibrated: Path, monkeypatch: pytest.MonkeyPatch) -> Finds:
    """What a case finds wrong in the very attempts with which it passes, and in so many made-up suites."""

    def misread(name: str, suites: int = 16) -> list[str]:
        keep_runs(calibrated / name, monkeypatch)
        return broken(name, Size(tasks=24, attempts=64, suites=suites))

    return misread


def plug_in(bare: ArmOutcomes, tool: ArmOutcomes, *, operating: int, elicitation: int, **rest: Any) -> Decomposition:
    """Creation from the same attempts that chose the regime: biased upward."""
    x, y = (reach_at_k(bare.n, bare.c, k) for k in (operating, elicitation))
    return decompose(x, y, reach_at_k(tool.n, tool.c, operating))


def drawn_apart(
    bare: ArmOutcomes, tool: ArmOutcomes, *, operating: int, elicitation: int, **rest: Any
) -> Decomposition:
    """Folds of each arm by themselves, also where their attempts share random streams."""
    return decompose_cross_fitted(bare.n, bare.c, tool.n, tool.c, operating=operating, elicitation=elicitation)


def parted(gain: Any, elicitation: Any, creation: Any) -> Decomposition:
    """Parts that somebody is sure of."""
    loss = np.maximum(-gain, 0)
    return Decomposition(
        gain=gain, elicitation=elicitation, creation=creation, loss=loss, elicitation_least=elicitation,
        elicitation_most=elicitation, creation_most=creation, loss_most=loss, creation_upper=creation,
        settled=np.ones(gain.shape, np.bool_), cross_fitted=True,
    )  # fmt: skip


def all_created(bare: ArmOutcomes, tool: ArmOutcomes, *, operating: int, **rest: Any) -> Decomposition:
    gain = reach_at_k(tool.n, tool.c, operating) - reach_at_k(bare.n, bare.c, operating)
    return parted(gain, 0 * gain, np.maximum(gain, 0))


def all_elicited(bare: ArmOutcomes, tool: ArmOutcomes, *, operating: int, **rest: Any) -> Decomposition:
    gain = reach_at_k(tool.n, tool.c, operating) - reach_at_k(bare.n, bare.c, operating)
    return parted(gain, np.maximum(gain, 0), 0 * gain)


def test_plug_in_creation_is_caught_by_the_null_pair(monkeypatch: pytest.MonkeyPatch, misread: Finds) -> None:
    monkeypatch.setattr(testbed.stats.figures, "parts_of", plug_in)
    assert any("mean creation" in line for line in misread("bare-bare", 40))


def test_calling_every_gain_creation_is_caught_by_best_of_n(monkeypatch: pytest.MonkeyPatch, misread: Finds) -> None:
    monkeypatch.setattr(testbed.stats.figures, "parts_of", all_created)
    assert any("reads elicited, not created" in line for line in misread("best-of-n"))


def test_calling_every_gain_elicitation_is_caught_by_a_small_spend(
    monkeypatch: pytest.MonkeyPatch, misread: Finds
) -> None:
    monkeypatch.setattr(testbed.stats.figures, "parts_of", all_elicited)
    assert any("reads created" in line for line in misread("exact-tilt"))


def test_plug_in_reach_is_caught_by_fixed_chances(monkeypatch: pytest.MonkeyPatch, misread: Finds) -> None:
    monkeypatch.setattr(tabular, "reach_at_k", lambda n, c, k: 1 - (1 - c / n) ** k)
    assert any("true expectation" in line for line in misread("fixed-chances"))


def _peeked(n: Any, c: Any, threshold: Any, *, below: bool) -> np.ndarray[Any, Any]:
    """Clopper–Pearson at the level of one look, taken for evidence at every look."""
    n, c = np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64)
    high = np.where(c == n, 1.0, betaincinv(c + 1, np.maximum(n - c, 1), 0.95))
    low = np.where(c == 0, 0.0, betaincinv(np.maximum(c, 1), n - c + 1, 0.05))
    return np.where(high < threshold if below else low > threshold, 50.0, 0.0)


def _rate(n: Any, c: Any, threshold: Any, *, below: bool) -> np.ndarray[Any, Any]:
    """The observed rate itself taken for evidence."""
    rate = np.asarray(c) / np.maximum(np.asarray(n), 1)
    return np.where(rate < threshold if below else rate > threshold, 50.0, 0.0)


def evidence(monkeypatch: pytest.MonkeyPatch, rule: Callable[..., Any]) -> None:
    verdicts = import_module("testbed.stats.verdicts")  # the package has a function of that name
    monkeypatch.setattr(verdicts, "log_e_below", lambda n, c, p: rule(n, c, p, below=True))
    monkeypatch.setattr(verdicts, "log_e_above", lambda n, c, p: rule(n, c, p, below=False))


def test_a_peeked_clopper_pearson_interval_is_caught_by_looking_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence(monkeypatch, _peeked)
    assert any("ever out" in line for line in broken("stopped-when-good"))


def test_verdicts_from_observed_rates_are_caught_by_false_discoveries(
    monkeypatch: pytest.MonkeyPatch, misread: Finds
) -> None:
    evidence(monkeypatch, _rate)
    assert any("after e-BH" in line for line in misread("some-expanded"))


def test_a_normal_interval_looked_at_after_every_task_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cheaters.paired_mean_sequence

    def normal(gain: Any, **rest: Any) -> Any:
        seen = np.arange(1, gain.size + 1)
        mean = np.cumsum(gain) / seen
        half = 1.96 * np.sqrt(np.maximum(np.cumsum(gain**2) / seen - mean**2, 1e-9) / seen)
        return replace(real(gain, **rest), low=mean - half, high=mean + half)

    monkeypatch.setattr(cheaters, "paired_mean_sequence", normal)
    assert any("anytime-valid" in line for line in broken("stopped-when-good", Size(24, 16, 60)))


def bootstrap(monkeypatch: pytest.MonkeyPatch, rule: Callable[..., Replicates]) -> None:
    for module in (suites, testbed.report.arms, testbed.stats.figures):
        monkeypatch.setattr(module, "cluster_bootstrap", rule)


def test_a_bootstrap_that_ignores_clusters_is_caught_by_duplicated_tasks(
    monkeypatch: pytest.MonkeyPatch, misread: Finds
) -> None:
    bootstrap(monkeypatch, lambda *a, clusters=None, **rest: cluster_bootstrap(*a, **rest))
    found = misread("duplicated-clusters", 100)
    assert any("clusters declared" in line for line in found)
    assert any("widen" in line for line in found)


def _percentile(values: Any, *rest: Any, replicates: int = 500, seed: int = 0, **more: Any) -> Replicates:
    """Resampled means with no thought of what was not seen."""
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    drawn = np.random.default_rng(seed).integers(0, len(table), (replicates, len(table)))
    means = table[drawn].mean(axis=1)
    return Replicates(table.mean(axis=0), means, means, len(table))


def test_a_percentile_bootstrap_is_caught_by_zero_inflated_suites(
    monkeypatch: pytest.MonkeyPatch, misread: Finds
) -> None:
    monkeypatch.setattr(suites, "cluster_bootstrap", _percentile)
    assert any("5 tasks" in line for line in misread("zero-inflated", 100))


def test_intervals_from_attempts_instead_of_tasks_are_caught_by_correlation(
    monkeypatch: pytest.MonkeyPatch, misread: Finds
) -> None:
    def of_attempts(values: Any, labels: Any, settings: Any, **ends: Any) -> Any:
        mean = float(np.mean(values))
        half = 1.96 * np.sqrt(mean * (1 - mean) / (64 * len(values)))
        return testbed.stats.Estimate(mean, mean - half, mean + half)

    monkeypatch.setattr(testbed.report.groups, "mean", of_attempts)
    assert any("whole instrument" in line for line in misread("correlated"))


def test_copies_that_nobody_notices_are_caught(monkeypatch: pytest.MonkeyPatch, misread: Finds) -> None:
    real = testbed.report.arms.near_identical
    monkeypatch.setattr(testbed.report.arms, "near_identical", lambda arm: replace(real(arm), flagged=False))
    assert any("flagged" in line for line in misread("correlated"))


def test_arms_that_do_not_share_their_randomness_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(10**9))
    monkeypatch.setattr(testbed.trial, "stream_key", lambda *parts: next(counter))
    assert any("gain is exactly 0" in line for line in broken("one-stream"))


def test_folds_drawn_apart_are_caught_by_one_stream(monkeypatch: pytest.MonkeyPatch, misread: Finds) -> None:
    monkeypatch.setattr(testbed.stats.figures, "parts_of", drawn_apart)
    assert any("no creation, no loss" in line for line in misread("one-stream"))


def test_an_inert_tool_that_leaks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leaks(self: Any, **arguments: Any) -> str:
        return str(await self.wrapped._arun(**arguments))

    monkeypatch.setattr(testbed.wrappers.Inert, "_arun", leaks)
    assert any("listens" in line for line in broken("bare-inert"))


def test_a_meter_that_believes_the_model_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Episode, "_believed", lambda self, usage, text: usage)
    assert len(broken("under-reported-cost")) == 2


def test_a_meter_that_forgets_tokens_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    half = lambda self, usage, text: Usage(usage.prompt_tokens, usage.generated_tokens // 2)  # noqa: E731
    monkeypatch.setattr(Episode, "_believed", half)
    assert any("booked" in line for line in broken("unequal-costs"))


def test_a_validation_without_near_misses_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Environment, "validate", lambda self, limit=None: Validation(len(self.tasks), ()))
    assert any("lenient" in line for line in broken("lenient-verifier"))


def test_missing_attempts_scored_as_failures_are_caught(monkeypatch: pytest.MonkeyPatch, misread: Finds) -> None:
    real = testbed.report.analyse.analyse

    def failed(outcomes: Any, **settings: Any) -> Any:
        return real(replace(outcomes, success=np.maximum(outcomes.success, 0)), **settings)

    monkeypatch.setattr(testbed.report.analyse, "analyse", failed)
    assert any("bounds" in line for line in misread("missing-on-failure"))


def test_missing_attempts_left_out_without_bounds_are_caught(monkeypatch: pytest.MonkeyPatch, misread: Finds) -> None:
    monkeypatch.setattr(testbed.report.arms, "if_missing", lambda arm, k: None)
    assert any("bounds hold" in line for line in misread("missing-on-failure"))
