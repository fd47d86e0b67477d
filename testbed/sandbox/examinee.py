"""Runs inside the sandbox of a program that tests examine, see `exchange.py`. Only the standard library is there.

All of this may be replaced by the program. That is no harm: what it says is the program's own statement in any case.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable
from typing import Any

from testbed.sandbox.boundary import guarded
from testbed.sandbox.exchange import pack, unpack

SOLUTION = "solution"  # the program's module; not `__main__`, whose guarded part is for people to run

_LONGEST_ARGUMENTS = 10_000  # characters


class Program:
    """The program that is examined."""

    def __init__(self) -> None:
        self._module = types.ModuleType(SOLUTION)
        self._objects: list[Any] = []
        sys.modules[SOLUTION] = self._module

    def begin(self, source: str, question: str) -> str:
        """Runs the program, which defines what the tests ask for; then the same as `serve`."""

        def run_then_do() -> Any:
            exec(compile(source, f"{SOLUTION}.py", "exec", dont_inherit=True), self._module.__dict__)
            return self._do(question)

        return self._answer(run_then_do)

    def serve(self, question: str) -> str:
        """Does what a `Remote` was used for and returns the answer to send."""
        return self._answer(lambda: self._do(question))

    def _answer(self, action: Callable[[], Any]) -> str:
        return guarded(lambda: pack(("value", action()), self._hold), lambda error: pack(_told(error), self._hold))

    def _hold(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def _do(self, question: str) -> Any:
        verb, *parts = unpack(question, self._objects.__getitem__)
        return getattr(self, f"_{verb}")(*parts)

    def _names(self, *names: str) -> dict[str, Any]:
        defined = self._module.__dict__
        return {name: defined[name] for name in names if name in defined}

    def _call(self, target: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return target(*args, **options)

    def _set(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)

    def _item(self, target: Any, key: Any) -> Any:
        return target[key]

    def _apply(self, function: str, *args: Any) -> Any:
        return getattr(builtins, function)(*args)


def _told(error: BaseException) -> tuple[Any, ...]:
    """An exception as its nearest builtin class, what to make that from, and what it says; the end of an iterator."""
    if isinstance(error, StopIteration):
        return ("stop",)
    base = next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"), "Exception")
    words = guarded(lambda: str(error)[:300], lambda _: "")  # by its own `__str__`
    plain = all(type(arg) in (str, int, float, bool, type(None)) for arg in error.args)
    args = error.args if plain and len(str(error.args)) < _LONGEST_ARGUMENTS else (words,)
    return ("raise", base, args, f"{type(error).__name__}: {words}")
