"""Tool results made again with this server's own tools, over its own corpora, and looked through for leaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from testbed import registry
from testbed.board.verify.arms import EntryArm, ToolIdentity
from testbed.board.verify.findings import listed
from testbed.board.verify.remade import UNSTEADY, compared, is_same, less_own_words, machine_words, may_draw
from testbed.board.verify.spread import Forged
from testbed.budget import Budget, Meter
from testbed.corpus import Corpus
from testbed.env import Environment
from testbed.errors import DataError, FaultKind, InfrastructureError, SandboxUnavailable, UsageError
from testbed.overlap import Question
from testbed.registry import make_corpus
from testbed.replay import Exchange, exchanges, refused
from testbed.report.leaks import CODE, overlap_shown
from testbed.store.records import differences
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Control, Message, Task, ToolCall, ToolResult
from testbed.wrappers import under_control

_FROM_TOOLS = (FaultKind.INVALID_ARGS, *UNSTEADY)  # faults whose words are not the testbed's own


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
        count: tokens of a text as the arm's model counts them; None where that is not known here.

    Attributes:
        why_not: why they cannot be made here; "" where they can.
        isolated: whether they are made in a sandbox, which takes its time.
    """

    def __init__(self, arm: EntryArm, corpora: Corpora, count: Callable[[str], int] | None = None) -> None:
        self._arm, self._count = arm, count
        self._words = {tool.name: machine_words(tool.name, tool.model_dump()) for tool in arm.tools}
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
        try:
            tools = ToolSet(under_control(made, self._arm.control))
        except UsageError as error:  # an option that a tool takes, and that no call can be made with
            return f"they cannot be offered here: {error}"
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

    async def check(self, transcript: Sequence[Message], task: Task, environment: Environment, key: int) -> bool:
        """Makes the results of an attempt again, in order. Returns whether every one could be compared.

        Raises:
            Forged: one of them is not what the tool returns, as far as it always returns the same.
        """
        assert self._tools is not None
        # What no tool had was told anew when the attempt was gone through.
        recorded = [each for each in exchanges(transcript) if each.call.fault is None and not refused(*each)]
        made = await self._made(recorded, task, environment, key)
        if all(is_same(own, result, self._count) for own, (_, result) in zip(made, recorded, strict=True)):
            return True
        again = await self._made(recorded, task, environment, key)  # a program may tell the time, or draw numbers
        return self._compared(recorded, made, again)

    def _compared(self, recorded: Sequence[Exchange], made: Sequence[ToolResult], again: Sequence[ToolResult]) -> bool:
        assert self._tools is not None
        whole, stateful, chance = True, bool(self._tools.stateful()), False
        for n, ((call, result), own, second) in enumerate(zip(recorded, made, again, strict=True)):
            found = compared(own, second, result, self._words.get(call.name, frozenset()), self._count)
            chance = may_draw(call.arguments) or (stateful and chance)
            if found == "other" and chance:
                found = "open"  # a coin falls the same way twice, now and then
            if found == "other":
                what = f"the result of its call {n + 1}, of {call.name}"
                raise Forged(f"{what}, is {_brief(result)}, and here it is {_brief(own)}", "tools")
            whole = whole and found == "same"
            if not whole and stateful:  # tools with a memory may remember what was left half done
                return False
        return whole

    async def _made(
        self, recorded: Sequence[Exchange], task: Task, environment: Environment, key: int
    ) -> list[ToolResult]:
        assert self._tools is not None
        context = environment.enter(task, self._tools, AttemptContext(key))
        # Without limits, so that results are whole: where they were cut was checked with the transcript.
        box = self._tools.open(Meter(Budget(turns=None)), lambda text: 0, context)
        try:
            return [await box.call(exchange.call) for exchange in recorded]
        finally:
            await box.aclose()


def _brief(result: ToolResult) -> str:
    cut = ", cut" if result.cut is not None else ""
    return f"{result.text!r:.120}" + (f" ({result.fault}{cut})" if result.fault else cut)


def leak_of(question: Question | None, transcript: Sequence[Message]) -> float:
    """How much of a task a transcript's tool results show together with its answer, where that is a leak; else 0.

    Faults too: their text is a tool's, or says that it is. What it repeats of its call shows nothing.
    """
    if question is None:
        return 0.0
    if overlap := overlap_shown(question, transcript):
        return overlap
    shown = [
        less_own_words(call.arguments, result.text)
        for call, result in exchanges(transcript)
        if result.fault in _FROM_TOOLS and call.fault is None and not _holds(question, call)
    ]
    return question.flagged("\n".join(shown)) if shown else 0.0


def _holds(question: Question, call: ToolCall) -> bool:
    """Whether a call holds the question itself, which a fault may then repeat in part, or in other letters."""
    told = json.dumps(dict(call.arguments), ensure_ascii=False)
    return bool(question.flagged(told)) or (CODE in call.arguments and question.stands(told))


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
