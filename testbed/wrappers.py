"""The controls of an arm, as wrappers around its tools.

`inert`, `imagined` and `yoked` tools look exactly like the live ones (name, description, arguments, validation) and
differ only in what comes back, so that an arm's effect can be split into scaffold (being offered tools at all),
information (some other attempt's results) and interaction (the results of one's own calls). Nobody answers an
`imagined` tool: the model goes on in its place, which is what sampling whole transcripts without tools reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from testbed.edges import Foreign
from testbed.errors import FaultKind, ToolFault, UsageError
from testbed.offer import Offer
from testbed.own_loop import OwnLoop
from testbed.results import as_text
from testbed.scramble import scrambled
from testbed.threads import DaemonThreads
from testbed.tool import NO_OUTPUT, AttemptContext, Tool, is_broken_connection
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
    _off_clock: Callable[[], AbstractContextManager[None]] = PrivateAttr(default=nullcontext)

    def for_attempt(self, context: AttemptContext) -> Tool:
        """A copy with the attempt's own random stream."""
        mine = self.model_copy()
        mine._rng, mine._off_clock = np.random.default_rng(context.key), context.off_clock
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
        assert isinstance(self.wrapped, Tool)  # see `Scrambled` for others
        return self.wrapped.inert_result(arguments, self._rng)


@runtime_checkable
class Asked(Protocol):
    """A tool that others have to answer for its placebo, too, as an MCP server."""

    async def inert_answer(
        self,
        arguments: Mapping[str, Any],
        rng: np.random.Generator,
        off_clock: Callable[[], AbstractContextManager[None]],
    ) -> str:
        """An uninformative result; `off_clock` as in `AttemptContext`."""


class Answered(Inert):
    """The placebo of such a tool: it waits for its turn off the attempt's clock, as the live tool does."""

    keeps_time: ClassVar[bool] = True

    def fingerprint(self) -> dict[str, Any]:
        """That of any placebo."""
        return {**super().fingerprint(), "control": "inert"}

    async def start(self) -> None:
        """Starts the live tool."""
        assert isinstance(self.wrapped, Tool)
        await self.wrapped.start()

    async def _arun(self, /, **arguments: Any) -> str:
        assert isinstance(self.wrapped, Asked)
        return await self.wrapped.inert_answer(arguments, self._rng, self._off_clock)


class Scrambled(Inert):
    """The placebo of a tool that cannot say what is uninformative: what it answers, scrambled."""

    keeps_time: ClassVar[bool] = True
    _offer: Offer = PrivateAttr()
    _threads: DaemonThreads = PrivateAttr(default_factory=lambda: DaemonThreads(8))
    _own_loop: OwnLoop = PrivateAttr(default_factory=OwnLoop)

    @classmethod
    def of(cls, tool: BaseTool) -> Tool:
        """The placebo of `tool`."""
        made = super().of(tool)
        assert isinstance(made, cls)
        made._offer = Offer(tool)
        return made

    def fingerprint(self) -> dict[str, Any]:
        """The live tool: its answers are behind the results."""
        return {"control": "inert", "of": self._offer.fingerprint()}

    async def aclose(self) -> None:
        """Ends the threads that ran the tool."""
        self._threads.close()
        await self._own_loop.aclose()

    async def _arun(self, /, **arguments: Any) -> str:
        with Foreign(self._fault):
            return scrambled(as_text(await self._ask(arguments)), self._rng)

    def _fault(self, error: Exception) -> Exception:
        """What the live tool raised, scrambled: it is the result of the call."""
        if isinstance(error, TimeoutError) or is_broken_connection(error):
            return error
        return ToolFault(FaultKind.EXECUTION_ERROR, scrambled(f"{type(error).__name__}: {error}", self._rng))

    async def _ask(self, arguments: dict[str, Any]) -> Any:
        tool, limit = self.wrapped, self._offer.timeout
        if self._offer.awaits:
            return await self._own_loop.run(lambda: tool.ainvoke(arguments), limit)
        return await self._threads.run(lambda: tool.invoke(arguments), limit, self._off_clock)


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


class Imagined(_Disguised):
    """Offered like the live tool, which is not there: the model writes the results itself.

    Its words are the model's own: generated tokens of the attempt, and none that it observed.
    """

    observes: ClassVar[bool] = False
    keeps_time: ClassVar[bool] = True
    _context: AttemptContext = PrivateAttr(default_factory=AttemptContext)

    def for_attempt(self, context: AttemptContext) -> Tool:
        """A copy that knows whom to ask."""
        mine = self.model_copy()
        mine._context = context
        return mine

    async def _arun(self, /, **arguments: Any) -> str:
        if self._context.imagine is None:
            raise UsageError("control = 'imagined' needs a model that writes the results: use `testbed run`.")
        return await self._context.imagine()


def under_control(tools: Sequence[BaseTool], control: Control) -> list[BaseTool]:
    """The tools as an arm with this control offers them.

    Raises:
        UsageError: a bare arm has tools, another arm has none, or a tool has no placebo as it was set up.
    """
    if control is Control.ABSENT and tools:
        raise UsageError(f"a bare arm (control = 'absent') offers no tools, but {[t.name for t in tools]} are listed.")
    if control is not Control.ABSENT and not tools:
        raise UsageError(f"control = {str(control)!r} needs at least one tool; leave control out for a bare arm.")
    if control is Control.INERT:
        for tool in tools:
            if isinstance(tool, Tool):
                tool.check_inert()
        return [_placebo(tool) for tool in tools]
    if control is Control.YOKED:
        return [Yoked.of(tool) for tool in tools]
    if control is Control.IMAGINED:
        return [Imagined.of(tool) for tool in tools]
    return list(tools)


def _placebo(tool: BaseTool) -> Tool:
    if not isinstance(tool, Tool):
        return Scrambled.of(tool)
    says_itself = type(tool).inert_result is not Tool.inert_result
    return (Answered if isinstance(tool, Asked) and not says_itself else Inert).of(tool)
