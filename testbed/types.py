"""The frozen records that everything else passes around, and how they are identified.

Identity is content: a task's hash covers what the model sees and how it is graded, an arm's hash covers everything that
can change an outcome, and an attempt's id covers task, arm, sample index and seed. So attempts can be stored, resumed
and shared by several comparisons without ever mixing two configurations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, TypedDict

from testbed.errors import FaultKind, UsageError

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """128-bit content hash of a JSON value as 32 hexadecimal characters."""
    return hashlib.blake2b(canonical(value).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: each half of a surrogate pair that stands alone becomes U+FFFD.

    Lone surrogates can be neither tokenised nor stored, and models can write them as JSON escapes.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class Control(StrEnum):
    """How the tools of an arm behave."""

    ABSENT = "absent"  # bare: none is offered
    INERT = "inert"  # offered, but results carry no information: the placebo
    IMAGINED = "imagined"  # the model writes the results of its calls itself
    YOKED = "yoked"  # results replayed from another live attempt at the same task
    LIVE = "live"


class Status(StrEnum):
    """Whether an attempt is data or missing data."""

    COMPLETE = "complete"  # graded, or ended by a limit: counts
    MISSING = "missing"  # ended by the infrastructure: bounds, never a failure


COST_COMPONENTS = (
    "generated_tokens",
    "prompt_tokens",
    "observed_tokens",
    "model_calls",
    "tool_calls",
    "turns",
    "seconds",
    "usd",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an attempt used.

    Attributes:
        generated_tokens: tokens the model wrote, this attempt's own, never a padded batch's.
        prompt_tokens: tokens the model was given, summed over its calls.
        observed_tokens: tokens of tool output shown to the model.
        model_calls: times the model was asked.
        tool_calls: tool calls made, faulty ones included.
        turns: messages of the model that the environment read.
        seconds: wall time of the attempt, without waits for a place that others have; not part of its identity.
        usd: price of the tokens, 0 for local models.
    """

    generated_tokens: int = 0
    prompt_tokens: int = 0
    observed_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    turns: int = 0
    seconds: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, c) + getattr(other, c) for c in COST_COMPONENTS))

    def as_dict(self) -> dict[str, int | float]:
        """The vector as a mapping from component to amount."""
        return {c: getattr(self, c) for c in COST_COMPONENTS}


@dataclass(frozen=True)
class Task:
    """One problem.

    Attributes:
        environment: id of the environment that made it, such as "Multiplication-v0".
        prompt: what the model is shown, byte-identical in every arm.
        reference: the hidden answer, any JSON value; never shown, never in a sandbox.
        grader: name and version of the rule that compares an answer with the reference.
        cluster: tasks that share content and so are not independent; empty for a task of its own.
        meta: labels for reports (family, size, supporting documents); not part of the identity.

    Raises:
        UsageError: the prompt is not text, or the reference is not a JSON value.
    """

    environment: str
    prompt: str
    reference: Any
    grader: str = "exact/1"
    cluster: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    hash: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or well_formed(self.prompt) != self.prompt:
            raise UsageError(f"{self.environment}: a prompt must be text that UTF-8 can hold, not {self.prompt!r:.80}.")
        identity = [self.environment, self.prompt, self.reference, self.grader]
        try:
            object.__setattr__(self, "hash", digest(identity))
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"{self.environment}: the reference {self.reference!r:.80} of {self.prompt[:60]!r} is not a JSON value "
                f"({error}); use text, numbers, true, false, null, lists and tables of these."
            ) from None

    def __hash__(self) -> int:
        # References may be lists, which Python cannot hash; equal tasks have equal prompts.
        return hash((self.environment, self.prompt))


@dataclass(frozen=True, slots=True)
class Grade:
    """A grader's view of one answer.

    Attributes:
        success: strict: right or not.
        score: partial credit in [0, 1] where the grader has any; kept apart from `success`.
        detail: one line for people.
    """

    success: bool
    score: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        name: the tool's name as the model wrote it.
        arguments: its arguments, any JSON object.
        fault: set when the text could not be read as a call; `message` says why.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fault: FaultKind | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came back from a call.

    Attributes:
        name: the tool that was called.
        text: what the model is shown.
        fault: what the model did wrong, or None.
        tokens: of the text, as the arm's model counts them; no part of equality.
        cut: the observed tokens that were left, where the text was cut to them; else None.
    """

    name: str
    text: str
    fault: FaultKind | None = None
    tokens: int = field(default=0, compare=False)
    cut: int | None = None


class Message(TypedDict, total=False):
    """One entry of a transcript; `role` and `content` are what the model sees, the rest is for readers."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str  # tool messages: which tool
    fault: str  # tool messages: FaultKind, where there is one
    tokens: int  # tool messages: what was charged as observed
    cut: int  # tool messages: the observed tokens that were left, where the result was cut to them
    logprobs: list[float]  # of what the model wrote: each sampled token's, in nats, where the arm keeps them
    remaining: dict[str, float]  # what was left of the limited components after this entry


@dataclass(frozen=True, slots=True)
class Usage:
    """What one model call used.

    Attributes:
        prompt_tokens: tokens the model was given.
        generated_tokens: tokens it wrote.
        seconds: wall time of the call, without what it waited for a server.
        usd: price of the tokens.
        resent: how often the request was sent again, because the server had refused it before the model began.
        share: seconds that a local model worked for this call: of every batch it was in, the time divided by the
            messages in it; 0 where the model does not say. `seconds` is what passed on the clock.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    resent: int = 0
    share: float = 0.0


REDRAWN, RESENT = "redrawn", "resent"
AGENT_ERROR, AGENT_SILENT, CONTEXT_FULL = "agent:error", "agent:silent", "limit:context"  # mostly faults of a set-up


@dataclass(frozen=True, slots=True)
class Attempt:
    """One episode of one arm on one task.

    Attributes:
        id: content address, see `attempt_id`.
        task: task hash.
        arm: arm hash.
        sample: index of the attempt within its task and arm, from 0.
        seed: the experiment's seed.
        status: complete or missing.
        ended: "answered", "limit:<component>", "missing:<kind>"; of an agent also "agent:silent", where it returned
            without an answer, and "agent:error", where it raised an error or returned what is no text.
        success: strict success; None when missing.
        score: partial credit, None where there is none.
        answer: the answer that was graded, None where none was given.
        cost: what it used.
        faults: number of the model's tool faults by kind; under `REDRAWN`, how many earlier tries were lost to the
            infrastructure after a model had begun to write that would not write the same again; under `RESENT`, how
            many requests a server refused before the model began, which were sent again and cost nothing.
        transcript: every message, in order.
    """

    id: str
    task: str
    arm: str
    sample: int
    seed: int
    status: Status
    ended: str
    success: bool | None
    score: float | None
    answer: str | None
    cost: Cost
    faults: Mapping[str, int] = field(default_factory=dict)
    transcript: Sequence[Message] = ()

    @property
    def first_draw(self) -> bool | None:
        """Whether it succeeded; None where it is missing, or not the first draw: what broke may have chosen it."""
        return None if self.faults.get(REDRAWN) else self.success

    def same_outcome(self, other: Attempt) -> bool:
        """Equality in everything but the clock: what a resumed run must reproduce."""
        skip = {"cost", "transcript"}
        same = all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name not in skip)
        same = same and _without_logprobs(self.transcript) == _without_logprobs(other.transcript)
        mine, theirs = self.cost.as_dict(), other.cost.as_dict()
        return same and all(mine[c] == theirs[c] for c in COST_COMPONENTS if c != "seconds")


def _without_logprobs(transcript: Sequence[Message]) -> list[dict[str, Any]]:
    """What was said: batch-mates change log-probabilities by rounding, and nothing else."""
    return [{key: value for key, value in message.items() if key != "logprobs"} for message in transcript]


def attempt_id(task: str, arm: str, sample: int, seed: int) -> str:
    """Content address of an attempt: the same for the same task, arm, sample index and seed, wherever it is run."""
    return hashlib.blake2b(f"{task}/{arm}/{sample}/{seed}".encode(), digest_size=16).hexdigest()


def stream_key(seed: int, task: str, sample: int) -> int:
    """128-bit key of an attempt's random stream; the same in every arm: arms share their randomness."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{task}/{sample}".encode(), digest_size=16).digest(), "big")
