"""Tools as an arm offers them: validated, timed, limited, metered.

A tool is any `langchain_core.tools.BaseTool`. Subclasses of `Tool` may add what a measurement needs besides: a version,
a content fingerprint, state per attempt, and an uninformative form of their results for the placebo control. `ToolSet`
holds the tools of an arm, `Toolbox` those of one attempt. langchain neither validates JSON-schema arguments (as MCP
tools have) nor limits time, so both happen here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.budget import Meter
from testbed.errors import FaultKind, InfrastructureError, ToolFault, TransportError, UsageError, did_you_mean
from testbed.threads import DaemonThreads
from testbed.types import ToolCall, ToolResult

NO_OUTPUT = "(no output)"


@dataclass(frozen=True)
class AttemptContext:
    """What a tool may know of the attempt it serves: nothing of the task or its reference.

    Attributes:
        key: the attempt's random stream, see `testbed.types.stream_key`.
        replay: results to replay in order (yoked arms), shared by all tools of the attempt; None elsewhere.
    """

    key: int = 0
    replay: Iterator[str] | None = None


class Tool(BaseTool):
    """Base of tools that say more about themselves than langchain asks for; plain `BaseTool`s work too.

    Implement `_run` (runs in a thread) or `_arun` (runs on the event loop). Raise `ToolFault` to name a fault of the
    model, an `InfrastructureError` for one of yours; any other exception becomes execution_error.

    Attributes:
        version: raise it when results change; part of the arm's identity.
        timeout: wall seconds a call may take.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    version: str = "1"
    timeout: float = 10.0

    def fingerprint(self) -> dict[str, Any]:
        """Everything besides name, version and schema that can change a result: index hash, image digest, options."""
        return {}

    def for_attempt(self, context: AttemptContext) -> Tool:
        """The object that serves one attempt; `self` for tools that keep no state."""
        return self

    async def end_attempt(self) -> None:
        """Frees what `for_attempt` took."""

    async def start(self) -> None:
        """Prepares shared resources before a run."""

    async def aclose(self) -> None:
        """Frees shared resources after a run."""

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """An uninformative result of the usual shape, for the placebo control."""
        return NO_OUTPUT

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"tool {self.name!r} implements neither _run nor _arun")


class _Offer:
    """One tool with its compiled validator and its way of being called."""

    def __init__(self, tool: BaseTool) -> None:
        self.tool = tool
        self.schema: dict[str, Any] = convert_to_openai_tool(tool)
        parameters = self.schema["function"].setdefault("parameters", {"type": "object", "properties": {}})
        self.properties = frozenset(parameters.get("properties", {}))
        self.open = parameters.get("additionalProperties", False) is not False
        own = tool.args_schema
        self._model = own if isinstance(own, type) and issubclass(own, BaseModel) else None
        self._json = None if self._model else Draft202012Validator(own if isinstance(own, dict) else parameters)
        self.awaits = type(tool)._arun is not BaseTool._arun
        self.timeout = tool.timeout if isinstance(tool, Tool) else 10.0

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the tool takes them.

        Raises:
            ToolFault: invalid_args, saying which and why.
        """
        for name in arguments:
            if name not in self.properties and not self.open:
                near = did_you_mean(name, self.properties)
                raise ToolFault(FaultKind.INVALID_ARGS, f"{self.tool.name} has no argument {name!r}.{near}")
        if self._model is not None:
            try:
                model = self._model.model_validate(arguments)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(str(part) for part in first["loc"]) or "arguments"
                raise ToolFault(FaultKind.INVALID_ARGS, f"{where}: {first['msg']}") from None
            return {name: getattr(model, name) for name in self._model.model_fields}
        assert self._json is not None
        wrong = best_match(self._json.iter_errors(dict(arguments)))
        if wrong is not None:
            where = ".".join(str(part) for part in wrong.absolute_path) or "arguments"
            raise ToolFault(FaultKind.INVALID_ARGS, f"{where}: {wrong.message[:200]}")
        return dict(arguments)


class ToolSet:
    """The tools of an arm, shared by all its attempts.

    Args:
        tools: langchain tools with different names.
        result_chars: longest result in characters; the rest is cut and the cut is stated.

    Raises:
        UsageError: two tools share a name.
    """

    def __init__(self, tools: Sequence[BaseTool] = (), result_chars: int = 20_000) -> None:
        self.offers: dict[str, _Offer] = {}
        for tool in tools:
            if tool.name in self.offers:
                raise UsageError(f"two tools are named {tool.name!r}; rename one of them.")
            self.offers[tool.name] = _Offer(tool)
        self.schemas = [offer.schema for offer in self.offers.values()]
        self.result_chars = result_chars
        self.threads = DaemonThreads(8)

    def fingerprint(self) -> list[dict[str, Any]]:
        """What identifies the tools in an arm's hash."""
        return [
            {
                "schema": offer.schema,
                "version": getattr(offer.tool, "version", "0"),
                "content": offer.tool.fingerprint() if isinstance(offer.tool, Tool) else {},
            }
            for offer in self.offers.values()
        ]

    async def start(self) -> None:
        """Prepares every tool."""
        for offer in self.offers.values():
            if isinstance(offer.tool, Tool):
                await offer.tool.start()

    async def aclose(self) -> None:
        """Frees what the tools hold."""
        for offer in self.offers.values():
            if isinstance(offer.tool, Tool):
                await offer.tool.aclose()
        self.threads.close()

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
        """
        allowed = min(self._meter.calls_left(call.name), self._meter.left("observed_tokens"))
        self._meter.charge_call(call.name)
        fault: FaultKind | None = None
        try:
            text = await self._execute(call, allowed)
        except ToolFault as error:
            fault, text = error.kind, f"error: {error.kind}: {error}"
        text = self._limit(text)
        self._meter.charge_observed(self._count(text))
        return ToolResult(call.name, text, fault)

    async def aclose(self) -> None:
        """Frees what the attempt's tools hold."""
        serving, self._serving = self._serving, {}
        for tool in serving.values():
            if isinstance(tool, Tool):
                await tool.end_attempt()

    async def _execute(self, call: ToolCall, allowed: float) -> str:
        if call.fault is not None:
            raise ToolFault(call.fault, call.message)
        offer = self._set.offers.get(call.name)
        if offer is None:
            known = did_you_mean(call.name, self._set.offers) if self._set.offers else " No tools are offered."
            raise ToolFault(FaultKind.TOOL_NOT_FOUND, f"there is no tool {call.name!r}.{known}")
        if allowed <= 0:
            raise ToolFault(FaultKind.BUDGET_EXHAUSTED, "the tool budget is spent; answer now.")
        arguments = offer.validate(call.arguments)
        tool = self._serve(call.name, offer)
        try:
            async with asyncio.timeout(offer.timeout):
                result = await self._invoke(tool, offer, arguments)
        except TimeoutError:
            raise ToolFault(FaultKind.TIMEOUT, f"{call.name} took longer than {offer.timeout:g} s.") from None
        except (ToolFault, InfrastructureError):
            raise
        except ConnectionError as error:
            raise TransportError(f"tool {call.name!r}: {error}") from error
        except Exception as error:  # third-party code: whatever it raises is the result of the call
            raise ToolFault(FaultKind.EXECUTION_ERROR, f"{type(error).__name__}: {error}") from error
        return _as_text(result)

    def _serve(self, name: str, offer: _Offer) -> BaseTool:
        if name not in self._serving:
            tool = offer.tool
            self._serving[name] = tool.for_attempt(self._context) if isinstance(tool, Tool) else tool
        return self._serving[name]

    async def _invoke(self, tool: BaseTool, offer: _Offer, arguments: dict[str, Any]) -> Any:
        # Our own tools are called directly: langchain's invoke costs more than most calls. Foreign ones get their
        # callbacks and config.
        if not isinstance(tool, Tool):
            return await tool.ainvoke(arguments)
        if offer.awaits:
            return await tool._arun(**arguments)
        return await self._set.threads.run(lambda: tool._run(**arguments))

    def _limit(self, text: str) -> str:
        limit = self._set.result_chars
        if len(text) > limit:
            text = f"{text[:limit]}\n[{len(text) - limit} more characters cut]"
        left = self._meter.left("observed_tokens")
        return text if math.isinf(left) else _cut_to_tokens(text, int(left), self._count)


def _cut_to_tokens(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """The longest prefix of `text` that counts at most `tokens`, found by bisection on characters."""
    if count(text) <= tokens:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= tokens:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def _as_text(result: Any) -> str:
    if isinstance(result, bytes):
        result = result.decode("utf-8", "replace")
    # Lone surrogates cannot be stored or tokenised; they become the replacement character.
    return str(result).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
