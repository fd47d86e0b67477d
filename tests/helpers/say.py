"""Experiments with Say-v0, whose tasks ask for a number, and policies that say it, by the tool echo or by chance."""

from __future__ import annotations

from typing import Any

from testbed.experiment_file import parse_experiment
from testbed.models.base import Request
from testbed.protocol import write_answer, write_call


def experiment(arms: list[dict[str, Any]], *, tasks: int = 5, **more: Any) -> Any:
    data = {
        "name": "test",
        "samples": 3,
        "model": {"id": "scripted", "replies": ["unused"]},
        "env": [{"id": "Say-v0", "tasks": tasks}],
        "arm": arms,
        **more,
    }
    return parse_experiment(data)


def number(request: Request) -> str:
    return request.messages[0]["content"][4:-1]


def echoing(request: Request) -> str:
    last = request.messages[-1]
    if request.tools and last["role"] != "tool":
        return write_call("echo", {"text": number(request)})
    return write_answer(last["content"] if last["role"] == "tool" else "0")


def gambling(request: Request, rng: Any) -> str:
    """Right with probability a half, after calls of random text: the attempt's own stream shows in its transcript."""
    if len(request.messages) < 4:
        return write_call("echo", {"text": str(rng.random())})
    return write_answer(number(request) if rng.random() < 0.5 else "no")
