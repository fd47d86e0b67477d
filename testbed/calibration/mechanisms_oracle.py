"""An oracle that tells m bits: success is 2^m times that of guessing, and verdicts flip where the budget says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import rel_entr
from scipy.stats import binom

from testbed.calibration import vaults
from testbed.calibration.case import Check, Size
from testbed.calibration.expect import CHANCE, few_wrong, near, that
from testbed.calibration.instrument import Examination, examine_closely
from testbed.calibration.mechanisms_shared import (
    ALPHA,
    experiment,
    figures,
    first_text,
    playing,
    results_of,
    said_of,
    tool_named,
)
from testbed.models.base import Request
from testbed.protocol import write_answer, write_call
from testbed.report.analyse import Analysis, analyse
from testbed.stats import Verdict
from testbed.stats.energy import success_ceiling

TOOL = "calibration_oracle"
BITS = range(2, 17)
LEFT = 2  # digits that stay to be guessed where the slope is measured, whatever the oracle tells
KINDS = (
    *((m + LEFT, m) for m in BITS),  # equal success with the tool, ever harder without: the slope
    *((16, m) for m in (2, 10, 12, 13, 15, 16)),  # equally hard without: where does the oracle tell enough?
    (4, 4),  # easy enough for resampling, if it may take its time
)
FLIPPED = ((16, 14), (4, 4))  # two kinds that must change their verdict with the budget


def safe_cracker(request: Request, rng: np.random.Generator) -> str:
    """Asks the oracle, if there is one, and guesses the digits that it was not told."""
    found = re.search(r"Vault (\S+) has a code of (\d+) binary digits", first_text(request.messages))
    assert found is not None
    told = results_of(request.messages)
    if request.tools and not told:
        return write_call(tool_named(request.tools), {"vault": found[1]})
    known = re.search(r"begins with ([01]*)", told[-1]) if told else None
    begin = known[1] if known else ""
    rest = rng.integers(0, 2, max(0, int(found[2]) - len(begin)))
    return write_answer(begin + "".join(map(str, rest)))


@dataclass(frozen=True)
class OracleBits:
    """A tool that tells m of the D binary digits of a code, m = 2…16.

    Attributes:
        extra: digits that the oracle tells beyond what it says; the case must fail with any.
        kinds: (digits, told) of the vaults; those of `FLIPPED` must be among them.
    """

    extra: int = 0
    kinds: tuple[tuple[int, int], ...] = KINDS
    name: ClassVar[str] = "oracle-bits"
    truth: ClassVar[str] = "p = 2^(m−D) with m of D digits told, 2^−D bare; a task flips where that crosses p*"

    def run(self, size: Size, seed: int) -> list[Check]:
        """See `testbed.calibration.case.Case.run`."""
        samples = 4 * size.attempts
        examined = examine_closely(
            experiment(
                self.name,
                seed,
                {
                    "id": "CalibrationVaults-v0",
                    "digits": [digits for digits, _ in self.kinds],
                    "told": [told for _, told in self.kinds],
                    "vaults": max(1, size.tasks // 40),
                    "seed": seed,
                },
                [{"name": "bare"}, {"name": "oracle", "tools": [TOOL]}],
                samples=samples,
                elicitation=16,
                tool={TOOL: {"seed": seed, "extra": self.extra}},
            ),
            models=playing(safe_cracker),
            plugins=[vaults],
        )
        readings = {
            "ρ = ½ at B = 1": (0.5, 1),
            "ρ = ½ at B = 16": (0.5, 16),
            "ρ = .99999 at B = 16": (0.99999, 16),
            "ρ = ½ at many B": (0.5, 3 * samples // 4),
        }
        read = {label: _read(examined, rho, budget) for label, (rho, budget) in readings.items()}
        return [
            _slope(examined.analysis),
            _rates("bare: 2^−D", examined.analysis, "bare", len(self.kinds)),
            _rates("oracle: 2^m · 2^−D", examined.analysis, "oracle", len(self.kinds)),
            _ceiling(examined.analysis),
            *(_verdicts(label, read[label], *readings[label]) for label in readings),
            *_flips(read),
        ]


def _read(examined: Examination, rho: float, budget: int) -> Analysis:
    """The attempts read at another ρ and B than the experiment's."""
    if (rho, budget) == (examined.analysis.settings.rho, examined.analysis.settings.elicitation):
        return examined.analysis
    return analyse(examined.outcomes, name=OracleBits.name, elicitation=budget, rho=rho, alpha=ALPHA, replicates=1000)


def _counts(analysis: Analysis, arm: str) -> Iterator[tuple[int, int, int, int]]:
    """Digits, digits told, successes and attempts of every kind of vault."""
    for group in analysis.groups:
        found = re.fullmatch(r"(\d+) of (\d+) digits told", group.label)
        if found is not None:
            own = next(each for each in group.arms if each.arm == arm)
            rate = own.pass_1.value
            assert rate is not None
            yield int(found[2]), int(found[1]), round(rate * own.attempts), own.attempts


def _chance(digits: int, told: int, arm: str) -> float:
    return 2.0 ** ((told if arm == "oracle" else 0) - digits)


def _rates(what: str, analysis: Analysis, arm: str, kinds: int) -> Check:
    """Successes of every kind of vault lie where those of its chance do, but once in ten thousand times."""
    off, seen = [], 0
    for digits, told, successes, attempts in _counts(analysis, arm):
        seen += 1
        p, share = _chance(digits, told, arm), CHANCE / (2 * kinds)
        if min(binom.cdf(successes, attempts, p), binom.sf(successes - 1, attempts, p)) < share:
            off.append(f"{told} of {digits}: {successes}/{attempts}, not {p * attempts:.1f}")
    return that(f"success, {what}", "; ".join(off) or f"so in {seen} kinds of vault", seen == kinds and not off)


def _slope(analysis: Analysis) -> Check:
    """Bits of success gained over guessing, per bit told: by least squares, each point weighed by its precision."""
    points = [row for row in _counts(analysis, "oracle") if row[0] - row[1] == LEFT and row[2]]
    bits = np.array([told for _, told, _, _ in points], dtype=np.float64)
    rates = np.array([successes / attempts for _, _, successes, attempts in points])
    gained = np.log2(rates) + np.array([digits for digits, _, _, _ in points])
    attempts = np.array([attempts for _, _, _, attempts in points])
    # The delta method at the rate of all points together: at its own, a lucky point would weigh more.
    variance = (1 - rates.mean()) / (rates.mean() * attempts) / math.log(2) ** 2
    weights = 1 / variance
    centre = float(np.average(bits, weights=weights))
    spread = float(np.sum(weights * (bits - centre) ** 2))
    slope = float(np.sum(weights * (bits - centre) * gained)) / spread
    return near(f"bits of success per bit told, m = {bits.min():.0f}…{bits.max():.0f}", slope, 1.0, spread**-0.5)


def _ceiling(analysis: Analysis) -> Check:
    """No kind of vault succeeds more often than its ceiling; and each ceiling is what the guesser should attain."""
    above, loose = [], []
    for digits, told, successes, attempts in _counts(analysis, "oracle"):
        limit = float(success_ceiling(2.0**-digits, told))
        if binom.sf(successes - 1, attempts, limit) < CHANCE / len(BITS):
            above.append(f"{told} of {digits}: {successes}/{attempts} above {limit:.4g}")
        if not math.isclose(limit, _chance(digits, told, "oracle")):
            loose.append(f"{told} of {digits}: {limit:.4g}")
    said = "; ".join([*above, *(f"another ceiling, {text}" for text in loose)])
    return that("success_ceiling(2^−D, m) is 2^(m−D) and never exceeded", said or "never exceeded", not said)


def _verdicts(label: str, analysis: Analysis, rho: float, budget: int) -> Check:
    """No more verdicts are wrong than their level allows, and what so many attempts can settle is settled."""
    threshold = 1 - (1 - rho) ** (1 / budget)
    wrong = given = owed = settled = 0
    for group in analysis.groups:
        found = re.fullmatch(r"(\d+) of (\d+) digits told", group.label)
        if found is None:
            continue
        chances = [_chance(int(found[2]), int(found[1]), arm) for arm in ("bare", "oracle")]
        attempts = group.effects[0].bare_attempts
        must = all(_settles(p, threshold, attempts) for p in chances)
        true = _VERDICTS[chances[0] >= threshold, chances[1] >= threshold]
        counts = group.effects[0].verdicts
        decided = group.tasks - counts[Verdict.UNDETERMINED]
        wrong, given = wrong + decided - counts[true], given + decided
        owed, settled = owed + must * group.tasks, settled + must * counts[true]
    said = f"{said_of(figures(analysis, 'oracle').verdicts.counts)}; {wrong} of {given} wrong; {settled} of {owed} owed"
    few = few_wrong(label, wrong, given, ALPHA).passed
    return that(f"verdicts for {label}, p* = {threshold:.3g}", said, few and owed and settled >= 0.9 * owed)


_VERDICTS = {
    (True, True): Verdict.PRESERVED,
    (False, True): Verdict.EXPANDED,
    (True, False): Verdict.LOST,
    (False, False): Verdict.OUT_OF_REACH,
}


def _settles(p: float, threshold: float, n: int) -> bool:
    """Whether n attempts should settle on which side of the threshold p lies, unless they come out 2 sd unlucky.

    The log e-value grows like n·kl(p‖p*) − ½ ln(πn).
    """
    drift = n * float(rel_entr(p, threshold) + rel_entr(1 - p, 1 - threshold)) - 0.5 * math.log(math.pi * n)
    if 0 < p < 1:
        steepness = abs(math.log(p / (1 - p)) - math.log(threshold / (1 - threshold)))
        drift -= 2 * math.sqrt(n * p * (1 - p)) * steepness
    return drift >= math.log(1 / ALPHA)


def _flips(read: dict[str, Analysis]) -> Iterator[Check]:
    """The same attempts, read at two budgets."""
    first, middle, _, last = read
    cases = (
        (first, Verdict.OUT_OF_REACH, middle, Verdict.EXPANDED),
        (first, Verdict.EXPANDED, last, Verdict.PRESERVED),
    )
    for (digits, told), (one, before, other, after) in zip(FLIPPED, cases, strict=True):
        label = f"{told} of {digits} digits told"
        counts = [
            next(group for group in read[at].groups if group.label == label).effects[0].verdicts for at in (one, other)
        ]
        said = f"{said_of(counts[0])} → {said_of(counts[1])}"
        flipped = all(sum(c.values()) == c[v] for c, v in zip(counts, (before, after), strict=True))
        yield that(f"{label}: {before} for {one}, {after} for {other}", said, flipped)
