from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testbed.errors import FaultKind
from testbed.protocol import encode_native, escape, instructions, parse, parse_call, write_answer, write_call
from testbed.types import canonical

TAGS = ["<tool_call>", "</tool_call>", "<answer>", "</answer>", "<tool_result>", "\\u003c/tool_call>", "<", "&lt;"]
# Any text at all, lone surrogates included, with the protocol's own markup mixed in.
texts = st.lists(st.sampled_from(TAGS) | st.text(max_size=8) | st.text(st.characters(), max_size=4), max_size=5).map(
    "".join
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
arguments_of_calls = st.dictionaries(texts, json_values, max_size=4)


def joined(value: Any) -> Any:
    """JSON cannot tell two halves of a surrogate pair from the pair: both sides are compared as pairs."""
    return json.loads(json.dumps(value))


@given(texts, arguments_of_calls)
@example("python", {"code": "print('</tool_call>')", "n": 10**300, "x": 1e-300, "half": "\ud800"})
def test_a_written_call_is_read_back_exactly(name: str, arguments: dict[str, Any]) -> None:
    text = write_call(name, arguments)
    text.encode()  # and can be stored
    (call,) = parse(f"prose before {text}").calls
    assert (call.name, call.arguments, call.fault) == (joined(name), joined(arguments), None)


@given(st.lists(st.tuples(texts, arguments_of_calls), min_size=1, max_size=4), st.sampled_from(["", " and ", "\n"]))
def test_several_calls_are_read_in_order(calls: list[tuple[str, dict[str, Any]]], between: str) -> None:
    action = parse(between.join(write_call(*call) for call in calls))
    assert [(c.name, c.arguments) for c in action.calls] == [(joined(n), joined(a)) for n, a in calls]
    assert action.answer is None


@given(texts)
@example("<answer>" * 3 + "</tool_call>")
@example("<tool_call>" + "9" * 5000 + "</tool_call>")
@example("<tool_call>" + "[" * 100_000)
def test_reading_never_raises_and_never_both_answers_and_calls(text: str) -> None:
    action = parse(text)
    assert action.answer is None or not action.calls
    for call in action.calls:
        assert call.fault is not None or canonical(call.arguments)


def nested(depth: int, pair: str) -> str:
    inner = ('{"a":' * depth + "1" + "}" * depth) if pair == "{}" else "[" * depth + "]" * depth
    return f'<tool_call>{{"name":"x","arguments":{{"a":{inner}}}}}</tool_call>'


@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_deep_nesting_is_read_and_bottomless_nesting_is_a_parse_error(pair: str) -> None:
    assert parse(nested(100, pair)).calls[0].fault is None
    assert parse(nested(100_000, pair)).calls[0].fault is FaultKind.PARSE_ERROR


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
@pytest.mark.parametrize("close", ["</tool_call>", ""])
def test_numbers_that_canonical_json_cannot_hold_are_parse_errors(number: str, close: str) -> None:
    (call,) = parse(f'<tool_call>{{"name":"x","arguments":{{"a":{number}}}}}{close}').calls
    assert call.fault is FaultKind.PARSE_ERROR
    assert call.message


@pytest.mark.parametrize("number", [10**400, -(10**4000), 1e308, 5e-324, -0.0], ids=lambda n: str(n)[:8])
def test_huge_and_tiny_numbers_are_kept(number: float) -> None:
    (call,) = parse(write_call("x", {"a": number})).calls
    assert canonical(call.arguments) == canonical({"a": number})


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>4</answer>", "4"),
        ("so <answer>\n 4 </answer> is it", "4"),
        ("<answer></answer>", ""),
        ("<answer>4</answer><answer>5</answer>", "4"),
        ("I write it in <answer> tags. <answer>4</answer>", "4"),
        ("<answer>cut <answer>4</answer>", "4"),
        ("<answer>4</answer><tool_call>{}</tool_call>", "4"),
        ("<answer>a <tool_call>{} b</answer>", "a <tool_call>{} b"),
        ("</answer><answer>4</answer>", "4"),
        ("<answer>1 < 2 </tool_call></answer>", "1 < 2 </tool_call>"),
    ],
)
def test_the_first_complete_answer_is_the_answer(text: str, answer: str) -> None:
    assert parse(text).answer == answer
    assert parse(text).calls == ()


@pytest.mark.parametrize(
    "text", ["", "4", "<answer>4", "</answer>", "<answer >4</answer>", "<ANSWER>4</ANSWER>", "&lt;answer>4</answer>"]
)
def test_without_a_complete_tag_a_message_does_nothing(text: str) -> None:
    action = parse(text)
    assert action.answer is None
    assert action.calls == ()


def test_an_answer_after_a_call_is_ignored_for_it_was_written_before_the_result() -> None:
    action = parse(write_call("x", {}) + "<answer>4</answer>" + write_call("y", {}))
    assert action.answer is None
    assert [call.name for call in action.calls] == ["x"]


def test_an_answer_inside_the_arguments_of_a_call_is_no_answer() -> None:
    text = '<tool_call>{"name":"x","arguments":{"q":"<answer>4</answer>"}}</tool_call>'
    (call,) = parse(text).calls
    assert call.arguments == {"q": "<answer>4</answer>"}


def test_an_unclosed_answer_does_not_hide_a_call() -> None:
    assert [call.name for call in parse("<answer>maybe 4 " + write_call("x", {})).calls] == ["x"]


def test_a_call_whose_closing_tag_was_dropped_as_a_stop_string_is_complete() -> None:
    (call,) = parse(write_call("x", {"a": 1}).removesuffix("</tool_call>") + "\n").calls
    assert (call.name, call.arguments, call.fault) == ("x", {"a": 1}, None)


def test_a_call_that_was_cut_short_is_a_parse_error_and_takes_the_rest_with_it() -> None:
    action = parse('<tool_call>{"name":"x","arguments":{"a":"<answer>4</answer>')
    assert action.answer is None
    (call,) = action.calls
    assert call.fault is FaultKind.PARSE_ERROR
    assert "</tool_call>" in call.message


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("", FaultKind.PARSE_ERROR),
        ("{", FaultKind.PARSE_ERROR),
        ("[]", FaultKind.PARSE_ERROR),
        ("null", FaultKind.PARSE_ERROR),
        ('{"name": 3}', FaultKind.PARSE_ERROR),
        ('{"arguments": {}}', FaultKind.PARSE_ERROR),
        ('{"name": "x"} {"name": "y"}', FaultKind.PARSE_ERROR),
        ("{'name': 'x'}", FaultKind.PARSE_ERROR),
        ('{"name": "x", "arguments": []}', FaultKind.INVALID_ARGS),
        ('{"name": "x", "arguments": "{}"}', FaultKind.INVALID_ARGS),
        ('{"name": "x", "arguments": null}', FaultKind.INVALID_ARGS),
        ('{"name": "x"}', None),
        ('\n {"name": "x", "arguments": {}, "id": 7}\n', None),
    ],
)
def test_bodies_of_calls_are_read_strictly_and_faults_have_reasons(body: str, fault: FaultKind | None) -> None:
    call = parse_call(body)
    assert call.fault is fault
    assert bool(call.message) is (fault is not None)


def test_one_broken_call_does_not_hide_the_next() -> None:
    calls = parse("<tool_call>{</tool_call>" + write_call("x", {})).calls
    assert [call.fault for call in calls] == [FaultKind.PARSE_ERROR, None]


MEGABYTE = 1_000_000
SHAPES: list[Callable[[int], str]] = [
    lambda n: "<answer>" * (n // 8),
    lambda n: "<tool_call>" * (n // 11),
    lambda n: "<tool_call></tool_call>" * (n // 23),
    lambda n: "<answer>" * (n // 16) + "</tool_call>" * (n // 24),
    lambda n: "<tool_call>" + "[" * n,
    lambda n: "<tool_call>" + "x" * n + "</tool_call>",
    lambda n: "<answer>" + "<answer" * (n // 7) + "</answer>",
    lambda n: "<" * n,
    lambda n: write_call("x", {"a": "<" * (n // 6)}),
    lambda n: "<answer>" * (n // 8) + "</answer>",
]


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_a_megabyte_of_anything_is_read_in_linear_time(shape: Callable[[int], str]) -> None:
    text = shape(MEGABYTE)
    start = time.process_time()
    parse(text)
    escape(text)
    assert time.process_time() - start < 2  # quadratic reading takes minutes


@given(texts)
def test_escaped_prose_has_no_tag_left_and_other_text_is_left_alone(text: str) -> None:
    escaped = escape(text)
    assert parse(escaped) == parse("")
    assert "<tool_result>" not in escaped
    assert escaped.replace("&lt;", "<") == text.replace("&lt;", "<")


def test_answers_round_trip() -> None:
    assert parse(write_answer("4 < 5")).answer == "4 < 5"


# -- native calls


@given(texts, st.lists(st.tuples(texts, arguments_of_calls), min_size=1, max_size=3))
def test_native_calls_are_read_back_whatever_the_prose_says(
    prose: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    action = parse(encode_native(prose, [{"name": n, "args": a} for n, a in calls]))
    assert [(c.name, c.arguments, c.fault) for c in action.calls] == [(joined(n), joined(a), None) for n, a in calls]


@given(texts, texts, texts)
@example("python", '{"code": "x"}', "")
@example("python", '{}, "name": "other", "arguments": {}', "")
@example("python", '{"a": "\\</tool_call>"}', "")
@example("python", '{"a": NaN}', "")
def test_invalid_native_calls_are_faults_whatever_they_hold(name: str, raw: str, prose: str) -> None:
    action = parse(encode_native(prose, [], [{"name": name, "args": raw, "error": "?"}]))
    (call,) = action.calls
    assert call.fault in (FaultKind.PARSE_ERROR, FaultKind.INVALID_ARGS)


def test_invalid_native_calls_keep_the_tools_name_where_only_the_arguments_are_wrong() -> None:
    (call,) = parse(encode_native("", [], [{"name": "python", "args": "[1]", "error": None}])).calls
    assert (call.name, call.fault) == ("python", FaultKind.INVALID_ARGS)


@pytest.mark.parametrize("call", [{"name": None, "args": None, "error": None}, {}])
def test_invalid_native_calls_may_lack_everything(call: dict[str, Any]) -> None:
    assert [c.fault for c in parse(encode_native("", [], [call])).calls] == [FaultKind.PARSE_ERROR]


def test_valid_calls_come_before_invalid_ones_and_every_one_counts() -> None:
    text = encode_native("hm", [{"name": "a", "args": {}}], [{"name": "b", "args": "{"}])
    assert [(c.name, c.fault) for c in parse(text).calls] == [("a", None), ("", FaultKind.PARSE_ERROR)]


def test_native_arguments_that_are_not_json_become_the_models_fault() -> None:
    (call,) = parse(encode_native("", [{"name": "a", "args": {"x": math.nan}}])).calls
    assert call.fault is FaultKind.PARSE_ERROR


def test_native_prose_may_answer_but_not_call() -> None:
    assert parse(encode_native("<answer>4</answer>", [])).answer == "4"
    assert parse(encode_native(write_call("x", {}), [])).calls == ()


def test_native_prose_cannot_answer_beside_a_call() -> None:
    action = parse(encode_native("<answer>4</answer>", [{"name": "x", "args": {}}]))
    assert action.answer is None
    assert len(action.calls) == 1


# -- instructions


def test_instructions_are_read_as_neither_a_call_nor_an_answer_of_use() -> None:
    schema = {"type": "function", "function": {"name": "x", "description": "é", "parameters": {}}}
    text = instructions([schema])
    assert json.dumps(schema["function"], ensure_ascii=False) in text
    assert "<tool_call>" in text
    assert "<answer>" in text


def test_a_bare_arm_is_told_nothing_of_tools() -> None:
    assert "tool" not in instructions([])
    assert "<answer>" in instructions([])
