"""Tools as an arm offers them: validated, timed, limited, metered.

A tool is any `langchain_core.tools.BaseTool`. Subclasses of `Tool` may add what a measurement needs besides: a version,
a content fingerprint, state per attempt, and an uninformative form of their results for the placebo control. `ToolSet`
holds the tools of an arm, `Toolbox` those of one attempt. langchain neither validates JSON-schema arguments (as MCP
tools have) nor limits time, so both happen here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from langchain_core.tools import BaseTool

from testbed.budget import Meter
from testbed.edges import Foreign, Kept
from testbed.errors import (
    LONGEST_NAME,
    FaultKind,
    NotRecorded,
    ToolFault,
    TransportError,
    UsageError,
    did_you_mean,
)
from testbed.offer import Offer
from testbed.own_loop import OwnLoop
from testbed.results import NO_OUTPUT, as_text, cut, cut_to_tokens, of_fault, refusal
from testbed.threads import DaemonThreads
from testbed.tool_base import AttemptContext, Tool
from testbed.types import ToolCall, ToolResult, well_formed

__all__ = ["NO_OUTPUT", "AttemptContext", "Tool", "ToolSet", "Toolbox"]

# What HTTP libraries raise when a connection breaks: by name, since none of them is imported here.
_BROKEN = {
    ("requests", "ConnectionError"),
    ("httpx", "TransportError"),
    ("httpx2", "TransportError"),
    ("aiohttp", "ClientConnectionError"),
}


class ToolSet:
    """The tools of an arm, shared by all its attempts.

    Args:
        tools: langchain tools with different names.
        result_chars: longest result in characters; the rest is cut and the cut is stated.

    Raises:
        UsageError: two tools share a name, or a tool cannot be offered as it is.
    """

    def __init__(self, tools: Sequence[BaseTool] = (), result_chars: int = 20_000) -> None:
        self.offers: dict[str, Offer] = {}
        for tool in tools:
            if not isinstance(tool, BaseTool):
                raise UsageError(f"{tool!r:.80} is not a tool: give langchain tools, or their names to `make_env`.")
            if tool.name in self.offers:
                raise UsageError(f"two tools are named {tool.name!r}; rename one (with mcp:, by prefix or offer).")
            self.offers[tool.name] = Offer(tool)
        self.schemas = [offer.schema for offer in self.offers.values()]
        self.result_chars = result_chars
        self.threads, self.own_loop = DaemonThreads(8), OwnLoop()
        self._started: list[Tool] = []

    def fingerprint(self) -> list[dict[str, Any]]:
        """What identifies the tools in an arm's hash."""
        return [{**offer.fingerprint(), "result_chars": self.result_chars} for offer in self.offers.values()]

    def acts_on(self) -> dict[str, type]:
        """What each tool that acts on a game needs it to be, by name of the tool."""
        tools = [offer.tool for offer in self.offers.values() if isinstance(offer.tool, Tool)]
        return {tool.name: kind for tool in tools if (kind := tool.acts_on()) is not None}

    def stateful(self) -> list[str]:
        """Names of the tools whose results may depend on the attempt's earlier calls."""
        tools = [offer.tool for offer in self.offers.values() if isinstance(offer.tool, Tool)]
        return [tool.name for tool in tools if tool.keeps_state()]

    async def start(self) -> None:
        """Prepares every tool that is not prepared yet; if one cannot be, those that were are closed again."""
        async with contextlib.AsyncExitStack() as undo:  # if cancelled too: what was started must not outlive this
            undo.push_async_callback(self.aclose)
            for offer in self.offers.values():
                if isinstance(offer.tool, Tool) and offer.tool not in self._started:
                    await offer.tool.start()
                    self._started.append(offer.tool)
            undo.pop_all()

    async def aclose(self) -> None:
        """Frees what the tools hold."""
        self.threads.close()
        self._started.clear()
        tools = [offer.tool for offer in self.offers.values() if isinstance(offer.tool, Tool)]
        await _each([self.own_loop.aclose, *(tool.aclose for tool in tools)])

    def open(self, meter: Meter, count: Callable[[str], int], context: AttemptContext | None = None) -> Toolbox:
        """The tools for one attempt."""
        return Toolbox(self, meter, count, context or AttemptContext())


class Toolbox:
    """The tools of one attempt.

    Args:
        tools: the arm's tools.
        meter: books every call.
        count: tokens of a text, as the arm's model counts them.
        context: what tools may know of the attempt.
    """

    def __init__(self, tools: ToolSet, meter: Meter, count: Callable[[str], int], context: AttemptContext) -> None:
        self._set, self._meter, self._count, self._context = tools, meter, count, context
        self._serving: dict[str, BaseTool] = {}

    async def call(self, call: ToolCall) -> ToolResult:
        """Runs one call and books it. Faults of the model come back as results.

        Raises:
            InfrastructureError: the tool could not do its part.
            UsageError: the tool cannot work on this machine or as it was set up.
        """
        spent = self._spent(call.name)
        self._meter.charge_call(call.name)
        fault: FaultKind | None = None
        recorded: ToolResult | None = None
        try:
            offer = self._offered(call, spent)
            recorded = self._context.recorded.take(call) if self._context.recorded else None
            text = recorded.text if recorded else await self._execute(call, offer)
            fault = recorded.fault if recorded else None
        except ToolFault as error:
            fault, text = error.kind, of_fault(error.kind, str(error))
        return self._booked(call, cut(text, self._set.result_chars), fault, recorded)

    async def aclose(self) -> None:
        """Frees what the attempt's tools hold."""
        serving, self._serving = self._serving, {}
        if serving:
            await _each([tool.end_attempt for tool in serving.values() if isinstance(tool, Tool)])

    def _spent(self, name: str) -> str:
        """Why no call of the tool is left; "" if one is."""
        if self._meter.left("tool_calls") <= 0 or self._meter.left("observed_tokens") <= 0:
            return refusal(name, whole=True)
        return "" if self._meter.calls_left(name) > 0 else refusal(name, whole=False)

    def _booked(self, call: ToolCall, text: str, fault: FaultKind | None, recorded: ToolResult | None) -> ToolResult:
        """The result within the observed tokens that are left, booked.

        Raises:
            NotRecorded: more are left than of the recorded result was kept.
        """
        left, shown, at = self._meter.left("observed_tokens"), text, None
        if not math.isinf(left):
            shown = cut_to_tokens(text, int(left), self._count)
            at = int(left) if shown != text else None
        if recorded is not None and recorded.cut is not None and at is None:
            if left != recorded.cut:
                raise NotRecorded(
                    f"the recorded result of {call.name} was cut to the {recorded.cut} observed tokens that were left, "
                    "and more are left now; replay under the recorded budget."
                )
            at = recorded.cut
        tokens = self._count(shown) if fault or self._is_observed(call.name) else 0
        self._meter.charge_observed(tokens)
        return ToolResult(well_formed(call.name[:LONGEST_NAME]), shown, fault, tokens, at)

    def _is_observed(self, name: str) -> bool:
        tool = self._set.offers[name].tool if name in self._set.offers else None
        return not isinstance(tool, Tool) or tool.observes

    def _offered(self, call: ToolCall, spent: str) -> Offer:
        """The offer that a call is meant for; raises `ToolFault` where it cannot be made."""
        if call.fault is not None:
            raise ToolFault(call.fault, call.message)
        offer = self._set.offers.get(call.name)
        if offer is None:
            known = did_you_mean(call.name, self._set.offers) if self._set.offers else " No tools are offered."
            raise ToolFault(FaultKind.TOOL_NOT_FOUND, f"there is no tool {call.name[:LONGEST_NAME]!r}.{known}")
        if spent:
            raise ToolFault(FaultKind.BUDGET_EXHAUSTED, spent)
        return offer

    async def _execute(self, call: ToolCall, offer: Offer) -> str:
        if call.name not in self._serving:
            tool = offer.tool
            self._serving[call.name] = tool.for_attempt(self._context) if isinstance(tool, Tool) else tool
        with Foreign(partial(_meaning, call.name, offer.timeout), BaseException):
            return as_text(await self._invoke(self._serving[call.name], offer, offer.validate(call.arguments)))

    async def _invoke(self, tool: BaseTool, offer: Offer, arguments: dict[str, Any]) -> Any:
        # Our own tools are called directly: langchain's invoke costs more than most calls. Foreign ones get their
        # callbacks and config, and a loop that is not ours: they may block it, or raise what ends loops.
        if not offer.awaits:
            ours = isinstance(tool, Tool)
            run = (lambda: tool._run(**arguments)) if ours else (lambda: tool.invoke(arguments))
            result = await self._set.threads.run(run, offer.timeout, self._context.off_clock)
        elif isinstance(tool, Tool):
            async with asyncio.timeout(None if tool.keeps_time else offer.timeout):
                result = await tool._arun(**arguments)
        else:
            result = await self._set.own_loop.run(lambda: tool.ainvoke(arguments), offer.timeout)
        if isinstance(tool, Tool) and tool.response_format == "content_and_artifact":
            return result[0]
        return result


def _meaning(name: str, limit: float | None, error: BaseException) -> BaseException:
    """What a tool raised, as the result of its call; whoever is cancelled or interrupted from outside still is."""
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        return error
    if isinstance(error, TimeoutError):
        return ToolFault(FaultKind.TIMEOUT, f"{name}: {str(error) or _late(limit)}.")
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        cancelled = task is None or task.cancelling()
        return error if cancelled else ToolFault(FaultKind.EXECUTION_ERROR, "the call cancelled itself")
    if is_broken_connection(error):
        return TransportError(f"tool {name!r}: {error}")
    return ToolFault(FaultKind.EXECUTION_ERROR, f"{type(error).__name__}: {error}")


def _late(limit: float | None) -> str:
    return "timed out" if limit is None else f"took longer than {limit:g} s"  # its own limit, where it has none of ours


async def _each(actions: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Awaits every action, also after one of them failed; then raises the first failure."""
    failed: list[BaseException] = []
    for action in actions:
        with Kept() as kept:  # cancelled too: the others still end
            await action()
        failed += [kept.error] if kept.error is not None else []
    if failed:
        raise failed[0]


def is_broken_connection(error: BaseException) -> bool:
    """Whether what a tool raised says that a connection broke, which is no fault of the model."""
    names = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    return isinstance(error, ConnectionError) or not names.isdisjoint(_BROKEN)
