"""The controls of an arm, as wrappers around its tools.

`inert` and `yoked` tools look exactly like the live ones (name, description, arguments, validation) and differ only in
what comes back, so that an arm's effect can be split into scaffold (being offered tools at all), information (some
other attempt's results) and interaction (the results of one's own calls).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from testbed.errors import UsageError
from testbed.tool import NO_OUTPUT, AttemptContext, Tool
from testbed.types import Control


class _Disguised(Tool):
    """A tool that looks like another one."""

    wrapped: BaseTool

    @classmethod
    def of(cls, tool: BaseTool) -> Tool:
        """The disguise of `tool`."""
        return cls(
            name=tool.name,
            description=tool.description,
            args_schema=tool.args_schema,
            version=getattr(tool, "version", "0"),
            wrapped=tool,
        )

    def looks(self) -> BaseTool:
        """The live tool: it is offered, and its arguments are checked, exactly as the live one's."""
        return self.wrapped

    def fingerprint(self) -> dict[str, Any]:
        inner = self.wrapped.fingerprint() if isinstance(self.wrapped, Tool) else {}
        return {"control": type(self).__name__.lower(), "of": inner}


class Inert(_Disguised):
    """Offered like the live tool; its results carry no information."""

    _rng: np.random.Generator = PrivateAttr(default_factory=np.random.default_rng)

    def for_attempt(self, context: AttemptContext) -> Tool:
        """A copy with the attempt's own random stream."""
        mine = self.model_copy()
        mine._rng = np.random.default_rng(context.key)
        return mine

    async def start(self) -> None:
        """Starts the live tool only where its placebo needs it, such as a corpus to draw unrelated passages from."""
        if isinstance(self.wrapped, Tool) and type(self.wrapped).inert_result is not Tool.inert_result:
            await self.wrapped.start()

    async def aclose(self) -> None:
        """Closes the live tool."""
        if isinstance(self.wrapped, Tool):
            await self.wrapped.aclose()

    def _run(self, /, **arguments: Any) -> str:
        if isinstance(self.wrapped, Tool):
            return self.wrapped.inert_result(arguments, self._rng)
        return NO_OUTPUT


class Yoked(_Disguised):
    """Returns what another live attempt at the same task saw, in its order, whatever is called."""

    _context: AttemptContext = PrivateAttr(default_factory=AttemptContext)

    def for_attempt(self, context: AttemptContext) -> Tool:
        """A copy that reads the attempt's replay, which all its tools share."""
        mine = self.model_copy()
        mine._context = context
        return mine

    async def _arun(self, /, **arguments: Any) -> str:
        replay = self._context.replay
        return next(replay, NO_OUTPUT) if replay is not None else NO_OUTPUT


def under_control(tools: Sequence[BaseTool], control: Control) -> list[BaseTool]:
    """The tools as an arm with this control offers them.

    Raises:
        UsageError: a bare arm has tools, or another arm has none.
    """
    if control is Control.ABSENT and tools:
        raise UsageError(f"a bare arm (control = 'absent') offers no tools, but {[t.name for t in tools]} are listed.")
    if control is not Control.ABSENT and not tools:
        raise UsageError(f"control = {str(control)!r} needs at least one tool; leave control out for a bare arm.")
    if control is Control.INERT:
        return [Inert.of(tool) for tool in tools]
    if control is Control.YOKED:
        return [Yoked.of(tool) for tool in tools]
    return list(tools)
