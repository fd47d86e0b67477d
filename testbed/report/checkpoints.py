"""Arms of different checkpoints: how far one's attempts lie from the other, and what the other would have written.

Read off the attempts of the arm whose model is not the bare one's, scored by its own model and by the bare arm's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from testbed.report.arms import Arm
from testbed.report.checkpoint_rows import Rows, is_plain, samples_itself, scores_by
from testbed.stats import Estimate, Verdict, least_reweighting, p_star
from testbed.stats.sequence_kl import Affordable, SequenceKL, affordable, sequence_kl
from testbed.types import Control

if TYPE_CHECKING:
    from testbed.report.record import Analysis, ArmComparison
    from testbed.stats.stopping import StoppingRule
    from testbed.store import ArmRecord, Outcomes, Run, Scores, Store

_CONDITIONS = ("sampling", "tools", "control", "budget", "protocol", "lookahead")  # of an arm, besides its model


@dataclass(frozen=True)
class Checkpoint:
    """An arm's checkpoint against the bare arm's.

    Attributes:
        arm: the arm.
        bare: the bare arm.
        alike: whether the two arms differ in nothing but the model, and offer no tools: then what the bare arm's model
            gives a text is how often the bare arm writes it. Else it is read under the other arm's conditions.
        attempts: K, the bare attempts that the budget affords.
        budget: ln K.
        wanted: arguments of `testbed` that score what has no scores yet; the figures below are then None.
        scored: attempts that both models scored.
        unscored: complete attempts that not both scored.
        respelled: scored attempts whose text the tokenizer splits otherwise than it was sampled.
        kl: of whole attempts, arm's model from the bare one's; None where `no_kl` says why.
        no_kl: why there is none.
        beside: the arm that runs the bare arm's model under the arm's own conditions, whose success `needed` is held
            against; "" where the run has none. Of arms without tools that differ in the model alone: the bare one.
        needed: kl of success, mean over tasks at smoothed rates, with the lower limit of the true mean: no policy that
            succeeds as often is nearer to `beside`. None without such an arm: what tools add is no part of the KL.
        affordable: successful attempts that K of the bare arm's model would have written; None where `no_share` says
            why.
        no_share: why there are none.
        expanded: tasks whose verdict is expanded; None where there are no verdicts.
        contradicted: those of them with a successful attempt whose very text the bare arm's model writes so often that
            the task is within its reach: as many verdicts are wrong. None where the arms are not `alike`.
    """

    arm: str
    bare: str
    alike: bool
    attempts: int
    budget: float
    wanted: tuple[str, ...] = ()
    scored: int = 0
    unscored: int = 0
    respelled: int = 0
    kl: SequenceKL | None = None
    no_kl: str = ""
    beside: str = ""
    needed: Estimate | None = None
    affordable: Affordable | None = None
    no_share: str = ""
    expanded: int | None = None
    contradicted: int | None = None


def with_checkpoints(
    store: Store,
    run: Run,
    analysis: Analysis,
    arms: Sequence[Arm],
    outcomes: Outcomes,
    rules: Mapping[str, StoppingRule],
    option: str = "",
) -> Analysis:
    """The analysis with the figures of every arm of another local checkpoint than the bare one's.

    Args:
        store: where the scores are.
        run: the run.
        analysis: what is known of it.
        arms: its arms with their attempts.
        outcomes: its attempts.
        rules: of arms whose sampling stopped early, by name: only the attempts fixed in advance are read.
        option: of the commands that score what has no scores, such as " --store results.sqlite".
    """
    records = {record.name: record for record in run.arms}
    by_name = {arm.name: arm for arm in arms}
    pairs = [c for c in analysis.comparisons if c.tasks and _are_checkpoints(records[c.bare], records[c.arm])]
    if not pairs:
        return analysis
    scorers = store.scores.scorers(run.name)
    found = []
    for comparison in pairs:
        bare, record = records[comparison.bare], records[comparison.arm]
        position = run.arms.index(record)
        models = record.spec["model"], _as_read(bare, record)
        known_by = [scores_by(store, run, model, scorers, position) for model in models]
        made = Checkpoint(
            arm=record.name,
            bare=bare.name,
            alike=not record.spec.get("tools") and _same_conditions(bare, record),
            attempts=analysis.settings.elicitation,
            budget=math.log(analysis.settings.elicitation),
            beside=_beside(bare, record, [bare, *(records[arm.name] for arm in arms)]),
            wanted=tuple(f"{arguments}{option}" for arguments in _wanted(run, record, bare, known_by)),
        )
        own, base = known_by
        if own is not None and base is not None:
            rule = rules.get(record.name)
            rows = Rows.of(own, base, position, rule.least if rule else None)
            hashes = [task.hash for task in outcomes.tasks]
            two = (by_name[bare.name], by_name[record.name])
            made = _read(made, rows, hashes, analysis, comparison, two, (bare, record))
            if made.beside:
                made = replace(made, needed=_needed(analysis, by_name[made.beside], two[1]))
            made = replace(made, respelled=rows.respelled(outcomes))
        found.append(made)
    return replace(analysis, checkpoints=tuple(found))


def _are_checkpoints(bare: ArmRecord, arm: ArmRecord) -> bool:
    """Whether both arms' models are local ones of different weights, and the arm's attempts plain conversations."""
    one = bare.spec.get("model")
    if not isinstance(one, Mapping) or one.get("kind") != "hf":
        return False
    return is_plain(arm) and one.get("weights") != arm.spec["model"].get("weights")


def _same_conditions(one: ArmRecord, other: ArmRecord) -> bool:
    """Whether all that two arms' models are given is the same, the system text included."""
    same = all(one.spec.get(key) == other.spec.get(key) for key in _CONDITIONS)
    return same and one.spec["model"].get("system") == other.spec["model"].get("system")


def _as_read(bare: ArmRecord, arm: ArmRecord) -> Mapping[str, Any]:
    """The bare arm's model as it reads an arm's attempts: `testbed nats --by hf:…` gives it the arm's system text."""
    model: Mapping[str, Any] = bare.spec["model"]
    own = {"system": arm.spec["model"].get("system")}
    return {**model, **own} if str(bare.spec.get("name", "")).startswith("hf:") else model


def _beside(bare: ArmRecord, arm: ArmRecord, records: Sequence[ArmRecord]) -> str:
    """The arm of the bare arm's model under an arm's conditions; "" where there is none.

    Yoked arms replay results of live arms of their own, so that the tools of two have not the same law.
    """
    if arm.spec.get("control") == Control.YOKED:
        return ""
    same = (one.name for one in records if one.spec.get("model") == bare.spec.get("model"))
    by_name = {one.name: one for one in records}
    return next((name for name in same if _same_conditions(by_name[name], arm)), "")


def _wanted(run: Run, arm: ArmRecord, bare: ArmRecord, known_by: Sequence[Scores | None]) -> Iterator[str]:
    own, base = known_by
    if own is None:
        yield f"nats {run.name} --arm {arm.name}"
    if base is None:
        yield f"nats {run.name} --arm {arm.name} --by {bare.spec.get('name', 'MODEL')}"


def _read(
    made: Checkpoint,
    rows: Rows,
    hashes: Sequence[str],
    analysis: Analysis,
    comparison: ArmComparison,
    arms: tuple[Arm, Arm],
    records: tuple[ArmRecord, ArmRecord],
) -> Checkpoint:
    """The figures of the attempts in `rows`; `arms` and `records` are the bare one and the other."""
    s, (bare, arm) = analysis.settings, arms
    options = _options(analysis, bare)
    no_kl, no_share = _not_comparable(*records)
    tasks = [hashes[task] for task in rows.task]
    if not rows.alike:
        no_kl = no_kl or "the two models' tokenizers split its texts differently, so that their tokens do not compare"
    if not tasks:
        no_kl = no_share = "no attempt has scores by both models"
    expanded = _expanded(comparison)
    likely = rows.won & (rows.base <= -math.log(float(p_star(s.rho, s.elicitation))))
    shown = {tasks[n] for n in np.flatnonzero(likely)}
    return replace(
        made,
        scored=len(tasks),
        unscored=int(arm.outcomes.n.sum()) - len(tasks),
        kl=None if no_kl else sequence_kl(tasks, rows.own, rows.base, **options),
        no_kl=no_kl,
        affordable=None if no_share else affordable(tasks, rows.won, rows.base, s.elicitation, **options),
        no_share=no_share,
        expanded=None if expanded is None else len(expanded),
        contradicted=None if expanded is None or no_share or not made.alike else len(expanded & shown),
    )


def _needed(analysis: Analysis, beside: Arm, arm: Arm) -> Estimate | None:
    """What re-weighting one arm takes at the least to succeed as often as another; None without a common task."""
    common = [task for task in beside.scored.tasks if task in set(arm.scored.tasks)]
    if not common:
        return None
    least = least_reweighting(beside.on(common), arm.on(common), **_options(analysis, beside))
    return Estimate(least.mean, least.mean_low, None)


def _options(analysis: Analysis, arm: Arm) -> dict[str, Any]:
    s = analysis.settings
    return {"clusters": arm.clusters, "alpha": s.alpha, "replicates": s.replicates, "seed": s.seed}


def _expanded(comparison: ArmComparison) -> set[str] | None:
    if comparison.full is None:
        return None
    figures = comparison.full.figures
    judged = zip(figures.tasks, figures.verdicts.verdict, strict=True)
    return {task for task, verdict in judged if verdict == Verdict.EXPANDED}


def _not_comparable(bare: ArmRecord, arm: ArmRecord) -> tuple[str, str]:
    """Why there is no KL, and why no share; empty where there are."""
    no_kl = no_share = ""
    if not samples_itself(arm):
        no_kl = f"{arm.name} was not sampled at temperature 1 from all tokens: what wrote its attempts is not its model"
    if not samples_itself(bare):
        no_share = (
            f"{bare.name} was not sampled at temperature 1 from all tokens: how often it writes a text is unknown"
        )
    return no_kl, no_share
