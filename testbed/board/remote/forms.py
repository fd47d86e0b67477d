"""What is sent to the environment service, and what it answers; the OpenAPI document is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("write one line, without control characters")
    return text


Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_printable)
]
Id = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]


class Form(BaseModel):
    """A body: what is not known is refused, since it may be misspelled."""

    model_config = ConfigDict(extra="forbid")


class Manifest(Form):
    """What an author says of an entry; shown as such, never as something that was checked.

    Attributes:
        model: the model that is behind the agent.
        agent: what drives it.
        description: what else there is to say, in a line.
        url: where more is said.
    """

    model: Line
    agent: Annotated[str, Field(max_length=200)] = ""
    description: Annotated[str, Field(max_length=500)] = ""
    url: Annotated[str, Field(max_length=500, pattern="^(https?://[^\\s]+)?$")] = ""


class NewEntry(Form):
    """An entry to begin.

    Attributes:
        title: for people.
        manifest: what its author says of it.
        arms: which of the board's arms it runs; none for all.
    """

    title: Line
    manifest: Manifest
    arms: Annotated[list[Line], Field(max_length=100)] = []


class NewSession(Form):
    """An attempt to begin.

    Attributes:
        arm: in which arm.
        task: the task's number, or "next" for whichever was served least.
    """

    arm: Line
    task: Annotated[int, Field(ge=0, le=10**9, strict=True)] | Literal["next"] = "next"


class NewStep(Form):
    """A message of the agent.

    Attributes:
        n: the step's number, from 0: sending one again changes nothing.
        action: the message, in the text protocol.
    """

    n: Annotated[int, Field(ge=0, le=10**9, strict=True)]
    action: str


class Seen(BaseModel):
    """What the agent sees: only what is new, and what is left of its budget (−1: no limit)."""

    text: str
    remaining: list[float]


class Reply(BaseModel):
    """What became of a step.

    Attributes:
        n: the step's number.
        observation: what the agent sees.
        reward: 1 for a right answer.
        terminated: whether an answer was graded.
        truncated: whether a limit ended the session, or a fault of the server.
        limit: which limit.
        lost: what the server's fault was; such an attempt counts as missing.
    """

    n: int
    observation: Seen
    reward: float
    terminated: bool
    truncated: bool
    limit: str
    lost: str


class ArmShown(BaseModel):
    """An arm of an entry.

    Attributes:
        name: its name.
        control: how its tools behave.
        tools: function schemas of its tools; none in the bare arm.
        budget: limits of an attempt.
        samples: attempts per task.
        seconds: that a session may take.
        left: how many attempts may still be begun, by the task's number; those without any are left out.
    """

    name: str
    control: str
    tools: list[dict[str, Any]]
    budget: dict[str, Any]
    samples: int
    seconds: float
    left: dict[int, int]


class OpenSession(BaseModel):
    """A session that is under way."""

    session: str
    arm: str
    task: int


class EntryShown(BaseModel):
    """How an entry stands.

    Attributes:
        entry: its id.
        board: slug of its board.
        title: for people.
        state: "open" or "closed".
        tasks: how many tasks the board has: their numbers are those below.
        arms: what it runs.
        open: its sessions that are under way.
    """

    entry: str
    board: str
    title: str
    state: Literal["open", "closed"]
    tasks: int
    arms: list[ArmShown]
    open: list[OpenSession]


class SessionShown(BaseModel):
    """How a session stands, for whoever comes back to it.

    Attributes:
        session: its id.
        entry: its entry's.
        arm: name of the arm.
        task: the task's number.
        sample: index of the attempt within arm and task.
        state: "open", "done" or "lost".
        prompt: the task.
        tools: function schemas of the tools.
        budget: limits of the attempt, the session's seconds among them.
        seconds_left: until it ends as a failure.
        step: number of the next step.
        last: the reply to the last step; before the first one, its observation is the prompt.
    """

    session: str
    entry: str
    arm: str
    task: int
    sample: int
    state: Literal["open", "done", "lost"]
    prompt: str
    tools: list[dict[str, Any]]
    budget: dict[str, Any]
    seconds_left: float
    step: int
    last: Reply


class Closed(BaseModel):
    """An entry that was closed; its results are worked out next."""

    entry: str
    state: Literal["closed"]
