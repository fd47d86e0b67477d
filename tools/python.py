"""Python in a sandbox: every call is a program of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from testbed.results import NO_OUTPUT
from testbed.sandbox_tool import SandboxTool, printed

if TYPE_CHECKING:
    from testbed.sandbox import Result, Session


class Python(SandboxTool):
    """Runs a program and returns what it prints.

    Programs have script semantics: nothing survives a call, and one that prints nothing returns "(no output)".
    """

    name: str = "python"
    description: str = "Runs a Python program and returns what it prints. Nothing is kept from one call to the next."

    lends: ClassVar[bool] = True

    async def _execute(self, session: Session, code: str) -> Result:
        return await session.run(code)

    def _show(self, result: Result) -> str:
        return printed(result) or NO_OUTPUT
