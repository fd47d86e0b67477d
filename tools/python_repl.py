"""Python in a sandbox that keeps its state: an attempt's calls are cells of one session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from testbed.errors import ToolFault
from testbed.results import NO_OUTPUT
from testbed.sandbox_tool import STATE_LOST, SandboxTool, printed

if TYPE_CHECKING:
    from testbed.sandbox import Result, Session


class Cell(BaseModel):
    """Arguments of the tool."""

    code: str = Field(description="Python statements. What they print is returned, and the value of a last expression.")


class PythonRepl(SandboxTool):
    """Runs cells like a notebook: variables, imports and files are there for the attempt's next call.

    An exception loses nothing. A cell that is out of time is interrupted; if it does not react, or a cell ends the
    Python, the next one begins anew, and the result says so. Each attempt holds its sandbox to its end, so that at most
    `slots` attempts use the tool at a time, and others wait.
    """

    name: str = "python_repl"
    description: str = "Runs Python cells in one session: what a call defines is there in later calls."
    args_schema: Any = Cell
    slots: int = 32

    lends: ClassVar[bool] = False

    async def _execute(self, session: Session, code: str) -> Result:
        return await session.repl(code)

    def _show(self, result: Result) -> str:
        note = f"\n{STATE_LOST}" if result.state_lost else ""
        try:
            return (printed(result) or NO_OUTPUT) + note
        except ToolFault as fault:
            raise ToolFault(fault.kind, f"{fault}{note}") from None
