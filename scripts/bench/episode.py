"""A plug-in for the benches: tasks without work, a tool without work, and a policy of one tool call and one answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from pydantic import BaseModel

from testbed.env import Common, Environment
from testbed.models.base import Request
from testbed.protocol import write_answer, write_call
from testbed.tool import Tool
from testbed.types import Grade, Task


class EchoArguments(BaseModel):
    """What echo takes."""

    text: str


class Echo(Tool):
    """Returns its argument."""

    name: str = "echo"
    description: str = "Returns its argument."
    args_schema: Any = EchoArguments

    def _run(self, text: str) -> str:
        return text


class Say(Environment):
    """Say a number."""

    id = "Say-v0"

    def __init__(self, tasks: int = 100, **common: Unpack[Common]) -> None:
        self.size = tasks
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """One task for each number."""
        for number in range(self.size):
            yield self.task(f"Say {number}.", str(number))

    def grade(self, task: Task, answer: str) -> Grade:
        """Right if it is the number."""
        return Grade(answer == task.reference)

    def near_misses(self, task: Task) -> Iterable[str]:
        """A digit more."""
        return (task.reference + "0",)


def call_then_answer(request: Request, rng: object) -> str:
    """Calls echo with the number when tools are offered, then answers what came back."""
    messages = request.messages
    number = messages[0]["content"][4:-1]
    if request.tools and messages[-1]["role"] != "tool":
        return write_call("echo", {"text": number})
    return write_answer(messages[-1]["content"] if messages[-1]["role"] == "tool" else number)
