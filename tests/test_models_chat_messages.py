"""Transcripts as langchain messages."""

from __future__ import annotations

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from testbed.models.chat_messages import to_langchain
from testbed.protocol import ANSWER_INSTRUCTION
from testbed.types import Message


def test_results_are_tied_to_their_calls_by_ids() -> None:
    call = '<tool_call>{"name":"lookup","arguments":{"query":"a"}}</tool_call>'
    transcript: list[Message] = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "first" + call + call},
        {"role": "tool", "name": "lookup", "content": "r1"},
        {"role": "tool", "name": "lookup", "content": "r2"},
        {"role": "user", "content": "note"},
        {"role": "assistant", "content": call},
        {"role": "tool", "name": "lookup", "content": "r3"},
    ]
    messages = to_langchain(transcript, ANSWER_INSTRUCTION, native=True)
    said = [message for message in messages if isinstance(message, AIMessage)]
    results = [message for message in messages if isinstance(message, ToolMessage)]
    assert [m.tool_call_id for m in results] == [call["id"] for message in said for call in message.tool_calls]
    assert len({m.tool_call_id for m in results}) == 3
    assert [m.content for m in said] == ["first", ""]
    assert all(message.tool_calls[0]["args"] == {"query": "a"} for message in said)


def test_without_native_calls_results_are_tagged_text() -> None:
    call = '<tool_call>{"name":"lookup","arguments":{}}</tool_call>'
    transcript: list[Message] = [{"role": "assistant", "content": call}, {"role": "tool", "content": "r"}]
    said, result = to_langchain(transcript, "", native=False)
    assert said.content == call
    assert isinstance(result, HumanMessage)
    assert result.content == "<tool_result>r</tool_result>"
