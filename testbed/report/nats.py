"""What re-weighting, the budget and guessing a tool's words each come to, in nats, for arms whose attempts were scored.

The lower end is what re-weighting the bare arm needs at least, kl(p_T ‖ p_0); the upper end is what it takes to guess
all that the tools said. Between them stands what the budget pays for: K attempts, ln K.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from testbed.report.arms import Arm
from testbed.scoring import known
from testbed.stats import Estimate, least_reweighting
from testbed.stats.energy import best_of_n_kl_bound
from testbed.stats.nats import InteractionNats, interaction_nats
from testbed.types import Control

if TYPE_CHECKING:
    from testbed.report.record import Analysis
    from testbed.stats.stopping import StoppingRule
    from testbed.store import ArmRecord, Run, ScorerRecord, Store

TOLD = ("tool", "feedback")  # roles of messages that come from outside


@dataclass(frozen=True)
class ArmNats:
    """One arm against the bare one, in nats.

    Attributes:
        arm: the arm.
        bare: the bare arm.
        tasks: tasks compared.
        needed: kl(p_T ‖ p_0), mean over tasks, at smoothed rates; `low` bounds the true mean, `high` is always None:
            the bare arm's success may be as small as one likes.
        beyond: tasks whose own lower limit is beyond what K attempts pay for.
        attempts: K, the bare attempts that the budget allows.
        budget: ln K.
        paid: ln K − (K − 1)/K, the most that the best of K attempts spends of it.
        scorer: the model that the tools' words were read by.
        own: whether it is the one that the attempts were made by.
        told: what the tools said in successful attempts, and the success that guessing it has.
        calls: results that a successful attempt was shown, on average; None without any.
        scored: attempts of the arm that were scored.
        unscored: complete attempts that were not.
    """

    arm: str
    bare: str
    tasks: int
    needed: Estimate
    beyond: int
    attempts: int
    budget: float
    paid: float
    scorer: str
    own: bool
    told: InteractionNats
    calls: float | None
    scored: int
    unscored: int


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
    found = []
    for comparison in claimed if scorers else ():
        position = next(n for n, record in enumerate(run.arms) if record.name == comparison.arm)
        record = run.arms[position]
        if record.spec.get("control") != Control.LIVE or not record.spec.get("tools"):
            continue
        arm, bare = by_name[comparison.arm], by_name[comparison.bare]
        rule = rules.get(record.name)
        for hash_ in _own_first(record, scorers):
            made = _of_arm(store, run, hash_, position, bare, arm, analysis, rule.least if rule else None)
            if made is not None:
                found.append(replace(made, scorer=scorers[hash_].name, own=_is_own(record, scorers[hash_])))
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


def _of_arm(
    store: Store, run: Run, scorer: str, position: int, bare: Arm, arm: Arm, analysis: Analysis, fixed: int | None
) -> ArmNats | None:
    """The figures by one scorer; None where it read no attempt of the arm."""
    s, scores = analysis.settings, store.scores.of(run.name, scorer)
    rows = (scores.arm == position) & (scores.success >= 0)
    if fixed is not None:
        rows &= scores.sample < fixed
    if not rows.any():
        return None
    common = [task for task in bare.scored.tasks if task in set(arm.scored.tasks)]
    options = {"clusters": bare.clusters, "alpha": s.alpha, "replicates": s.replicates, "seed": s.seed}
    least = least_reweighting(bare.on(common), arm.on(common), **options)  # type: ignore[arg-type]
    hashes = [task.hash for task in store.tasks(run.name)]
    won = scores.success[rows] == 1
    told = interaction_nats(
        [hashes[task] for task in scores.task[rows]],
        won,
        scores.nats_of(*TOLD)[rows],
        **options,  # type: ignore[arg-type]
    )
    calls = scores.messages_of(*TOLD)[rows][won]
    paid = float(best_of_n_kl_bound(s.elicitation))
    return ArmNats(
        arm=arm.name,
        bare=bare.name,
        tasks=len(common),
        needed=Estimate(least.mean, least.mean_low, None),
        beyond=int(np.count_nonzero(least.low > paid)),
        attempts=s.elicitation,
        budget=math.log(s.elicitation),
        paid=paid,
        scorer="",
        own=False,
        told=told,
        calls=float(calls.mean()) if calls.size else None,
        scored=int(np.count_nonzero(rows)),
        unscored=int(arm.outcomes.n.sum()) - int(np.count_nonzero(rows)),
    )
