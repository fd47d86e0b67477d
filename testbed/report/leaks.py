"""The guard against leaks: which attempts were shown their question together with its answer by a tool.

Read from the stored transcripts, one at a time. The references are compared here, on the host, and stand in nothing
that is shown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from testbed.overlap import Question, answers, questions, results
from testbed.replay import Exchange, exchanges
from testbed.store import Outcomes, Run, Store
from testbed.types import Control, Message, Task

_CALLED = b'"role":"tool"'  # as canonical JSON has it
CODE = "code"  # the argument of tools that run programs
LABELS = 0.1  # answers that more of an environment's tasks share are labels: yes and no, A to D, true and false
FEW = 10  # tasks that may share an answer in any case


@dataclass
class Found:
    """What the guard saw.

    Attributes:
        tasks: hashes of the tasks with a flagged attempt.
        by_arm: flagged attempts by name of the arm.
        read: attempts with tool results at tasks whose answer is known.
        overlap: the largest overlap of a flagged attempt.
        attempt: its id.
        arm: its arm.
        task: its task.
    """

    tasks: set[str] = field(default_factory=set)
    by_arm: Counter[str] = field(default_factory=Counter)
    read: int = 0
    overlap: float = 0.0
    attempt: str = ""
    arm: str = ""
    task: str = ""


def find_leaks(store: Store, run: Run, tasks: Sequence[Task]) -> Found:
    """Looks through the tool results of every attempt of a run; arms without tools are not read.

    Takes about as long as reading the transcripts, and the memory of one of them.

    Args:
        store: where they are.
        run: the run.
        tasks: its tasks.
    """
    found = Found()
    # What an imagined tool says, the model said.
    armed = [a.name for a in run.arms if a.spec.get("tools") and a.spec.get("control") != Control.IMAGINED]
    asked = sought(tasks) if armed else {}
    for arm in armed:
        of_task, known = "", dict[str, float]()
        for text in store.transcripts(run.name, arm):
            if (question := asked.get(text.task)) is None or _CALLED not in text.text:
                continue
            if text.task != of_task:  # attempts at a task come together, and many were shown the same
                of_task, known = text.task, {}
            transcript: list[Message] = json.loads(text.text.decode("utf-8", "surrogatepass"))
            found.read += 1
            shown = "\n".join(results(transcript))
            if shown not in known:
                known[shown] = question.flagged(shown)
            if known[shown] and (overlap := overlap_shown(question, transcript)):
                found.tasks.add(text.task)
                found.by_arm[arm] += 1
                if overlap > found.overlap:
                    found.overlap, found.attempt, found.arm, found.task = overlap, text.id, arm, text.task
    return found


def overlap_shown(question: Question, transcript: Sequence[Message]) -> float:
    """The overlap of what an attempt's tools returned with its question and answer where that is a leak's; else 0."""
    return question.flagged(_less_echoes(question, transcript))


def without(outcomes: Outcomes, flagged: set[str]) -> Outcomes:
    """The outcomes at the tasks that were not flagged."""
    kept = np.array([task.hash not in flagged for task in outcomes.tasks], bool)
    rows = kept[outcomes.task]
    columns = ("arm", "sample", "success", "cost", "ended", "faults", "redrawn")
    return replace(
        outcomes,
        tasks=tuple(task for task, keep in zip(outcomes.tasks, kept, strict=True) if keep),
        task=(np.cumsum(kept) - 1).astype(np.int32)[outcomes.task[rows]],
        **{name: getattr(outcomes, name)[rows] for name in columns},
    )


def sought(tasks: Sequence[Task]) -> dict[str, Question]:
    """By hash of the task, what is to be looked for; tasks that cannot be judged are left out."""
    of_environment: dict[str, list[Task]] = {}
    for task in tasks:
        of_environment.setdefault(task.environment, []).append(task)
    made: dict[str, Question] = {}
    for listed in of_environment.values():
        known = [answers(task.reference) for task in listed]
        often = Counter(answer for own in known for answer in set(own))
        most = max(LABELS * len(listed), FEW)
        for task, own, asked in zip(listed, known, questions([task.prompt for task in listed]), strict=True):
            question = Question(asked, own, label=any(often[answer] > most for answer in own))
            if question.judged:
                made[task.hash] = question
    return made


def _less_echoes(question: Question, transcript: Sequence[Message]) -> str:
    """What an attempt was shown, without what tools only repeat of its calls."""
    calls = (exchange for exchange in exchanges(transcript) if exchange.result.fault is None)
    return "\n".join(_result(question, exchange) for exchange in calls)


def _result(question: Question, exchange: Exchange) -> str:
    """A result without its echo: a JSON object may repeat an argument by its name, a program prints what it holds."""
    arguments, text = exchange.call.arguments, exchange.result.text
    if isinstance(code := arguments.get(CODE), str) and question.stands(code):
        return ""
    if not text.startswith("{"):
        return text
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return text
    kept = {key: value for key, value in table.items() if key not in arguments or arguments[key] != value}
    return text if len(kept) == len(table) else json.dumps(kept, ensure_ascii=False)
