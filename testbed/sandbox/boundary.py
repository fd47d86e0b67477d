"""Runs inside the sandbox: the one place where whatever a program raises is caught. Only the standard library is there.

Programs raise at their work, while what they raised is shown, and where their exceptions are asked for words. The tests
of a program that is graded are run through here as well: whatever ends them is no pass.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see `testbed.sandbox.worker`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _Done = TypeVar("_Done")
    _Told = TypeVar("_Told")


def guarded(
    action: Callable[[], _Done],
    otherwise: Callable[[BaseException], _Told],
    but: type[BaseException] | tuple[()] = (),
) -> _Done | _Told:
    """Does something by a program's code; if that raises, returns what is made of the exception.

    Args:
        action: what to do.
        otherwise: makes something of what was raised; called while it is being handled.
        but: exceptions to leave alone.
    """
    try:
        return action()
    except but:
        raise
    except BaseException as error:  # noqa: BLE001 (a program may raise anything)
        return otherwise(error)
