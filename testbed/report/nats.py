"""What re-weighting, the budget and guessing a tool's words each come to, in nats, for arms whose attempts were scored.

The lower end is what re-weighting the bare arm needs at least, kl(p_T ‖ p_0); the upper end is what it takes to guess
all that the tools said. Between them stands what the budget pays for: K attempts, ln K.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from testbed.report.alike import same_model, same_tools
from testbed.report.arms import Arm
from testbed.scoring_alike import known
from testbed.stats import ArmOutcomes, Estimate, cluster_bootstrap, confidence_sequence, least_reweighting
from testbed.stats.energy import bernoulli_kl, best_of_n_kl_bound
from testbed.stats.nats import InteractionNats, interaction_nats
from testbed.types import Control

if TYPE_CHECKING:
    from testbed.report.record import Analysis
    from testbed.stats.stopping import StoppingRule
    from testbed.store import ArmRecord, Run, ScorerRecord, Scores, Store

TOLD = ("tool",)  # roles of what tools said; what a wrong answer is told, the bare arm is told too
IntArray = npt.NDArray[np.int64]


class Words(StrEnum):
    """How guessing what the tools said stands to the budget, as far as intervals and missing attempts allow."""

    NONE = "none"  # nothing was said to an attempt that succeeded
    WITHIN = "within"  # K attempts that guess it are expected to succeed as often as one that is told
    BEYOND = "beyond"  # on average it takes more nats than ln K
    OPEN = "open"


@dataclass(frozen=True)
class ArmNats:
    """One arm against the bare one, in nats.

    Attributes:
        arm: the arm.
        bare: the bare arm.
        tasks: tasks compared.
        needed: kl(p_T ‖ p_0), mean over tasks, at smoothed rates; `low` bounds the true mean, `high` is always None:
            the bare arm's success may be as small as one likes.
        least: lower limit of that mean however missing attempts had ended; None without one.
        beyond: tasks that need more, all of them at once at the report's level, however missing attempts had ended.
        attempts: K, the bare attempts that the budget allows.
        budget: ln K.
        paid: ln K − (K − 1)/K, the most that the best of K attempts spends of it.
        scorer: the model that the tools' words were read by.
        own: whether it is the one that the attempts were made by.
        alike: whether the bare arm's model is the arm's.
        told: what the tools said in successful attempts, and the success that guessing it has.
        words: how that stands to the budget.
        calls: results that a successful attempt was shown, on average; None without any.
        scored: attempts of the arm that were scored.
        unscored: complete attempts that were not.
        missing: attempts of both arms that the infrastructure ended.
        imagined: the arm of the same model and tools that writes their results itself; "" where there is none.
    """

    arm: str
    bare: str
    tasks: int
    needed: Estimate
    least: float | None
    beyond: int
    attempts: int
    budget: float
    paid: float
    scorer: str
    own: bool
    alike: bool
    told: InteractionNats
    words: Words
    calls: float | None
    scored: int
    unscored: int
    missing: int
    imagined: str = ""

    @property
    def more(self) -> bool:
        """Whether re-weighting needs more than K attempts spend, mean over tasks."""
        return self.least is not None and self.least > self.paid


def with_nats(
    store: Store, run: Run, analysis: Analysis, arms: Sequence[Arm], rules: Mapping[str, StoppingRule]
) -> Analysis:
    """The analysis with the figures of every live arm whose attempts were scored.

    Args:
        store: where the scores are.
        run: the run.
        analysis: what is known of it.
        arms: its arms with their attempts.
        rules: of arms whose sampling stopped early, by name: only the attempts fixed in advance are read.
    """
    scorers = store.scores.scorers(run.name)
    by_name = {arm.name: arm for arm in arms}
    claimed = [c for c in analysis.comparisons if c.full is not None and c.arm in by_name and c.bare in by_name]
    hashes = [task.hash for task in store.tasks(run.name)] if scorers else []
    found = []
    for comparison in claimed if scorers else ():
        position = next(n for n, record in enumerate(run.arms) if record.name == comparison.arm)
        record = run.arms[position]
        if record.spec.get("control") != Control.LIVE or not record.spec.get("tools"):
            continue
        arm, bare = by_name[comparison.arm], by_name[comparison.bare]
        rule = rules.get(record.name)
        for hash_ in _own_first(record, scorers):
            scores, own = store.scores.of(run.name, hash_), _is_own(record, scorers[hash_])
            rows = (scores.arm == position) & (scores.success >= 0)
            if rule is not None:
                rows &= scores.sample < rule.least
            if rows.any():
                read = Told.of(scores, rows, hashes, arm, scorers[hash_].name, own)
                found.append(replace(arm_nats(bare, arm, read, analysis), imagined=_imagined(arm, arms)))
                break
    return replace(analysis, nats=tuple(found))


def _own_first(record: ArmRecord, scorers: Mapping[str, ScorerRecord]) -> list[str]:
    """The scorers of a run, that of the arm's own model first, in full precision before others."""
    return sorted(
        scorers,
        key=lambda h: (not _is_own(record, scorers[h]), scorers[h].fingerprint.get("dtype") != "float32", h),
    )


def _is_own(record: ArmRecord, scorer: ScorerRecord) -> bool:
    return known(record.spec.get("model") or {}) == known(scorer.fingerprint)


def _imagined(arm: Arm, arms: Sequence[Arm]) -> str:
    alike = (a for a in arms if a.control == Control.IMAGINED and same_model(a, arm) and same_tools(a, arm))
    return next((a.name for a in alike), "")


@dataclass(frozen=True, eq=False)
class Told:
    """What a scorer read of an arm's attempts, as rows of attempts: task, success, nats and results shown.

    Attributes:
        unread: successful attempts without a score, by task.
        failed: failed attempts without one, by task.
    """

    scorer: str
    own: bool
    tasks: list[str]
    won: npt.NDArray[np.bool_]
    nats: npt.NDArray[np.float64]
    results: IntArray
    unread: Mapping[str, int]
    failed: Mapping[str, int]

    @classmethod
    def of(
        cls, scores: Scores, rows: npt.NDArray[np.bool_], hashes: Sequence[str], arm: Arm, scorer: str, own: bool
    ) -> Told:
        """What was read of the attempts in `rows`, at tasks of these `hashes`."""
        tasks, won = [hashes[task] for task in scores.task[rows]], scores.success[rows] == 1
        made = Counter(tasks)
        wins = Counter(task for task, one in zip(tasks, won.tolist(), strict=True) if one)
        counts = list(zip(arm.outcomes.tasks, arm.outcomes.n.tolist(), arm.outcomes.c.tolist(), strict=True))
        return cls(
            scorer=scorer,
            own=own,
            tasks=tasks,
            won=won,
            nats=scores.nats_of(*TOLD)[rows],
            results=scores.messages_of(*TOLD)[rows],
            unread={task: max(0, c - wins[task]) for task, _, c in counts},
            failed={task: max(0, n - c - made[task] + wins[task]) for task, n, c in counts},
        )

    def told(self, options: Mapping[str, Any], more: Sequence[tuple[Mapping[str, int], bool]]) -> InteractionNats:
        """Interaction nats with further attempts, by task, that were told nothing and succeeded or failed."""
        tasks, won = list(self.tasks), self.won.tolist()
        for counts, succeeded in more:
            added = [task for task, count in counts.items() for _ in range(count)]
            tasks += added
            won += [succeeded] * len(added)
        return interaction_nats(tasks, won, [*self.nats.tolist(), *[0.0] * (len(tasks) - self.nats.size)], **options)


def arm_nats(bare: Arm, arm: Arm, read: Told, analysis: Analysis) -> ArmNats:
    """The figures of an arm."""
    s = analysis.settings
    common = [task for task in bare.scored.tasks if task in set(arm.scored.tasks)]
    options = {"clusters": bare.clusters, "alpha": s.alpha, "replicates": s.replicates, "seed": s.seed}
    least = least_reweighting(bare.on(common), arm.on(common), **options)  # type: ignore[arg-type]
    attempted = [task for task in bare.outcomes.tasks if task in set(arm.outcomes.tasks)]
    before, after = (one.on(attempted, unscored=True) for one in (bare, arm))
    worst = (before.with_missing(succeed=True), after.with_missing(succeed=False))
    missing = int(before.missing.sum() + after.missing.sum())
    mean_low = least_reweighting(*worst, **options).mean_low if missing else least.mean_low  # type: ignore[arg-type]
    paid = float(best_of_n_kl_bound(s.elicitation))
    calls = read.results[read.won]
    return ArmNats(
        arm=arm.name,
        bare=bare.name,
        tasks=len(common),
        needed=Estimate(least.mean, least.mean_low, None),
        least=mean_low,
        beyond=tasks_beyond(*worst, paid, s.alpha),
        attempts=s.elicitation,
        budget=math.log(s.elicitation),
        paid=paid,
        scorer=read.scorer,
        own=read.own,
        alike=same_model(bare, arm),
        told=read.told(options, [(read.failed, False)]),
        words=_words(arm, read, options, s.elicitation),
        calls=float(calls.mean()) if calls.size else None,
        scored=len(read.tasks),
        unscored=sum(read.unread.values()) + sum(read.failed.values()),
        missing=missing,
    )


def tasks_beyond(bare: ArmOutcomes, arm: ArmOutcomes, paid: float, alpha: float) -> int:
    """Tasks that need more than is paid; that any is counted wrongly has at most probability `alpha`."""
    share = alpha / (2 * len(bare.tasks))
    chance = confidence_sequence(bare.n, bare.c, share, where=bare.where)[1]
    reached = confidence_sequence(arm.n, arm.c, share, where=arm.where)[0]
    return int(np.count_nonzero(bernoulli_kl(np.maximum(reached, chance), chance) > paid))


def _words(arm: Arm, read: Told, options: Mapping[str, Any], attempts: int) -> Words:
    """How guessing the tools' words stands to the budget.

    Attempts of which it is not known what they were told count against either claim: as none that could be guessed, and
    as successes that were told nothing.
    """
    lost = dict(zip(arm.outcomes.tasks, arm.outcomes.missing.tolist(), strict=True))
    if not read.won.any():
        return Words.OPEN
    if not read.results[read.won].any() and not any((*lost.values(), *read.unread.values())):
        return Words.NONE
    guessed = read.told(options, [(read.failed, False), (read.unread, False), (lost, False)]).guessed
    least = read.told(options, [(read.failed, False), (read.unread, True), (lost, True)]).mean.low
    reached = _most(arm, options)
    if guessed.low is not None and reached is not None and attempts * guessed.low > reached:
        return Words.WITHIN
    return Words.BEYOND if least is not None and least > math.log(attempts) else Words.OPEN


def _most(arm: Arm, options: Mapping[str, Any]) -> float | None:
    """Upper limit of the arm's success, mean over tasks, as if missing attempts had succeeded."""
    full = arm.outcomes.with_missing(succeed=True)
    labels = arm.labels(full.tasks)
    found = cluster_bootstrap(
        full.c / full.n, clusters=labels, replicates=options["replicates"], seed=options["seed"]
    ).intervals(options["alpha"])
    return found[0].high
