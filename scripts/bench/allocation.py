"""Adaptive stopping against a fixed 256 attempts: verdicts, errors against the known truth, and attempts made.

Simulated suites of 200 tasks in two arms. The adaptive designs make 16 attempts per task and arm in any case and stop
by the runner's own rule (`testbed.stats.stopping`), at most at 256; their attempts are a prefix of the fixed design's,
as they are in the runner. stop = "verdict" stops at the level of a verdict, "discovery" at a quarter of it, which e-BH
over all tasks needs. Two kinds of suites:

mixed   every verdict occurs. Bare: 35% of tasks at p = 0, 10% small (.0005 to .01), 5% near the threshold (.02 to .1),
        25% middling (.2 to .8), 25% at .9 to 1; tool arm: 20, 5, 5, 35 and 35%.
edge    all tasks within 1% of the threshold, on either side: the hardest there is, where only errors can be made. The
        level of the two sides of a verdict bounds the share of wrong ones.

Usage: python scripts/bench/allocation.py [--suites 200] [--tasks 200] [--elicitation 16] [--seed 0]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from testbed.experiment import STOPS
from testbed.stats import Status, Verdict, Verdicts, accessibility, p_star, verdicts
from testbed.stats.stopping import StoppingRule

MOST, LEAST, RHO, ALPHA = 256, 16, 0.5, 0.05
SHARES = {"bare": (0.35, 0.10, 0.05, 0.25, 0.25), "tool": (0.20, 0.05, 0.05, 0.35, 0.35)}
BANDS = ((0.0, 0.0), (0.0005, 0.01), (0.02, 0.1), (0.2, 0.8), (0.9, 1.0))  # of p; the second and third log-uniform
EDGE = 0.01
FIXED = f"fixed {MOST}"
Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, str, float], Floats]


@dataclass
class Tally:
    """Counts of one design over suites."""

    attempts: int = 0
    undetermined: int = 0
    wrong_sides: int = 0  # task × arm called in or out, and not so
    wrong: int = 0  # verdict settled, but not the truth
    false_expanded: int = 0
    false_lost: int = 0
    discovered: int = 0  # truly expanded tasks that e-BH declares so
    false_discoveries: float = 0.0  # sum over suites of the share of false ones among what e-BH declares expanded

    def add(self, found: Verdicts, truth: npt.NDArray[np.object_], within: list[npt.NDArray[np.bool_]]) -> None:
        """Takes in one suite, with its true verdicts and whether tasks are truly within reach of each arm."""
        for arm, true in zip((found.bare, found.tool), within, strict=True):
            self.wrong_sides += int(np.count_nonzero(arm.status == np.where(true, Status.OUT, Status.IN)))
        verdict, expanded = found.verdict, found.expanded_fdr
        self.attempts += int(found.spent.sum())
        self.undetermined += int(np.count_nonzero(verdict == Verdict.UNDETERMINED))
        self.wrong += int(np.count_nonzero((verdict != Verdict.UNDETERMINED) & (verdict != truth)))
        self.false_expanded += int(np.count_nonzero((verdict == Verdict.EXPANDED) & (truth != Verdict.EXPANDED)))
        self.false_lost += int(np.count_nonzero((verdict == Verdict.LOST) & (truth != Verdict.LOST)))
        self.false_discoveries += np.count_nonzero(expanded & (truth != Verdict.EXPANDED)) / max(expanded.sum(), 1)
        self.discovered += int(np.count_nonzero(expanded & (truth == Verdict.EXPANDED)))


@dataclass
class Result:
    """All designs over the same suites.

    Attributes:
        tasks: tasks of a suite.
        suites: how many.
        tallies: by design, the fixed one first.
        agree: by design, tasks with the fixed design's verdict; undetermined is a verdict.
        found: by true verdict, the tasks that have it, and how many each design settled so.
    """

    tasks: int
    suites: int
    tallies: dict[str, Tally]
    agree: dict[str, int]
    found: dict[str, list[int]]

    def agreement(self, design: str) -> float:
        """Share of tasks with the same verdict as in the fixed design."""
        return self.agree[design] / (self.tasks * self.suites)

    def share(self, design: str) -> float:
        """Attempts per attempt of the fixed design."""
        return self.tallies[design].attempts / self.tallies[FIXED].attempts


def mixed(rng: np.random.Generator, tasks: int, arm: str, threshold: float) -> Floats:
    """Success probabilities of an arm's tasks, from all bands."""
    kind = rng.choice(len(BANDS), tasks, p=SHARES[arm])
    low, high = np.array(BANDS)[kind].T
    place = rng.random(tasks)
    geometric = np.maximum(low, 1e-9) * (high / np.maximum(low, 1e-9)) ** place
    return np.asarray(np.where((kind == 1) | (kind == 2), geometric, low + place * (high - low)))


def edge(rng: np.random.Generator, tasks: int, arm: str, threshold: float) -> Floats:
    """Success probabilities just below and just above the threshold."""
    return np.asarray(threshold * np.where(rng.random(tasks) < 0.5, 1 - EDGE, 1 + EDGE))


def true_verdicts(bare: Floats, tool: Floats, threshold: float) -> npt.NDArray[np.object_]:
    """The verdicts that the probabilities imply."""
    before, after = bare >= threshold, tool >= threshold
    truth = np.full(bare.shape, Verdict.OUT_OF_REACH, dtype=object)
    truth[before & after], truth[~before & after] = Verdict.PRESERVED, Verdict.EXPANDED
    truth[before & ~after] = Verdict.LOST
    return truth


def simulate(draw: Draw = mixed, *, suites: int, tasks: int, elicitation: int, seed: int = 0) -> Result:
    """Runs all designs on the same outcomes."""
    rng = np.random.default_rng(seed)
    rules = {stop: StoppingRule(LEAST, MOST, elicitation, RHO, ALPHA * level) for stop, level in STOPS.items()}
    threshold, designs = float(p_star(RHO, elicitation)), (FIXED, *rules)
    kinds = {v.value: [0] * (1 + len(designs)) for v in Verdict}
    result = Result(tasks, suites, {name: Tally() for name in designs}, dict.fromkeys(designs, 0), kinds)
    for _ in range(suites):
        chances = [draw(rng, tasks, arm, threshold) for arm in SHARES]
        outcomes = [(rng.random((tasks, MOST)) < p[:, None]).astype(np.int8) for p in chances]
        bare, tool = chances
        truth = true_verdicts(bare, tool, threshold)
        made = {FIXED: [np.full(tasks, MOST) for _ in chances]}
        for name, rule in rules.items():
            made[name] = [np.array([rule.blocks(row)[-1] for row in rows]) for rows in outcomes]
        found = {name: _verdicts(outcomes, own, elicitation) for name, own in made.items()}
        for number, (name, one) in enumerate(found.items(), 1):
            result.tallies[name].add(one, truth, [p >= threshold for p in chances])
            result.agree[name] += int(np.count_nonzero(one.verdict == found[FIXED].verdict))
            for kind, counts in kinds.items():
                counts[number] += int(np.count_nonzero((truth == kind) & (one.verdict == kind)))
        for kind, counts in kinds.items():
            counts[0] += int(np.count_nonzero(truth == kind))
    return result


def _verdicts(outcomes: list[npt.NDArray[np.int8]], made: list[npt.NDArray[np.int64]], elicitation: int) -> Verdicts:
    """Verdicts from the first `made` attempts of each task."""
    status = [
        accessibility(n, (rows * (np.arange(MOST) < n[:, None])).sum(axis=1), elicitation, rho=RHO, alpha=ALPHA)
        for rows, n in zip(outcomes, made, strict=True)
    ]
    return verdicts(*status)


def show(name: str, r: Result) -> None:
    """Prints the designs side by side."""
    total, all_ = r.tasks * r.suites, r.tallies.values()
    expanded = max(r.found[Verdict.EXPANDED.value][0], 1)
    rows: dict[str, list[str]] = {
        "attempts per suite": [f"{t.attempts / r.suites:,.0f}" for t in all_],
        "share of the fixed design's attempts": [f"{r.share(design):.3f}" for design in r.tallies],
        "same verdict as in the fixed design": [f"{r.agreement(design):.4f}" for design in r.tallies],
        "undetermined": [f"{t.undetermined / total:.4f}" for t in all_],
        "task x arm wrongly in or out": [f"{t.wrong_sides / total / 2:.5f}" for t in all_],
        "wrong verdicts": [f"{t.wrong / total:.5f}" for t in all_],
        "falsely expanded": [f"{t.false_expanded / total:.5f}" for t in all_],
        "falsely lost": [f"{t.false_lost / total:.5f}" for t in all_],
        "e-BH: found of the truly expanded": [f"{t.discovered / expanded:.4f}" for t in all_],
        "e-BH: false discovery rate of expanded": [f"{t.false_discoveries / r.suites:.5f}" for t in all_],
    }
    for kind, (tasks, *hits) in r.found.items():
        if tasks:
            rows[f"found of the {tasks / total:.0%} truly {kind}"] = [f"{hit / tasks:.4f}" for hit in hits]
    print(f"{name}: {r.suites} suites of {r.tasks} tasks\n{'':42}" + "".join(f"{design:>12}" for design in r.tallies))
    for head, cells in rows.items():
        print(f"{head:42}" + "".join(f"{cell:>12}" for cell in cells))
    print()


def main() -> None:
    """Runs both kinds of suites."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--elicitation", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    begun = time.perf_counter()
    threshold = float(p_star(RHO, asked.elicitation))
    print(f"K = {asked.elicitation}, rho = {RHO}, alpha = {ALPHA}, p* = {threshold:.4f}; shares are of all tasks\n")
    for draw in (mixed, edge):
        show(draw.__name__, simulate(draw, **vars(asked)))
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
