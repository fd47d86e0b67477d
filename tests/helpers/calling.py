"""Tools to call, and how."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from langchain_core.tools import BaseTool, tool
from pydantic import BaseModel, Field, field_validator

from testbed.budget import Budget, Meter
from testbed.tool import Tool, ToolSet
from testbed.types import ToolCall, ToolResult


def characters(text: str) -> int:
    return len(text)


class Call(Tool):
    """Returns, or raises, what a function of its argument says."""

    name: str = "call"
    description: str = "Calls."
    does: Callable[[str], Any] = str.upper

    def _run(self, text: str = "x") -> Any:
        return self.does(text)


class AsyncCall(Call):
    """The same on the event loop."""

    async def _arun(self, text: str = "x") -> Any:
        result = self.does(text)
        return await result if asyncio.iscoroutine(result) else result


BOTH = pytest.mark.parametrize("kind", [Call, AsyncCall])


async def call(
    tools: list[BaseTool] | ToolSet,
    name: str = "call",
    arguments: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    **more: Any,
) -> ToolResult:
    toolset = tools if isinstance(tools, ToolSet) else ToolSet(tools, **more)
    box = toolset.open(Meter(budget or Budget()), characters)
    try:
        return await box.call(ToolCall(name, arguments or {}))
    finally:
        await box.aclose()
        await toolset.aclose()


def raising(error: BaseException) -> Callable[[str], Any]:
    def fail(text: str) -> Any:
        raise error

    return fail


class Order(BaseModel):
    count: int = Field(ge=1)
    size: str = "small"
    to: str = Field(default="here", alias="from")

    @field_validator("size")
    @classmethod
    def known(cls, value: str) -> str:
        if value == "boom":
            raise KeyError("a bug in a validator")
        return value


@tool
def double(n: int) -> int:
    """Doubles a number.

    Args:
        n: the number.
    """
    return 2 * n
