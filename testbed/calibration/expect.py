"""Expectations that can fail, and that a right instrument fails less than once in ten thousand times."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr
from scipy.stats import binom

from testbed.calibration.case import Check, Rate
from testbed.stats import Estimate

CHANCE = 1e-4  # with which a right instrument may fail one expectation
ERRORS = 4.5  # standard errors: further away with chance 7e-6, for a mean of many


def that(what: str, said: object, passed: object) -> Check:
    """An expectation on something said once."""
    return Check(what, str(said), bool(passed))


def around(what: str, estimate: Estimate, truth: float) -> Check:
    """An interval around the truth."""
    low, high = estimate.low, estimate.high
    held = low is not None and high is not None and low <= truth <= high
    return Check(f"{what}: interval around {truth:.3f}", written(estimate), held)


def near(what: str, value: float, truth: float, error: float) -> Check:
    """A mean within 4.5 standard errors of the truth."""
    said = f"{value:.4f}, standard error {error:.4f}"
    return Check(f"{what}: {truth:.4f} but for simulation error", said, abs(value - truth) <= ERRORS * error + 1e-12)


def not_above(what: str, value: float, truth: float, error: float) -> Check:
    """A mean that is not above the truth by more than 4.5 standard errors."""
    said = f"{value:.4f}, standard error {error:.4f}"
    return Check(f"{what}: at most {truth:.4f}", said, value <= truth + ERRORS * error + 1e-12)


def coverage(what: str, covered: Iterable[bool] | npt.NDArray[np.bool_], level: float = 0.95) -> Rate:
    """Intervals that cover the truth as often as they claim, but for chance.

    Fails if so few covered that intervals of that level would cover so rarely less than once in ten thousand times.
    """
    hits = np.asarray(list(covered), dtype=np.bool_)
    if not hits.size:
        return Rate(f"{what}: covered in {level:.0%} or more", "there was nothing to cover", False, "coverage", 0.0, 0)
    rate = float(hits.mean())
    passed = bool(binom.cdf(int(hits.sum()), hits.size, level) > CHANCE)
    said = f"{rate:.1%} of {hits.size}"
    return Rate(f"{what}: covered in {level:.0%} or more", said, passed, "coverage", rate, hits.size)


def too_narrow(what: str, covered: Iterable[bool] | npt.NDArray[np.bool_], level: float = 0.95) -> Check:
    """The contrary of `coverage`, of a naive interval: it must be seen to fail, or the case has no teeth."""
    found = coverage(what, covered, level)
    return Check(f"{what}: naive, covers less than {level:.0%}", found.said, found.of > 0 and not found.passed)


def false_discoveries(what: str, shares: Iterable[float] | npt.NDArray[np.float64], level: float = 0.05) -> Rate:
    """A mean share of false discoveries at most `level`, but for chance (Chernoff's bound for numbers in [0, 1])."""
    found = np.asarray(list(shares), dtype=np.float64)
    if not found.size:
        return Rate(f"{what}: at most {level:.0%}", "there was nothing to discover", False, "fdr", 1.0, 0)
    mean = float(found.mean())
    excess = float(rel_entr(mean, level) + rel_entr(1 - mean, 1 - level))
    passed = mean <= level or found.size * excess < np.log(1 / CHANCE)
    return Rate(f"{what}: at most {level:.0%}", f"{mean:.2%} of {found.size}", bool(passed), "fdr", mean, found.size)


def few_wrong(what: str, wrong: int, of: int, level: float = 0.05) -> Check:
    """No more wrong claims of level `level` among independent ones than chance explains; fails where there are none."""
    passed = of > 0 and binom.sf(wrong - 1, of, level) > CHANCE
    return Check(f"{what}: wrong in at most {100 * level:g}%", f"{wrong} wrong of {of}", bool(passed))


def standard_error(values: npt.NDArray[np.float64]) -> float:
    """Standard error of a mean."""
    return float(np.std(values, ddof=1) / np.sqrt(values.size))


def written(estimate: Estimate) -> str:
    """An estimate for people."""
    if estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
