"""The head of a bundle against its board: tasks, seed, and arms that differ in nothing but their tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from testbed.board.board_file import Rules
from testbed.board.boards import Board
from testbed.board.bundle_lines import ClaimedArm, ClaimedTask, Label
from testbed.board.verify.findings import Findings, listed
from testbed.budget import Budget
from testbed.errors import UsageError
from testbed.models.base import Sampling
from testbed.protocol import VERSION as PROTOCOL_VERSION
from testbed.store.records import differences
from testbed.types import Control, digest

LABELS = ("name", "stateful", "schemas", "replays")  # of an arm's record: what was not hashed
# What an entry's arms may be. Imagined results and trees of moves cannot be replayed from what a transcript holds.
CONTROLS = (Control.ABSENT, Control.INERT, Control.YOKED, Control.LIVE)
_MOST_SCHEMAS = 2**20  # characters


class _Known(BaseModel):
    """A table of which some keys are known."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class _Function(_Known):
    name: Label
    parameters: dict[str, Any] = {}


class _Schema(_Known):
    function: _Function


class ToolIdentity(_Known):
    """A tool as an arm's hash knows it."""

    schema_: Annotated[_Schema, Field(alias="schema")]
    result_chars: Annotated[int, Field(ge=1, le=10**7)]
    version: str = ""
    content: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """What it is called by."""
        return self.schema_.function.name

    @property
    def corpus(self) -> str:
        """Hash of the corpus that it works over; "" without one."""
        inner = self.content.get("of")
        content = inner if isinstance(inner, dict) else self.content
        return str(content.get("corpus", ""))


class _Identity(_Known):
    model: dict[str, Any]
    sampling: dict[str, Any]
    tools: Annotated[list[ToolIdentity], Field(max_length=64)]
    control: Control
    budget: dict[str, Any]
    protocol: str
    lookahead: dict[str, Any] | None = None
    yoke: str = ""
    replay: dict[str, Any] | None = None
    name: Annotated[str, Field(max_length=500)] = ""
    schemas: Annotated[str, Field(max_length=_MOST_SCHEMAS)] = ""


@dataclass(frozen=True)
class Asked:
    """What a board asks of its entries; senders know it as well as the server.

    Attributes:
        seed: of every attempt's random stream.
        samples: attempts per task of an arm without tools ("bare") and with ("tools").
        budget: limits per attempt.
        rules: what arms may offer.
        tasks: prompts by hash of the task; None for one that is not known here.
    """

    seed: int
    samples: Mapping[str, int]
    budget: Budget
    rules: Rules
    tasks: Mapping[str, str | None]

    @classmethod
    def of(cls, board: Board) -> Asked:
        """What a board asks."""
        prompts = {task.hash: task.prompt for task in board.tasks}
        return cls(board.seed, board.samples, board.budget, board.rules, prompts)


@dataclass(frozen=True)
class EntryArm:
    """An arm of an entry whose description holds together.

    Attributes:
        claimed: as its author sent it.
        tools: what it offers.
        schemas: how models are told of the tools, in the order in which they read it.
        control: how its tools behave.
        budget: limits per attempt.
        sampling: how it decodes.
        model: fingerprint of the model.
        yoke: hash of the arm whose results it replays; "" elsewhere.
        replays: whether its tools answered from a recording.
    """

    claimed: ClaimedArm
    tools: tuple[ToolIdentity, ...]
    schemas: Sequence[Mapping[str, Any]]
    control: Control
    budget: Budget
    sampling: Sampling
    model: Mapping[str, Any]
    yoke: str
    replays: bool

    @property
    def name(self) -> str:
        """What its author calls it."""
        return self.claimed.name

    @property
    def bare(self) -> bool:
        """Whether it offers no tools."""
        return not self.tools


def read_arms(claimed: Sequence[ClaimedArm], asked: Asked, findings: Findings) -> list[EntryArm]:
    """The arms of an entry, checked by themselves, against each other and against the board.

    Args:
        claimed: as sent.
        asked: what they must fit.
        findings: where what is wrong goes.
    """
    arms = [arm for one in claimed if (arm := _arm(one, findings)) is not None]
    if len({arm.claimed.hash for arm in arms}) < len(arms) or len({arm.name for arm in arms}) < len(arms):
        findings.wrong("arms", "two arms have the same name or the same hash.")
    if (bare := sum(arm.bare for arm in arms)) != 1:
        findings.wrong(
            "arms", f"an entry has one arm without tools, which the others are compared with; this has {bare}."
        )
    for arm in arms:
        _fits(arm, asked, findings)
        first = arms[0]
        for what, mine, theirs in (
            ("model", arm.model, first.model),
            ("model's name", {"name": arm.claimed.spec.get("name")}, {"name": first.claimed.spec.get("name")}),
            ("decoding", arm.sampling.as_dict(), first.sampling.as_dict()),
        ):
            if found := differences("", dict(theirs), dict(mine)):
                findings.wrong(
                    "arms",
                    f"arms {first.name!r} and {arm.name!r} differ in their {what}: {listed(found)}; the tools "
                    "must be all that differs.",
                )
        if arm.yoke and arm.yoke not in [other.claimed.hash for other in arms if other.control is Control.LIVE]:
            findings.wrong("arms", f"arm {arm.name!r} is yoked to no live arm of the entry.")
    return arms


def check_head(seed: int, tasks: Sequence[ClaimedTask], asked: Asked, findings: Findings) -> None:
    """The seed and the tasks of an entry against the board's."""
    if seed != asked.seed:
        findings.wrong("structure", f"the run has seed {seed}, and the board {asked.seed}.")
    sent = {task.hash: task for task in tasks}
    if len(sent) < len(tasks):
        findings.wrong("structure", "a task is listed twice.")
    if lacking := [hash for hash in asked.tasks if hash not in sent]:
        are = "is" if len(lacking) == 1 else "are"
        findings.wrong("structure", f"{len(lacking):,} of the board's tasks {are} not in the entry: {listed(lacking)}.")
    if foreign := [hash for hash in sent if hash not in asked.tasks]:
        findings.wrong("structure", f"{len(foreign):,} tasks are none of the board's: {listed(foreign)}.")
    for hash, task in sent.items():
        if asked.tasks.get(hash) not in (None, task.prompt):
            findings.wrong("structure", f"the prompt of task {hash} is not the board's.")


def tool_rules(arm_name: str, tools: Sequence[ToolIdentity], rules: Rules) -> list[str]:
    """What of an arm's tools the board's rules forbid, one sentence each."""
    found = []
    for tool in tools:
        if not rules.allows(tool.name):
            found.append(f"arm {arm_name!r} offers {tool.name!r}; the board allows {listed(rules.tools)}.")
        wanted = rules.corpora.get(tool.name)
        if wanted and tool.corpus != wanted:
            found.append(
                f"arm {arm_name!r}: {tool.name} works over the corpus {tool.corpus or 'of no name'}, and the board "
                f"says {wanted}."
            )
    return found


def _arm(claimed: ClaimedArm, findings: Findings) -> EntryArm | None:
    """An arm whose description is one, and has the hash that it gives; else what is wrong is noted."""
    try:
        spec = _Identity.model_validate_json(json.dumps(claimed.spec))
        identity = {key: value for key, value in claimed.spec.items() if key not in LABELS}
        if digest(identity) != claimed.hash:
            findings.wrong("arms", f"arm {claimed.name!r} does not have the hash of its description.")
            return None
        schemas = _schemas(spec, claimed.spec["tools"])
        sampling, budget = Sampling(**spec.sampling), Budget.from_mapping(spec.budget)
    except (ValidationError, UsageError, TypeError, ValueError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        findings.wrong("arms", f"the description of arm {claimed.name!r} cannot be read: {said}")
        return None
    tools = tuple(spec.tools)
    if not claimed.name.isprintable() or not claimed.name.strip():
        findings.wrong("arms", f"an arm's name must be printable text, not {claimed.name!r}.")
        return None
    if spec.model.get("kind") == "oracle":
        findings.wrong("arms", f"arm {claimed.name!r} asks the oracle, which answers from the tasks' references.")
        return None
    if spec.lookahead is not None or spec.control not in CONTROLS:
        findings.wrong("arms", f"arm {claimed.name!r} looks ahead or imagines results, which boards do not take.")
        return None
    if (spec.control is Control.ABSENT) != (not tools) or len({tool.name for tool in tools}) < len(tools):
        findings.wrong("arms", f"arm {claimed.name!r}: control = {str(spec.control)!r} does not go with its tools.")
        return None
    return EntryArm(
        claimed, tools, schemas, spec.control, budget, sampling, spec.model, spec.yoke, spec.replay is not None
    )


def _schemas(spec: _Identity, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """How the model was told of its tools: a label, which keeps an order that the hash does not, and nothing else."""
    hashed = [tool["schema"] for tool in tools]
    told = json.loads(spec.schemas) if spec.schemas else hashed
    if told != hashed:
        raise UsageError("the model was told of other tools than it was offered")
    return hashed if not spec.schemas else list(told)


def _fits(arm: EntryArm, asked: Asked, findings: Findings) -> None:
    """One arm against the board's budget, samples, protocol and rules."""
    if found := differences("", asked.budget.as_dict(), arm.budget.as_dict(), absent="no limit"):
        findings.wrong("arms", f"arm {arm.name!r} has another budget than the board (board → arm): {listed(found)}.")
    wanted = asked.samples["bare" if arm.bare else "tools"]
    if arm.claimed.samples != wanted:
        findings.wrong("structure", f"arm {arm.name!r} has {arm.claimed.samples:,} samples, and the board {wanted:,}.")
    protocol = arm.claimed.spec["protocol"]
    if protocol != PROTOCOL_VERSION:
        findings.wrong(
            "arms", f"arm {arm.name!r} speaks protocol {protocol!r:.20}, and the board {PROTOCOL_VERSION!r}."
        )
    for sentence in tool_rules(arm.name, arm.tools, asked.rules):
        findings.wrong("arms", sentence)
