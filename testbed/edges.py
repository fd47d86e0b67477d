"""Edges at which any exception has to be taken: other people's code, other threads, and clean-ups that must all run.

An exception is taken in these two ways and no others: `Foreign` says what it means, `Kept` keeps it for somebody else
to raise.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from testbed.errors import TestbedError


class Foreign:
    """`with Foreign(told):` around other people's code. What it raises is raised as what `told` makes of it.

    The testbed's own errors pass as they are: whoever raises one means what it says. Unless asked for, so does what is
    no `Exception`: whoever is cancelled or interrupted still is.

    Args:
        told: what an exception means; the exception itself where it means what it says.
        kinds: exceptions that it is asked about.
    """

    def __init__(self, told: Callable[[Any], BaseException], kinds: type[BaseException] = Exception) -> None:
        self._told, self._kinds = told, kinds

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises what the error means, from the error.

        Raises:
            BaseException: what `told` says.
        """
        if isinstance(error, self._kinds) and not isinstance(error, TestbedError):
            meant = self._told(error)
            if meant is not error:
                raise meant from error


class Kept:
    """`with Kept() as kept:` keeps what its block raises, and goes on behind it.

    Args:
        kinds: what is kept; anything else is raised.
        passing: what is raised nevertheless.

    Attributes:
        result: for the block to put what it came to.
        error: what ended the block; None where it came to its end.
    """

    def __init__(
        self,
        kinds: type[BaseException] = BaseException,
        passing: type[BaseException] | tuple[type[BaseException], ...] = (),
    ) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._kinds, self._passing = kinds, passing

    def __enter__(self) -> Kept:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keeps the error."""
        if not isinstance(error, self._kinds) or isinstance(error, self._passing):
            return False
        self.error = error
        return True

    def taken(self) -> Any:
        """The error, which is forgotten here: with it would stay all that the frames hold which it passed."""
        error, self.error = self.error, None
        return error
