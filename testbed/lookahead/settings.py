"""What an arm's `lookahead` table says, checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from testbed.budget import Budget
from testbed.errors import UnknownName, UsageError
from testbed.types import Control

VERSION = "3"  # of the searches: a changed search is another arm
CHECKS = ("grader", "public")
MOST = 100_000  # of anything that is counted here: more cannot be meant


@dataclass(frozen=True)
class BestOf:
    """The model is sampled until a check accepts an answer.

    Attributes:
        n: candidates at most, at least 2.
        check: who accepts: "grader" is the environment's own grader, an oracle; "public" is
            `Environment.public_check`, which needs nothing hidden.

    Raises:
        UsageError: a value is out of its range.
    """

    n: int
    check: str = "grader"
    kind: ClassVar[str] = "best_of"

    def __post_init__(self) -> None:
        _whole("n", self.n, least=2)
        if self.check not in CHECKS:
            raise UnknownName("check of lookahead", str(self.check), CHECKS)

    def refuse(
        self, tools: Sequence[str], control: Control, budget: Budget, max_tokens: int, *, replays: bool = False
    ) -> None:
        """Refuses an arm in which it makes no sense.

        Args:
            tools: names of the arm's tools.
            control: how they behave.
            budget: its limits.
            max_tokens: of one message.
            replays: whether its tools answer from a recording.

        Raises:
            UsageError: says why, and what to change.
        """
        _refuse_any(control, budget, replays)
        for component, least in (("turns", self.n), ("model_calls", self.n), ("tool_calls", self.n - 1)):
            limit = getattr(budget, component)
            if limit is not None and limit < least:
                each = "every check but none of the last candidate" if component == "tool_calls" else "every candidate"
                raise UsageError(
                    f"lookahead: n = {self.n} candidates can never be reached within {component} = {limit} of the "
                    f"budget: {each} counts as one. Raise {component} to at least {least}, or lower n"
                )

    def share(self, budget: Budget) -> int | None:
        """Messages that a candidate may take: an equal share of the attempt's; None where there is no limit."""
        limits = [limit for limit in (budget.turns, budget.model_calls) if limit is not None]
        return min(limits) // self.n if limits else None

    def as_dict(self) -> dict[str, Any]:
        """The settings, for the arm's hash."""
        return {"kind": self.kind, "version": VERSION, **asdict(self)}


@dataclass(frozen=True)
class Tree:
    """Moves are tried on clones of the environment's game before they are made.

    Attributes:
        width: moves that the model proposes at one position at most, at least 2; the same move again counts.
        depth: moves of one simulation at most.
        simulations: how often the game is played from its start at most.

    Raises:
        UsageError: a value is out of its range.
    """

    width: int
    depth: int
    simulations: int
    kind: ClassVar[str] = "tree"

    def __post_init__(self) -> None:
        _whole("width", self.width, least=2)
        _whole("depth", self.depth, least=1)
        _whole("simulations", self.simulations, least=1)

    def refuse(
        self, tools: Sequence[str], control: Control, budget: Budget, max_tokens: int, *, replays: bool = False
    ) -> None:
        """Refuses an arm in which it makes no sense; see `BestOf.refuse`."""
        _refuse_any(control, budget, replays)
        if len(tools) != 1 or control is not Control.LIVE:
            offered = f"{', '.join(tools)} ({control})" if tools else "no tool"
            raise UsageError(
                "lookahead: kind = 'tree' searches over the moves of one live tool that acts on the environment's "
                f'game, and this arm offers {offered}; write tools = ["ask"]'
            )
        for component in ("turns", "model_calls"):
            limit = getattr(budget, component)
            if limit is not None and limit <= self.simulations:
                raise UsageError(
                    f"lookahead: simulations = {self.simulations} can never be reached within {component} = {limit} of "
                    "the budget: every simulation asks the model at least once, and so does the answer. Raise "
                    f"{component} above {self.simulations}, or lower simulations"
                )
        if budget.generated_tokens is not None and budget.generated_tokens < 2 * max_tokens:
            raise UsageError(
                f"lookahead: kind = 'tree' keeps the tokens of one message ({max_tokens}, max_tokens of the model) for "
                f"the answer, and generated_tokens = {budget.generated_tokens} leaves no proposal beside it; raise the "
                "one or lower the other"
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings, for the arm's hash."""
        return {"kind": self.kind, "version": VERSION, **asdict(self)}


Lookahead = BestOf | Tree
KINDS: Mapping[str, type[BestOf] | type[Tree]] = {"best_of": BestOf, "tree": Tree}


def read_lookahead(value: Any) -> Lookahead:
    """The settings that a table of an experiment file gives.

    Raises:
        UnknownName: there is no such kind or key.
        UsageError: it is no table, lacks a key, or a value is out of its range.
    """
    if not isinstance(value, Mapping) or "kind" not in value:
        raise UsageError(f'lookahead must be a table with a kind, such as {{ kind = "best_of", n = 8 }}, not {value!r}')
    settings = dict(value)
    kind = settings.pop("kind")
    if kind not in KINDS:
        raise UnknownName("kind of lookahead", str(kind), KINDS)
    known = [field.name for field in fields(KINDS[kind])]
    for key in settings:
        if key not in known:
            raise UnknownName("key", key, known, of=f"lookahead {kind!r}")
    if missing := [key for key in known if key not in settings and key != "check"]:
        raise UsageError(f"lookahead: kind = {kind!r} needs {' and '.join(missing)}")
    return KINDS[kind](**settings)


def branch_key(key: int, index: int) -> int:
    """128-bit key of a random stream of its own for each candidate or proposal of an attempt.

    Args:
        key: the attempt's, see `testbed.types.stream_key`.
        index: of the candidate or proposal, from 0. None has the attempt's own stream, which other arms use: what is
            sampled here is independent of every other arm.
    """
    return int.from_bytes(hashlib.blake2b(f"{key}/{index}".encode(), digest_size=16).digest(), "big")


def _refuse_any(control: Control, budget: Budget, replays: bool) -> None:
    if control is Control.YOKED:
        raise UsageError(
            "lookahead: a yoked arm replays one attempt's results in order, and a search has no order to replay them "
            "in; drop one of the two"
        )
    if control is Control.IMAGINED:
        raise UsageError("lookahead: a search is not imagined: its results come from tools; drop one of the two")
    if replays:
        raise UsageError(
            "lookahead: a search has no one order of calls, so nothing can be replayed in it; drop replay or lookahead"
        )
    if budget.answers > 1:
        raise UsageError(
            f"lookahead: a search submits one answer, and the budget allows answers = {budget.answers}; give this arm "
            "a budget with answers = 1"
        )


def _whole(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise UsageError(f"lookahead: {name} must be a whole number from {least} to {MOST:,}, not {value!r:.40}")
