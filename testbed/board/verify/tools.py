"""Tool results made again with this server's own tools, over its own corpora, and looked through for leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from testbed import registry
from testbed.board.verify.arms import EntryArm, ToolIdentity
from testbed.board.verify.findings import listed
from testbed.board.verify.spread import Forged
from testbed.budget import Meter
from testbed.corpus import Corpus
from testbed.env import Environment
from testbed.errors import DataError, FaultKind, InfrastructureError, SandboxUnavailable, UsageError
from testbed.overlap import Question
from testbed.registry import make_corpus
from testbed.replay import Exchange, exchanges
from testbed.report.leaks import overlap_shown
from testbed.store.records import differences
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Control, Message, Task, ToolResult
from testbed.wrappers import under_control

# What may come out otherwise another time, whoever is honest: time and memory.
_UNSTEADY = (FaultKind.TIMEOUT, FaultKind.EXECUTION_ERROR)


class Corpora:
    """The corpora on this server, by hash.

    Args:
        environments: the board's, whose documents are corpora.
        paths: further ones: files, folders that `testbed corpus build` made, or names of environments.
    """

    def __init__(self, environments: Sequence[Environment], paths: Sequence[str] = ()) -> None:
        self._found: dict[str, Corpus] = {}
        for environment in environments:
            if documents := list(environment.documents()):
                self._add(Corpus.of(documents))
        for source in [*{environment.id: None for environment in environments}, *paths]:
            with suppress(DataError, UsageError):  # not every environment has documents
                self._add(make_corpus(source))

    def get(self, hash: str) -> Corpus | None:
        """The corpus with a hash, if it is here."""
        return self._found.get(hash)

    def _add(self, corpus: Corpus) -> None:
        self._found[corpus.hash] = corpus


class Remaker:
    """Makes the tool results of one arm again; close it after use.

    Args:
        arm: the arm.
        corpora: those on this server.

    Attributes:
        why_not: why they cannot be made here; "" where they can.
        isolated: whether they are made in a sandbox, which takes its time.
    """

    def __init__(self, arm: EntryArm, corpora: Corpora) -> None:
        self._arm = arm
        self._tools: ToolSet | None = None
        self.isolated = any("sandbox" in _content(tool) for tool in arm.tools)
        self.why_not = self._prepare(corpora) if arm.tools else "it has none"

    def _prepare(self, corpora: Corpora) -> str:
        if self._arm.control is Control.YOKED or self._arm.replays:
            return "they come from a recording"
        made = []
        for tool in self._arm.tools:
            if tool.name not in registry.tool_names():
                return f"{tool.name} is not on this server"
            corpus = corpora.get(tool.corpus) if tool.corpus else None
            if tool.corpus and corpus is None:
                return f"the corpus {tool.corpus} of {tool.name} is not on this server"
            try:
                made.append(registry.make_tool(tool.name, **_options(tool), **({"corpus": corpus} if corpus else {})))
            except (UsageError, SandboxUnavailable) as error:
                return f"{tool.name} cannot be made here: {error}"
        tools = ToolSet(under_control(made, self._arm.control))
        sent = self._arm.claimed.spec["tools"]
        if found := [
            line for old, new in zip(sent, tools.fingerprint(), strict=True) for line in differences("", old, new)
        ]:
            return f"the tools here are others (theirs → here): {listed(found)}"
        self._tools = tools
        return ""

    async def start(self) -> None:
        """Prepares the tools; where this machine cannot, says so in `why_not`."""
        if self._tools is not None:
            try:
                await self._tools.start()
            except (UsageError, InfrastructureError) as error:
                self._tools, self.why_not = None, f"they cannot be started here: {error}"

    async def aclose(self) -> None:
        """Frees what the tools hold."""
        if self._tools is not None:
            await self._tools.aclose()

    async def check(self, transcript: Sequence[Message], task: Task, environment: Environment, key: int) -> None:
        """Makes the results of an attempt again, in order.

        Raises:
            Forged: one of them is not what the tool returns, as far as it always returns the same.
        """
        assert self._tools is not None
        recorded = self._steady(list(exchanges(transcript)))
        if not recorded:
            return
        made = await self._made(recorded, task, environment, key)
        different = [n for n, (own, exchange) in enumerate(zip(made, recorded, strict=True)) if _differs(own, exchange)]
        if not different:
            return
        again = await self._made(recorded, task, environment, key)  # a program may tell the time, or draw numbers
        for n in different:
            if _same(again[n], made[n]):
                call, result = recorded[n]
                raise Forged(
                    f"the result of its call {n + 1}, of {call.name}, is {result.text!r:.120}, and here it is "
                    f"{made[n].text!r:.120}",
                    "tools",
                )

    def _steady(self, recorded: list[Exchange]) -> list[Exchange]:
        """Those whose results follow from the calls: tools with a memory may remember what a fault left half done."""
        assert self._tools is not None
        if not self._tools.stateful():
            return recorded
        first = next((n for n, (_, result) in enumerate(recorded) if result.fault in _UNSTEADY), len(recorded))
        return recorded[:first]

    async def _made(
        self, recorded: Sequence[Exchange], task: Task, environment: Environment, key: int
    ) -> list[ToolResult]:
        assert self._tools is not None
        context = environment.enter(task, self._tools, AttemptContext(key))
        # Counted as recorded: the arm's own limits on what is observed were checked with the transcript.
        box = self._tools.open(Meter(self._arm.budget), _told(recorded), context)
        try:
            return [await box.call(exchange.call) for exchange in recorded]
        finally:
            await box.aclose()


def leak_of(question: Question | None, transcript: Sequence[Message]) -> float:
    """How much of a task a transcript's tool results show together with its answer, where that is a leak; else 0."""
    return overlap_shown(question, transcript) if question is not None else 0.0


def _told(recorded: Sequence[Exchange]) -> Any:
    told = {exchange.result.text: exchange.result.tokens for exchange in recorded}
    return lambda text: told.get(text, (len(text) + 3) // 4)


def _differs(own: ToolResult, recorded: Exchange) -> bool:
    return not _same(own, recorded.result) and own.fault not in _UNSTEADY and recorded.result.fault not in _UNSTEADY


def _same(own: ToolResult, other: ToolResult) -> bool:
    if (other.cut is not None or own.cut is not None) and own.text[: len(other.text)] == other.text[: len(own.text)]:
        return True  # cut to the tokens that were left
    return (own.text, own.fault) == (other.text, other.fault)


def _content(tool: ToolIdentity) -> Mapping[str, Any]:
    inner = tool.content.get("of")
    return inner if isinstance(inner, dict) else tool.content


def _options(tool: ToolIdentity) -> dict[str, Any]:
    """The options that a tool was made with, as far as a stranger may say them.

    Numbers, but not those of a sandbox, which say how much of this machine it may take; and never text, which may name
    files.
    """
    content, known = _content(tool), registry.option_names(registry.tool_class(tool.name))
    if "sandbox" in content:
        return {}
    return {key: value for key, value in content.items() if key in known and isinstance(value, int | float)}
