"""The lines of a bundle: records of known keys and right types, and nothing else. What they say is not believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from testbed.types import Cost, Status

_MESSAGES = 10_000  # of a transcript: no budget that is meant allows as many

Hash = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, le=10**15)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Label = Annotated[str, Field(min_length=1, max_length=200)]


class Line(BaseModel):
    """A line of a bundle: known keys of the right types and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Manifest(Line):
    """What a bundle says of itself: its format, the run it was made of, and how many lines of each kind follow."""

    bundle: Literal[1]
    run: Label
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    created: Annotated[str, Field(max_length=64)]
    testbed: Annotated[str, Field(max_length=64)]
    arms: Count
    tasks: Count
    attempts: Count


class ClaimedArm(Line):
    """An arm as its author describes it: what was hashed, and labels."""

    hash: Hash
    name: Label
    samples: Annotated[int, Field(ge=1, le=10**6)]
    spec: dict[str, Any]


def sent_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm is (`ArmRecord.spec`) as boards read it: without a label that older ones would take for identity."""
    return {key: value for key, value in spec.items() if key != "tokenization"}


class ClaimedTask(Line):
    """A task as its author knows it."""

    hash: Hash
    environment: Label
    prompt: str


class ClaimedMessage(Line):
    """An entry of a transcript, see `testbed.types.Message`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: Annotated[str, Field(max_length=200)] | None = None
    fault: Annotated[str, Field(max_length=40)] | None = None
    tokens: Count | None = None
    cut: Annotated[int, Field(ge=-(10**15), le=10**15)] | None = None
    logprobs: list[float] | None = None
    remaining: dict[str, float] | None = None


class ClaimedCost(Line):
    """What an attempt used, as its author says."""

    generated_tokens: Count
    prompt_tokens: Count
    observed_tokens: Count
    model_calls: Count
    tool_calls: Count
    turns: Count
    seconds: Amount
    usd: Amount

    @property
    def cost(self) -> Cost:
        """As the testbed has it."""
        return Cost(**self.model_dump())


class ClaimedAttempt(Line):
    """An attempt as its author tells it, see `testbed.types.Attempt`."""

    id: Hash
    task: Hash
    arm: Hash
    sample: Annotated[int, Field(ge=0, le=10**6)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    status: Literal["complete", "missing"]
    ended: Annotated[str, Field(max_length=80)]
    success: bool | None
    score: Annotated[float, Field(ge=0, le=1)] | None
    answer: str | None
    cost: ClaimedCost
    faults: dict[Annotated[str, Field(max_length=40)], Count]
    transcript: Annotated[list[ClaimedMessage], Field(max_length=_MESSAGES)]

    @property
    def missing(self) -> bool:
        """Whether the infrastructure is said to have ended it."""
        return self.status == Status.MISSING.value
