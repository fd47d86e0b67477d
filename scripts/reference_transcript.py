"""The form of a training transcript: messages, their rendering, the text of calls and answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

Message = dict[str, str]
#: What the environment says beside tool results, and how tools fail: as the testbed words it, and otherwise.
SPENT = "The tool budget is spent: answer now."
NOTES = (
    "No answer and no tool call found. Reply with <answer>…</answer>.",
    "No answer found. Reply with <answer>…</answer>.",
    SPENT,
    "Answer now.",
)
ERRORS = (
    "error: tool_not_found: there is no tool {tool!r}",
    "error: budget_exhausted: the tool budget is spent; answer now.",
    "error: timeout: {tool} took longer than 5 s",
    "error: invalid_args: 'arguments' has an unknown key",
    "error: execution_error: the call failed",
)


@dataclass
class Transcript:
    """Tools offered, and the messages; assistant messages in ``unlearned`` (by index) carry no loss."""

    tools: tuple[str, ...]
    messages: list[Message]
    unlearned: set[int] = field(default_factory=set)

    def segments(self) -> list[tuple[str, str]]:
        """Return (kind, text) pieces; a kind is `prompt`, `own` (what is learned) or `environment` (tool results)."""
        pieces = [("prompt", "<|system|>tools: " + (" ".join(self.tools) or "none"))]
        for index, message in enumerate(self.messages):
            role, content = message["role"], message["content"]
            if role == "tool":
                pieces.append(("environment", f"<tool_result>{content}</tool_result>"))
            elif role == "assistant":
                closed = content.endswith(("</tool_call>", "</answer>"))
                kind = "prompt" if index in self.unlearned else "own"
                pieces.append((kind, f"<|assistant|>{content}" + ("" if closed else "<|end|>")))
            else:
                pieces.append(("prompt", f"<|{role}|>{content}"))
        return pieces

    def render(self) -> str:
        """Return the text that the chat template makes of it."""
        return "".join(text for _, text in self.segments())


def tool_call(name: str, **arguments: str) -> str:
    """Return the text of one tool call, as compact JSON."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments}, separators=(',', ':'))}</tool_call>"


def final(value: str) -> str:
    """Return the text of an answer."""
    return f"<answer>{value}</answer>"


def user(content: str) -> Message:
    """Return a message of the role `user`."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """Return a message of the role `assistant`."""
    return {"role": "assistant", "content": content}


def tool(content: str) -> Message:
    """Return a message of the role `tool`."""
    return {"role": "tool", "content": content}
