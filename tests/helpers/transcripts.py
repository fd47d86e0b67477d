"""Attempts whose transcripts a test writes by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from testbed.report.transcript_view import TranscriptView
from testbed.types import Attempt, Cost, Message, Status, Task, attempt_id

TASK = Task("Sums-v0", "What is 2 + 2?", "4")
SPEC: Mapping[str, Any] = {"budget": {"turns": 8, "tool_calls": 4, "generated_tokens": 300}}
CALL = '<tool_call>{"name":"python","arguments":{"code":"print(2+2)"}}</tool_call>'


def says(text: str) -> Message:
    return {"role": "assistant", "content": text}


def returns(text: str, tool: str = "python", **more: Any) -> Message:
    return {"role": "tool", "name": tool, "content": text, **more}  # type: ignore[typeddict-item]


def attempt_of(*said: Message, task: Task = TASK, sample: int = 0, arm: str = "a" * 32, **changes: Any) -> Attempt:
    """A graded success that says this after the task's prompt; its cost is that of its messages, 40 tokens written."""
    known = () if "cost" in changes else said
    written = sum(message["role"] == "assistant" for message in known)
    called = sum(message["role"] == "tool" for message in known)
    observed = sum(message.get("tokens", 0) for message in known)
    attempt = Attempt(
        id=attempt_id(task.hash, arm, sample, 1),
        task=task.hash,
        arm=arm,
        sample=sample,
        seed=1,
        status=Status.COMPLETE,
        ended="answered",
        success=True,
        score=None,
        answer="4",
        cost=Cost(40, 100, observed, written, called, written, 1.5, 0.0),
        transcript=({"role": "user", "content": task.prompt}, *said),
    )
    return replace(attempt, **changes)


def view_of(*said: Message, name: str = "python", task: Task = TASK, **changes: Any) -> TranscriptView:
    return TranscriptView.of(attempt_of(*said, task=task, **changes), task, name, SPEC)
