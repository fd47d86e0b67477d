"""What every tool must do, one property at a time; see `testbed.contract`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from jsonschema import Draft202012Validator
from langchain_core.tools import BaseTool

from testbed.budget import Budget, Meter
from testbed.contract import Finding, found, must, raised_by
from testbed.env import Environment, approximate_tokens
from testbed.errors import FaultKind
from testbed.spaces import Utf8
from testbed.tool import AttemptContext, Toolbox, ToolSet
from testbed.types import Control, ToolCall
from testbed.wrappers import under_control

HOSTILE = ("", " ", "\0", "\ud800", "-" * 100_000, "AND OR NOT (", "{}", "</tool_call>", "漢🙂")
EXAMPLES: Mapping[str, Any] = {"string": "example", "integer": 1, "number": 1.5, "boolean": True, "array": []}
BLAMES_THE_MODEL = (None, FaultKind.INVALID_ARGS, FaultKind.EXECUTION_ERROR)


class Subject:
    """A tool under examination.

    Args:
        make: makes one, or returns a finished one.
        arguments: of a call that it answers; by default the `examples` of its schema.
        env: where it has something to act on, if it acts on games.
    """

    def __init__(
        self, make: Callable[[], BaseTool], arguments: Mapping[str, Any] | None = None, env: Environment | None = None
    ) -> None:
        self.make, self._env = make, env
        tool = make()
        self.schema: dict[str, Any] = ToolSet([tool]).schemas[0]["function"]
        self.call = ToolCall(tool.name, example(tool, self.schema) if arguments is None else arguments)

    @asynccontextmanager
    async def live(self, *controls: Control) -> AsyncIterator[ToolSet]:
        """The tool ready for calls."""
        tools = [self.make()]
        tool_set = ToolSet(under_control(tools, controls[0]) if controls else tools)
        try:
            await tool_set.start()
            yield tool_set
        finally:
            await tool_set.aclose()

    @asynccontextmanager
    async def attempt(self, tools: ToolSet, context: AttemptContext | None = None) -> AsyncIterator[Toolbox]:
        """The tool as one attempt has it."""
        context = context or AttemptContext()
        if tools.acts_on():
            must(self._env is not None, "it acts on a game: name an environment that makes one with --env")
            assert self._env is not None
            context = self._env.enter(self._env.tasks[0], tools, context)
        box = tools.open(Meter(Budget()), approximate_tokens, context)
        try:
            yield box
        finally:
            await box.aclose()

    def with_text(self, text: str) -> ToolCall:
        """The call with every text argument replaced."""
        changed = {name: text if isinstance(value, str) else value for name, value in self.call.arguments.items()}
        return ToolCall(self.call.name, changed)


def example(tool: BaseTool, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call: the first of a field's `examples`, else something of the right type."""
    # What models are told of a tool holds no examples: langchain drops them.
    own = tool.args_schema
    schema_of = getattr(own or tool.get_input_schema(), "model_json_schema", dict)
    fields = (own if isinstance(own, dict) else schema_of()).get("properties", {})
    arguments: dict[str, Any] = {}
    for name in schema["parameters"].get("required", ()):
        kind = schema["parameters"]["properties"][name].get("type", "string")
        arguments[name] = next(iter(fields.get(name, {}).get("examples", ())), EXAMPLES.get(kind, {}))
    return arguments


def check_tool(subject: Subject) -> Iterator[Finding]:
    """Looks at a tool."""
    for what, holds in TOOL.items():
        yield found(what, raised_by(partial(_run, holds, subject)))


def _run(check: Callable[[Subject], Coroutine[Any, Any, None]], subject: Subject) -> None:
    asyncio.run(check(subject))


async def _says_what_it_is(subject: Subject) -> None:
    parameters = subject.schema["parameters"]
    must(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", subject.schema["name"]), "its name is none that models can call")
    must(str(subject.schema.get("description", "")).strip(), "it has no description")
    Draft202012Validator.check_schema(parameters)
    silent = [name for name, field in parameters["properties"].items() if not field.get("description")]
    must(not silent, f"models are not told what {', '.join(silent)} means: give Field(description=…)")


async def _is_identified(subject: Subject) -> None:
    one, two = (json.dumps(ToolSet([subject.make()]).fingerprint(), sort_keys=True) for _ in range(2))
    must(one == two, "two instances with the same options have other fingerprints")


async def _answers_and_repeats(subject: Subject) -> None:
    async with subject.live() as tools, subject.attempt(tools) as box:
        first, second = [await box.call(subject.call) for _ in range(2)]
    must(
        first.fault is None, f"{dict(subject.call.arguments)} is refused ({first.text[:200]}); name others with --call"
    )
    must(first.text.strip(), "it returns nothing")
    must(first == second, "the same call has other results")


async def _checks_arguments(subject: Subject) -> None:
    call = subject.call
    wrong: Sequence[dict[str, Any]] = [{**call.arguments, "surplus": 1}, dict.fromkeys(call.arguments)]
    async with subject.live() as tools, subject.attempt(tools) as box:
        for arguments in [{}, *wrong] if subject.schema["parameters"].get("required") else wrong[:1]:
            fault = (await box.call(ToolCall(call.name, arguments))).fault
            must(fault is FaultKind.INVALID_ARGS, f"{arguments} is not refused as invalid_args")


async def _cannot_be_broken(subject: Subject) -> None:
    async with subject.live() as tools, subject.attempt(tools) as box:
        for text in HOSTILE:
            result = await box.call(subject.with_text(text))
            must(result.fault in BLAMES_THE_MODEL, f"{text[:20]!r} ends in {result.fault}: {result.text[:200]}")
            must(result.text in Utf8(), f"{text[:20]!r} returns text that UTF-8 cannot hold")
        must((await box.call(subject.call)).fault is None, "after odd arguments it answers no more")


async def _keeps_attempts_apart(subject: Subject) -> None:
    async with subject.live() as tools:
        async with subject.attempt(tools) as alone, subject.attempt(tools) as other:
            first = await alone.call(subject.call)
            await other.call(subject.with_text("0"))
        async with subject.attempt(tools) as third:
            must(await third.call(subject.call) == first, "an attempt's results depend on what another one asked")


async def _starts_again(subject: Subject) -> None:
    async with subject.live() as tools:
        async with subject.attempt(tools) as box:
            before = await box.call(subject.call)
        await tools.aclose()
        await tools.start()
        async with subject.attempt(tools) as box:
            must(await box.call(subject.call) == before, "once closed and started again it has other results")


async def _placebo_tells_nothing(subject: Subject) -> None:
    async with subject.live() as tools, subject.attempt(tools) as box:
        lines = set((await box.call(subject.call)).text.splitlines())
    async with subject.live(Control.INERT) as inert:
        must(inert.schemas == tools.schemas, "its placebo looks different")
        must(inert.fingerprint() != tools.fingerprint(), "its placebo has the fingerprint of the tool itself")
        blank = []
        for key in (1, 1, 2):
            async with subject.attempt(inert, AttemptContext(key)) as box:
                blank.append(await box.call(subject.call))
    must(blank[0] == blank[1], "the placebo's results do not repeat: draw them from the generator it is given")
    must(all(result.fault is None for result in blank), f"the placebo fails: {blank[0].text[:200]}")
    must(not lines & {line for result in blank for line in result.text.splitlines()}, "the placebo tells the result")


async def _replays(subject: Subject) -> None:
    yoked = ToolSet(under_control([subject.make()], Control.YOKED))
    box = yoked.open(Meter(Budget()), approximate_tokens, AttemptContext(1, iter(["first", "second"])))
    shown = [(await box.call(subject.call)).text for _ in range(3)]
    must(shown[:2] == ["first", "second"], f"replayed results come out as {shown[:2]}")
    must(shown[2] not in shown[:2], "what is replayed comes again where there is nothing left")


TOOL: Mapping[str, Callable[[Subject], Coroutine[Any, Any, None]]] = {
    "it says what it is: name, description, arguments": _says_what_it_is,
    "its fingerprint is the same in every instance": _is_identified,
    "it answers and repeats itself": _answers_and_repeats,
    "arguments are checked": _checks_arguments,
    "no argument can break it": _cannot_be_broken,
    "attempts do not see each other": _keeps_attempts_apart,
    "it can be started again": _starts_again,
    "its placebo looks alike and tells nothing": _placebo_tells_nothing,
    "its results can be replayed": _replays,
}
