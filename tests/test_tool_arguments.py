"""Arguments are checked before a tool sees them, whatever form its schema has."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, tool
from pydantic import BaseModel, ConfigDict

from helpers.calling import Order, call
from testbed.errors import FaultKind, UsageError
from testbed.protocol import parse
from testbed.tool import Tool, ToolSet
from testbed.types import canonical


class Shop(Tool):
    name: str = "shop"
    description: str = "Orders."
    args_schema: Any = Order

    def _run(self, count: int, size: str, to: str) -> str:
        return f"{count!r} {size} {to}"


SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["count"],
}


def mcp_like(schema: dict[str, Any] = SCHEMA) -> BaseTool:
    async def run(**arguments: Any) -> str:
        return canonical(arguments)

    return StructuredTool(name="shop", description="Orders.", args_schema=schema, coroutine=run)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [({"count": 2}, "2 small here"), ({"count": 2, "size": "big", "to": "x"}, "2 big x")],
)
async def test_pydantic_arguments_get_their_defaults_and_go_by_the_advertised_names(
    arguments: dict[str, Any], shown: str
) -> None:
    assert (await call([Shop()], "shop", arguments)).text == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "count: Field required"),
        ({"count": 0}, "count: Input should be greater than or equal to 1"),
        ({"count": "many"}, "count: Input should be a valid integer"),
        ({"count": 1, "siez": "big"}, "shop has no argument 'siez'. Did you mean 'size'?"),
        ({"count": 1, "from": "there"}, "shop has no argument 'from'."),
    ],
)
async def test_wrong_pydantic_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    result = await call([Shop()], "shop", arguments)
    assert result.fault is FaultKind.INVALID_ARGS
    assert message in result.text


async def test_a_validator_with_a_bug_ends_the_call_and_not_the_run() -> None:
    result = await call([Shop()], "shop", {"count": 1, "size": "boom"})
    assert result.fault is FaultKind.EXECUTION_ERROR
    assert "a bug in a validator" in result.text


@pytest.mark.parametrize("arguments", [{"count": 10**400}, {"count": 1, "size": "half \ud800"}])
async def test_extreme_arguments_reach_the_tool_and_what_it_says_can_be_stored(arguments: dict[str, Any]) -> None:
    result = await call([Shop()], "shop", arguments)
    assert result.fault is None
    result.text.encode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'count' is a required property"),
        ({"count": 0}, "count: 0 is less than the minimum of 1"),
        ({"count": "2"}, "count: '2' is not of type 'integer'"),
        ({"count": 1, "tags": ["a", "c"]}, "tags.1: 'c' is not one of ['a', 'b']"),
        ({"conut": 1}, "'count' is a required property. It describes no argument 'conut'. Did you mean 'count'?"),
    ],
)
async def test_wrong_json_schema_arguments_are_named_though_langchain_does_not_look(
    arguments: dict[str, Any], message: str
) -> None:
    result = await call([mcp_like()], "shop", arguments)
    assert result.fault is FaultKind.INVALID_ARGS
    assert message in result.text


async def test_right_json_schema_arguments_arrive() -> None:
    assert (await call([mcp_like()], "shop", {"count": 1, "tags": ["a"]})).text == '{"count":1,"tags":["a"]}'


async def test_a_json_schema_may_allow_further_arguments() -> None:
    for more in ({"additionalProperties": True}, {}):
        schema = {"type": "object", "properties": {}, **more}
        assert (await call([mcp_like(schema)], "shop", {"any": 1})).text == '{"any":1}'


async def test_a_json_schema_may_forbid_further_arguments() -> None:
    result = await call([mcp_like({**SCHEMA, "additionalProperties": False})], "shop", {"count": 1, "tgas": ["a"]})
    assert result.fault is FaultKind.INVALID_ARGS
    assert "shop has no argument 'tgas'. Did you mean 'tags'?" in result.text


async def test_a_pydantic_model_may_allow_further_arguments() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int = 1

    class Any_(Tool):
        name: str = "any"
        description: str = "Takes all."
        args_schema: Any = Open

        def _run(self, **arguments: Any) -> str:
            return canonical(arguments)

    assert (await call([Any_()], "any", {"b": 2})).text == '{"a":1,"b":2}'


def test_a_schema_that_is_none_is_refused_when_the_tool_is_offered() -> None:
    with pytest.raises(UsageError, match="tool shop: args_schema is not a JSON schema"):
        ToolSet([mcp_like({"type": "object", "properties": {"a": {"type": "text"}}})])


def test_arguments_that_only_a_framework_can_fill_in_are_refused_when_the_tool_is_offered() -> None:
    @tool
    def remember(text: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
        """Remembers."""
        return text

    with pytest.raises(UsageError, match=r"tool remember: .*call_id"):
        ToolSet([remember])


async def test_deeply_nested_arguments_do_not_break_the_validator() -> None:
    schema = {
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/tree"}},
    }
    text = '<tool_call>{"name":"shop","arguments":{"tree":' + "[" * 600 + "]" * 600 + "}}</tool_call>"
    (parsed,) = parse(text).calls
    assert parsed.fault is None
    assert (await call([mcp_like(schema)], "shop", parsed.arguments)).fault is FaultKind.INVALID_ARGS


async def test_a_megabyte_of_a_wrong_name_is_told_briefly() -> None:
    for result in [
        await call([Shop()], "shop" * 250_000),
        await call([Shop()], "shop", {"count" * 200_000: 1}),
    ]:
        assert len(result.text) < 400
        assert len(result.name) <= 100


async def test_only_arun_and_no_schema_is_enough_for_a_tool() -> None:
    class Only(Tool):
        name: str = "only"
        description: str = "Repeats."

        async def _arun(self, text: str, times: int = 2) -> str:
            return text * times

    toolset = ToolSet([Only()])
    assert set(toolset.schemas[0]["function"]["parameters"]["properties"]) == {"text", "times"}
    assert (await call(toolset, "only", {"text": "a"})).text == "aa"
    assert (await call([Only()], "only", {"text": "a", "times": "x"})).fault is FaultKind.INVALID_ARGS


def test_a_tool_that_implements_nothing_is_refused_and_not_scored_against_the_model() -> None:
    class Nothing(Tool):
        name: str = "nothing"
        description: str = "Does nothing."
        args_schema: Any = Order

    with pytest.raises(UsageError, match=r"nothing does nothing.*_run or _arun"):
        ToolSet([Nothing()])
