"""One attempt as its readers see it, in the terminal and on a page: step by step, with why it ended and its grade."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from testbed.protocol import parse
from testbed.report.budget_left import is_amount, left_by_step
from testbed.report.message_blocks import Block, read_blocks, short
from testbed.report.unseen import beginning
from testbed.types import REDRAWN, RESENT, Attempt, Control, Task

NAMES = {
    "generated_tokens": "generated tokens",
    "prompt_tokens": "prompt tokens",
    "observed_tokens": "observed tokens",
    "model_calls": "model calls",
    "tool_calls": "tool calls",
    "turns": "turns",
    "seconds": "seconds",
    "usd": "USD",
}
_MISSING = {
    "model_not_asked": "the model could not be asked",
    "model_unavailable": "the model did not answer",
    "transport_error": "a connection broke",
    "sandbox_died": "the sandbox died",
    "yoke_missing": "the attempt whose tool results it replays is itself missing",
    "given_up": "the run was ended in the middle of it",
    "not_recorded": "it made a call whose result was never recorded",
}


@dataclass(frozen=True)
class Step:
    """An entry of a transcript.

    Attributes:
        number: of the entry, from 1.
        role: system, user, assistant or tool.
        name: which tool; empty for others.
        fault: what the model did wrong, where it is a tool's answer to that; else empty.
        tokens: what a tool's result was charged as observed, where that is known.
        cut: the observed tokens to which a result was cut, where it was.
        imagined: whether it stands for a tool's result and the model wrote it itself.
        blocks: what it says.
        left: what was left of the attempt's limits after it, as far as that is known.
    """

    number: int
    role: str
    name: str
    fault: str
    tokens: int | None
    cut: int | None
    blocks: tuple[Block, ...]
    left: Mapping[str, float]
    imagined: bool = False

    @property
    def heading(self) -> str:
        """Such as "tool python, timeout, 40 tokens"."""
        words = [f"{short(self.role)} {short(self.name)}".rstrip(), short(self.fault).replace("_", " ")]
        if self.imagined:
            words.append("imagined: the model wrote this result itself")
        elif self.tokens is not None:
            words.append(f"{self.tokens:,} token{'' if self.tokens == 1 else 's'}")
        if self.cut is not None:
            words.append(f"cut to the {self.cut:,} that were left")
        return ", ".join(filter(None, words))


@dataclass(frozen=True)
class Part:
    """A part of a transcript that is shown by itself.

    Attributes:
        entries: numbers of its entries, from 0.
        longest: characters of one entry that are shown at most, counted as `beginning` does; None for all.
    """

    entries: range
    longest: int | None = None


@dataclass(frozen=True)
class TranscriptView:
    """One attempt as it is shown.

    Attributes:
        id: the attempt's.
        arm: name of its arm; empty where that is not known.
        sample: index within task and arm.
        seed: the experiment's seed.
        environment: the task's.
        task: its hash.
        grader: its rule of grading.
        reference: its reference answer as text; None where it has none.
        budget: what there was of every limit before the first step.
        steps: what was said, in order.
        partial: whether more was said than `steps` tells.
        ended: why it ended, a sentence.
        outcome: success, failure or missing.
        answer: the answer that was graded; None where there is none.
        score: partial credit; None where the grader gives none.
        cost: what it used, components of 0 left out.
        faults: the model's tool faults by kind, and tries and requests that were made again.
        given: what its model was told before the task, terms with their texts, where that is to be shown.
    """

    id: str
    arm: str
    sample: int
    seed: int
    environment: str
    task: str
    grader: str
    reference: str | None
    budget: Mapping[str, float]
    steps: tuple[Step, ...]
    partial: bool
    ended: str
    outcome: str
    answer: str | None
    score: float | None
    cost: Mapping[str, int | float]
    faults: Mapping[str, int]
    given: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        attempt: Attempt,
        task: Task,
        arm: str = "",
        spec: Mapping[str, Any] | None = None,
        part: Part | None = None,
    ) -> TranscriptView:
        """A view of an attempt.

        Args:
            attempt: with its transcript.
            task: its task.
            arm: name of its arm.
            spec: what the arm is (`ArmRecord.spec`), whose budget tells what was left before the first result.
            part: of the transcript; all of it by default.
        """
        part = part or Part(range(len(attempt.transcript)))
        said = [message if isinstance(message, Mapping) else {"content": message} for message in attempt.transcript]
        attempt = replace(attempt, transcript=said)
        given = (spec or {}).get("budget")
        budget = given if isinstance(given, Mapping) else {}
        before, left = left_by_step(attempt, budget)
        imagined = (spec or {}).get("control") == Control.IMAGINED
        return cls(
            id=attempt.id,
            arm=arm,
            sample=attempt.sample,
            seed=attempt.seed,
            environment=task.environment,
            task=task.hash,
            grader=task.grader,
            reference=None if task.reference is None else _reference(task.reference),
            budget=before,
            steps=tuple(
                _step(n + 1, said[n], left[n], part.longest, imagined) for n in part.entries if 0 <= n < len(said)
            ),
            partial=len(part.entries) < len(said),
            ended=why_it_ended(attempt, budget),
            outcome="missing" if attempt.success is None else "success" if attempt.success else "failure",
            answer=attempt.answer,
            score=attempt.score,
            cost={name: n for name, n in attempt.cost.as_dict().items() if is_amount(n) and n},
            faults={kind: int(n) for kind, n in attempt.faults.items() if is_amount(n)},
        )

    @property
    def title(self) -> str:
        """Such as "attempt 3f2a91c0ffee of arm python"."""
        return f"attempt {self.id[:12]}" + (f" of arm {self.arm}" if self.arm else "")

    @property
    def verdict(self) -> str:
        """What the grader made of it, in words."""
        if self.outcome == "missing":
            return "missing: it counts neither as a success nor as a failure"
        if self.environment.startswith("imported:"):
            return f"{self.outcome}, as it was imported"
        if self.answer is None and self.outcome == "failure":
            return "failure: no answer was graded"
        return f"{self.outcome}, says the grader {self.grader}"

    def facts(self, *, reveal_reference: bool) -> list[tuple[str, str]]:
        """What is known of the attempt as a whole, as terms with their texts."""
        found = [("why it ended", self.ended), ("outcome", self.verdict)]
        found.append(("answer", "none" if self.answer is None else self.answer))
        if self.reference is not None:
            found.append(("reference", self.reference if reveal_reference else "not shown"))
        if self.score is not None:
            found.append(("score", f"{self.score:g}"))
        if self.faults:
            found.append(("faults", ", ".join(f"{n} {_fault(kind)}" for kind, n in self.faults.items())))
        found.append(("cost", amounts(self.cost) or "none recorded"))
        found.append(("task", f"{self.environment}, {self.task}"))
        found.append(("attempt", f"{self.id}, sample {self.sample}, seed {self.seed}"))
        return found


def amounts(of: Mapping[str, float]) -> str:
    """Amounts by component in words, such as "5 turns, 303 generated tokens"; empty for none."""
    return ", ".join(_amount(name, amount) for name, amount in of.items())


def _amount(component: str, amount: float) -> str:
    shown = _number(amount)
    if component.startswith("calls."):
        return f"{shown} call{'' if amount == 1 else 's'} of {component.removeprefix('calls.')}"
    name = NAMES.get(component, component)
    return f"{shown} {name.removesuffix('s') if amount == 1 else name}"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount == int(amount) or amount >= 100 else f"{amount:.3g}"


def _fault(kind: str) -> str:
    """What is counted beside an attempt, which for two kinds is no doing of the model."""
    others = {REDRAWN: "earlier tries lost to the infrastructure", RESENT: "requests sent again to a busy server"}
    return others.get(kind, kind.replace("_", " "))


def why_it_ended(attempt: Attempt, budget: Mapping[str, Any]) -> str:
    """Why an attempt ended, as a sentence.

    Args:
        attempt: with its transcript.
        budget: its limits, as far as they are known.
    """
    kind, _, what = attempt.ended.partition(":")
    last = attempt.transcript[-1] if attempt.transcript else None
    if attempt.ended == "answered" and attempt.answer is None and not attempt.transcript:
        return "Not recorded."  # as of imported outcomes
    if attempt.ended == "answered":
        return "It answered, and the answer was graded."
    if kind == "limit" and what == "context":
        return "The conversation no longer fitted into the model's context."
    if kind == "limit":
        limit = budget.get(what)
        allowed = f" (limit {_number(limit)})" if is_amount(limit) else ""
        late = last is not None and parse(text_of(last)).answer is not None and last.get("role") == "assistant"
        rest = "; the answer came after that and does not count" if late else ""
        return f"It ran out of {NAMES.get(what, what)}{allowed}{rest}."
    if kind == "missing":
        said = text_of(last) if last is not None and last.get("role") == "system" else ""
        return f"The infrastructure ended it: {_MISSING.get(what, what)}{f' ({said})' if said else ''}."
    if kind == "agent":
        said = text_of(last) if last is not None and last.get("role") == "system" else ""
        return said or f"The agent {'raised an error' if what == 'error' else 'gave no answer'}."
    return attempt.ended or "Not recorded."


def _step(
    number: int, message: Mapping[str, Any], left: Mapping[str, float], longest: int | None, imagined: bool
) -> Step:
    role, text = str(message.get("role", "")), text_of(message)
    tokens, cut = message.get("tokens"), message.get("cut")
    shown = text if longest is None else beginning(text, longest)
    blocks = tuple(read_blocks(shown)) if role == "assistant" else (Block("", shown),)
    if len(shown) < len(text):
        blocks += (Block(f"{len(text) - len(shown):,} more characters are not shown here", ""),)
    return Step(
        number=number,
        role=role,
        name=str(message.get("name", "")),
        fault=str(message.get("fault", "")),
        tokens=int(tokens) if is_amount(tokens) else None,
        cut=int(cut) if is_amount(cut) else None,
        blocks=blocks,
        left=left,
        imagined=imagined and role == "tool" and not message.get("fault"),  # a fault's result is the testbed's
    )


def _reference(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def text_of(message: Mapping[str, Any]) -> str:
    """What an entry of a transcript says, as text."""
    content = message.get("content", "")
    if isinstance(content, str):
        return content
    try:
        return json.dumps(content, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"
