"""JSON schemas of other people's tools."""

from __future__ import annotations

import time
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool

from helpers.calling import call
from testbed.errors import FaultKind, UsageError
from testbed.schemas import ArgumentSchema
from testbed.types import canonical

INTEGER, TEXT = {"type": "integer"}, {"type": "string"}
EITHER = {
    "type": "object",
    "anyOf": [{"properties": {"page": INTEGER}, "required": ["page"]}, {"$ref": "#/$defs/named"}],
    "$defs": {"named": {"properties": {"title": TEXT}, "required": ["title"]}},
}


def tool_of(schema: dict[str, Any]) -> BaseTool:
    async def run(**arguments: Any) -> str:
        return canonical(arguments)

    return StructuredTool(name="t", description="d", args_schema=schema, coroutine=run)


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, EITHER, {"properties": {"other": TEXT}}])
async def test_what_a_schema_does_not_forbid_arrives(schema: dict[str, Any]) -> None:
    result = await call([tool_of(schema)], "t", {"page": 1})
    assert (result.fault, result.text) == (None, '{"page":1}')


@pytest.mark.parametrize(
    ("schema", "arguments", "says"),
    [
        (EITHER, {"titel": "x"}, "It describes no argument 'titel'. Did you mean 'title'?"),
        (EITHER, {"pgae": 1}, "Did you mean 'page'?"),
        (EITHER, {"page": "x"}, "page: 'x' is not of type 'integer'"),
        ({"properties": {"page": INTEGER}, "required": ["page"]}, {"pgae": 1}, "required property. It describes no"),
        (
            {"properties": {"page": INTEGER}, "additionalProperties": False},
            {"pgae": 1},
            "t has no argument 'pgae'. Did",
        ),
        ({"additionalProperties": INTEGER}, {"page": "x"}, "page: 'x' is not of type 'integer'"),
        ({"properties": {"page": INTEGER}, "unevaluatedProperties": False}, {"pgae": 1}, "Did you mean 'page'?"),
    ],
)
async def test_what_a_schema_forbids_is_named_with_the_nearest_argument(
    schema: dict[str, Any], arguments: dict[str, Any], says: str
) -> None:
    result = await call([tool_of(schema)], "t", arguments)
    assert result.fault is FaultKind.INVALID_ARGS
    assert says in result.text


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"P": {"$anchor": "here", **INTEGER}}, "properties": {"x": {"$ref": "#here"}}},
        {"$id": "http://example.com/s", "$defs": {"P": INTEGER}, "properties": {"x": {"$ref": "s#/$defs/P"}}},
        {"properties": {"$ref": TEXT, "x": INTEGER}},
        {"components": {"schemas": {"P": INTEGER}}, "properties": {"x": {"$ref": "#/components/schemas/P"}}},
        {"$dynamicAnchor": "top", "properties": {"x": INTEGER, "inner": {"$dynamicRef": "#top"}}},
    ],
)
async def test_references_are_followed_and_properties_that_look_like_some_are_none(schema: dict[str, Any]) -> None:
    assert (await call([tool_of(schema)], "t", {"x": 1})).text == '{"x":1}'
    assert (await call([tool_of(schema)], "t", {"x": "a"})).fault is FaultKind.INVALID_ARGS


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"x": {"$ref": "#/$defs/Nope"}}}, "'#/[$]defs/Nope', which it does not hold"),
        ({"properties": {"x": {"$ref": "#nope"}}}, "'#nope', which it does not hold"),
        (
            {"properties": {"x": {"$ref": "http://example.com/x.json"}}},
            "'http://example.com/x.json', which it does not",
        ),
        ({"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}, "in a circle"),
        ({"properties": {"x": {"pattern": "("}}}, "no regular expression"),
        ({"type": "objekt"}, "is not a JSON schema"),
        ({"$schema": 7}, "is not a JSON schema"),
    ],
)
def test_schemas_that_cannot_be_used_say_why(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ArgumentSchema(schema)


OLD = "http://json-schema.org/draft-07/schema#"
PAIR = {"$schema": OLD, "properties": {"x": {"type": "array", "items": [INTEGER, TEXT]}}}
ABOVE = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "properties": {"x": {"minimum": 0, "exclusiveMinimum": True}},
}


@pytest.mark.parametrize(("schema", "right", "wrong"), [(PAIR, [1, "a"], ["a", 1]), (ABOVE, 1, 0)])
def test_a_schema_is_read_by_its_own_draft(schema: dict[str, Any], right: Any, wrong: Any) -> None:
    assert ArgumentSchema(schema).first_error({"x": right}) is None
    assert ArgumentSchema(schema).first_error({"x": wrong}) is not None


SLOW = r"^(\w|\w\w)+$"
DOOMED = "x" * 60 + "!"


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {"x": {"pattern": SLOW}}}, {"x": DOOMED}),
        ({"$schema": OLD, "properties": {"x": {"$ref": "#/definitions/P"}}, "definitions": {"P": {"pattern": SLOW}}},
         {"x": DOOMED}),
        ({"patternProperties": {SLOW: INTEGER}, "additionalProperties": False}, {DOOMED: 1}),
        ({"patternProperties": {SLOW: INTEGER}, "unevaluatedProperties": False}, {DOOMED: 1}),
        ({"propertyNames": {"pattern": SLOW}}, {DOOMED + str(n): 1 for n in range(200)}),
        ({"$schema": OLD, "properties": {"x": {"$ref": "#"}, "y": {"pattern": SLOW}}}, {"x": {"y": DOOMED}}),
    ],
)  # fmt: skip
def test_regular_expressions_that_take_for_ever_are_left_to_the_tool(
    schema: dict[str, Any], arguments: dict[str, Any]
) -> None:
    began = time.monotonic()
    assert ArgumentSchema(schema).first_error(arguments) is None
    assert time.monotonic() - began < 3


def test_regular_expressions_are_those_of_other_languages_too() -> None:
    schema = ArgumentSchema({"properties": {"x": {"pattern": r"^\p{Lu}"}}, "patternProperties": {"^n_": INTEGER}})
    assert schema.first_error({"x": "Änderung", "n_a": 1}) is None
    assert "does not match" in schema.first_error({"x": "änderung"}).message  # type: ignore[union-attr]
    assert schema.first_error({"n_a": "x"}) is not None
