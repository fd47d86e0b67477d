"""Whether repeated attempts of an arm may be taken as independent: what is known, what its author says, what shows.

Of this project's own models it is known: each sample has a random stream of its own. Of a hosted model that was asked
at a temperature above 0 it is taken to be so. Of an agent, or of outcomes that were made elsewhere, nobody knows but
the author, and nothing in the attempts can show it: texts that differ may be one reply with a time or a number in it,
or a greedy model's after other noise; answers that differ may be tries that learn from one another.
So attempts alone never clear an arm whose outcomes repeat. Its author's word does, which the report shows as such,
unless the answers speak against it: where the arm fails, it gives the same wrong answer again and again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from testbed.stats import Repeats

if TYPE_CHECKING:
    from testbed.store import Run, Store

AGENTS_WORD = (
    " If they were, say so: sampled = true in [model], in an experiment of another name, which uses these attempts "
    "again."
)
IMPORTERS_WORD = " If they were, say so: import them with --sampled."
SAME = 0.9  # as with the intraclass correlation: from here each further failure tells a tenth of a new one at most
LEAST_TASKS = 4  # likewise: on fewer, one wrong answer that an able agent is sure of says nothing


@dataclass(frozen=True)
class Drawn:
    """How an arm's repeated attempts at a task were drawn, as far as anybody says.

    Attributes:
        known: whether they are independent in any case: this testbed asked a model at a temperature above 0.
        stated: whether the author states that they are: an agent's ``sampled = true``, an import's ``--sampled``.
        same_answers: chance that two failed attempts at one task gave the same answer, mean over the tasks that have
            two with an answer; None with fewer than 4 such tasks, and where it is known that they are independent.
    """

    known: bool
    stated: bool = False
    same_answers: float | None = None

    def doubted(self, repeats: Repeats) -> bool:
        """Whether the attempts are so alike that somebody must say that they were drawn anew.

        Costs stand for texts there, and answers that differ show that the texts do; outcomes stand for themselves.
        """
        if self.known or not repeats.flagged:
            return False
        return repeats.outcomes_repeat or self.same_answers is None or self.same_answers >= SAME

    def contradicted(self, repeats: Repeats) -> bool:
        """Whether what was recorded speaks against the author's word: answers that repeat, or without any, costs."""
        if self.same_answers is not None:
            return self.same_answers >= SAME
        return repeats.costs_repeat

    def look_like_copies(self, repeats: Repeats) -> bool:
        """Whether nothing may be claimed from several attempts at a task."""
        return self.doubted(repeats) and not (self.stated and not self.contradicted(repeats))


def stated_arms(run: Run) -> frozenset[str]:
    """The arms of which a run's experiment or import states that their attempts are sampled, by name.

    An agent's word is read from the experiment, not from the arm: what an author says of attempts changes none of them.
    """
    if "imported" in run.experiment:
        return frozenset(record.name for record in run.arms if record.spec.get("sampled") is True)
    shared, arms = run.experiment.get("model", {}), run.experiment.get("arm", ())
    return frozenset(arm["name"] for arm in arms if _stated({**_table(shared), **_table(arm.get("model", {}))}))


def _table(model: Any) -> Mapping[str, Any]:
    return model if isinstance(model, Mapping) else {"id": model}


def _stated(model: Mapping[str, Any]) -> bool:
    return model.get("sampled") is True and str(model.get("id", "")).startswith("agent:")


def drawn_arms(store: Store, run: Run) -> dict[str, Drawn]:
    """How the attempts of each arm of a run were drawn, by name."""
    stated = stated_arms(run)
    found = {}
    for record in run.arms:
        known = known_independent(record.spec)
        same = None if known else same_answers(store.failed_answers(run.name, record.name))
        found[record.name] = Drawn(known, record.name in stated, same)
    return found


def known_independent(spec: Mapping[str, Any]) -> bool:
    """Whether an arm's attempts are drawn anew by what it is: a model of this testbed, at a temperature above 0."""
    return bool(spec.get("sampling", {}).get("temperature", 0) > 0)


def same_answers(failures: Iterable[tuple[str, str, int]]) -> float | None:
    """Chance that two failed attempts at one task gave the same answer, mean over tasks; case and spaces are nothing.

    Args:
        failures: task, answer, and how many failed attempts at the task gave it.

    Returns:
        The chance; None where fewer than 4 tasks have two such attempts.
    """
    by_task: dict[str, Counter[str]] = defaultdict(Counter)
    for task, answer, times in failures:
        by_task[task][" ".join(answer.casefold().split())] += times
    pairs = [(sum(n * (n - 1) for n in of.values()), of.total() * (of.total() - 1)) for of in by_task.values()]
    shares = [same / every for same, every in pairs if every]
    return float(np.mean(shares)) if len(shares) >= LEAST_TASKS else None


def repeats_told(whose: str, drawn: Drawn, repeats: Repeats, how_to_say: str = "") -> Iterator[str]:
    """What a reader must know of an arm whose attempts nearly repeat; nothing where it is known that they are drawn.

    Args:
        whose: the arm, such as "Arm 'bare'".
        drawn: how its attempts were drawn.
        repeats: how alike they are.
        how_to_say: how its author can say that they were drawn anew, see `how_to_say`; empty where nobody is heard.
    """
    if not drawn.doubted(repeats):
        return
    head = f"{whose}: repeated attempts at a task are nearly identical ({_signs(drawn, repeats)})."
    if not drawn.stated:
        yield (
            f"{head} If they were not sampled independently, its verdicts and its reach at several attempts claim too "
            f"much.{how_to_say}"
        )
    elif drawn.contradicted(repeats):
        what = "its failures give the same answers again and again" if drawn.same_answers else "their costs repeat"
        yield f"{head} Its author states that each was sampled independently, but {what}: nothing is claimed from it."
    else:
        yield (
            f"{head} Its author states that each was sampled independently: what is claimed from it rests on that "
            "word, which nothing recorded here could prove."
        )


def how_to_say(spec: Mapping[str, Any]) -> str:
    """How the author of an arm gives that word, where anybody but this testbed knows how it drew; else nothing."""
    model = spec.get("model")
    if isinstance(model, Mapping) and model.get("kind") == "agent":
        return AGENTS_WORD
    return IMPORTERS_WORD if spec.get("imported") else ""


def _signs(drawn: Drawn, repeats: Repeats) -> str:
    signs = []
    if repeats.icc is not None:
        signs.append(f"intraclass correlation {repeats.icc:.2f}, {repeats.mixed_tasks} of {repeats.tasks} tasks mixed")
    if repeats.identical_costs is not None:
        signs.append(f"equal costs in {repeats.identical_costs:.0%} of pairs")
    if drawn.same_answers is not None:
        signs.append(f"the same answer in {drawn.same_answers:.0%} of pairs of failures")
    return "; ".join(signs)
