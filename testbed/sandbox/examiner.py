"""Runs inside the sandbox of the tests, which the program under examination never touches. See `exchange.py`.

The tests hold a `Remote` in place of whatever the program defines. Using it is a question to the program; the answer is
data, compared here by Python's own operators, or another `Remote`.
"""

from __future__ import annotations

import builtins
import queue
import symtable
import threading
import types
from collections.abc import Callable
from typing import Any, NoReturn

from testbed.sandbox.boundary import guarded
from testbed.sandbox.exchange import Malformed, Unsendable, pack, unpack

TESTS = "tests"

_STACK = 8 << 20  # bytes, as a main thread has


class RemoteError(Exception):
    """The program raised something that no builtin exception can stand for."""


class Remote:
    """Something of the program's that is not data: a function, a class, an object of its own classes, a generator.

    It can be called, iterated, indexed, and asked for attributes, its length, truth and text. It is not None, and is
    compared with nothing else, not even itself: the program would be asked what its objects equal.
    """

    __slots__ = ("_testbed_ask", "_testbed_number")

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        object.__setattr__(self, "_testbed_ask", ask)
        object.__setattr__(self, "_testbed_number", number)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Calls what this stands for."""
        return self._testbed_ask("call", self, args, options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own questions
            raise AttributeError(name)
        return self._testbed_ask("apply", "getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._testbed_ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._testbed_ask("item", self, key)

    def __iter__(self) -> Any:
        return self._testbed_ask("apply", "iter", self)

    def __next__(self) -> Any:
        return self._testbed_ask("apply", "next", self)

    def __len__(self) -> Any:
        return self._testbed_ask("apply", "len", self)

    def __bool__(self) -> Any:
        return self._testbed_ask("apply", "bool", self)

    def __str__(self) -> Any:
        return self._testbed_ask("apply", "str", self)

    def __repr__(self) -> Any:
        return self._testbed_ask("apply", "repr", self)

    def __eq__(self, other: object) -> bool:
        return other is not None and self._testbed_refuse(other)

    def __ne__(self, other: object) -> bool:
        return other is None or self._testbed_refuse(other)

    def _testbed_refuse(self, other: object) -> NoReturn:
        raise TypeError("objects of the program's own classes are not compared; compare their data")

    __lt__ = __le__ = __gt__ = __ge__ = _testbed_refuse
    __hash__ = object.__hash__


class Examination:
    """The tests, in a thread that waits wherever they use a `Remote`.

    What it says to the host is "?" and a question, or a verdict: "+", or "-" and the reason, or "!" and why the tests
    cannot be run.

    Args:
        setup: code that runs first and never sees the program.
        tests: code that uses what the program defines.
        entry_point: what the tests' function `check` is called with; "" if the tests need no call.
        required: names that the program must define, also where Python has a builtin of that name.
    """

    def __init__(self, setup: str, tests: str, entry_point: str, required: list[str]) -> None:
        self._setup, self._tests, self._entry_point = setup, tests, entry_point
        self._required = [*filter(None, [entry_point]), *required]
        self._space: dict[str, Any] = {"__name__": TESTS}
        self._turn = threading.Lock()
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def begin(self) -> str:
        """Starts the tests and returns what they say first."""
        prepared = guarded(self._prepare, lambda error: f"!{type(error).__name__}: {_one_line(str(error))}")
        if isinstance(prepared, str):
            return prepared
        threading.stack_size(_STACK)
        threading.Thread(target=self._examine, args=prepared, daemon=True).start()
        return self._said.get()

    def go_on(self, answer: str) -> str:
        """Hands over the program's answer and returns what the tests say next."""
        try:
            value, error = _outcome(unpack(answer, lambda number: Remote(self._ask, number)))
        except Malformed as problem:
            return f"-the program's sandbox sent {problem}"
        if error is not None and not isinstance(error, Exception):
            return f"-the program ended: {_one_line(str(error))}"
        self._heard.put((value, error))
        return self._said.get()

    def _prepare(self) -> tuple[types.CodeType, list[str]]:
        """Runs the setup; returns the tests, compiled, and the names to ask the program for."""
        exec(compile(self._setup, "setup", "exec", dont_inherit=True), self._space)
        return compile(self._tests, TESTS, "exec", dont_inherit=True), self._wanted()

    def _wanted(self) -> list[str]:
        """The names to ask the program for: the required ones, and those that nobody else defines."""
        made, used = names_of(self._tests)
        if self._entry_point and "check" not in (*made, *self._space):
            raise NameError("the tests define no function named check")
        wanted = sorted({*self._required, *(used - made - {*dir(builtins), *self._space})})
        if not wanted:
            raise NameError("the tests use nothing that the program defines")
        return wanted

    def _examine(self, code: types.CodeType, wanted: list[str]) -> None:
        self._said.put(guarded(lambda: self._verdict(code, wanted), lambda error: f"-{self._reason(error)}"))

    def _verdict(self, code: types.CodeType, wanted: list[str]) -> str:
        found = self._ask("names", *wanted)
        if type(found) is not dict:
            return "-the program's sandbox sent no names"
        for name in self._required:
            if name not in found:
                return f"-no function named {name}"
        self._space.update((name, found[name]) for name in wanted if name in found)
        exec(code, self._space)
        if self._entry_point:
            self._space["check"](found[self._entry_point])
        return "+"

    def _ask(self, verb: str, *parts: Any) -> Any:
        with self._turn:
            self._said.put("?" + pack((verb, *parts), _number))
            value, error = self._heard.get()
        if isinstance(error, StopIteration) and (verb, parts[0]) != ("apply", "next"):
            error = RuntimeError("the program raised StopIteration")  # or it could end a loop of the tests
        if error is not None:
            raise error
        return value

    def _reason(self, error: BaseException) -> str:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        if isinstance(error, AssertionError) and where is not None and where.tb_frame.f_code.co_filename == TESTS:
            lines = self._tests.split("\n")[where.tb_lineno - 1 :]
            return f"assertion failed: {_one_line(lines[0] if lines else '')}"
        kind = type(error).__name__
        said = guarded(lambda: f"{kind}: {_one_line(str(error))}", lambda _: kind)  # a `Remote`'s text is the program's
        return said.removeprefix("RemoteError: ")


def names_of(tests: str) -> tuple[set[str], set[str]]:
    """The global names that some code makes, and those that it uses."""
    made, used = set(), set()
    tables = [top := symtable.symtable(tests, TESTS, "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_global() and symbol.is_referenced():
                used.add(symbol.get_name())
            if (table is top or symbol.is_declared_global()) and (symbol.is_assigned() or symbol.is_imported()):
                made.add(symbol.get_name())
    return made, used


def _outcome(answer: Any) -> tuple[Any, BaseException | None]:
    """The value in an answer, or the exception to raise. Nothing is done with a `Remote` here: that would ask it."""
    if type(answer) is tuple and answer and type(answer[0]) is str:
        kind, *parts = answer
        if (kind, len(parts)) == ("value", 1):
            return parts[0], None
        if (kind, len(parts)) == ("stop", 0):
            return None, StopIteration()
        if (kind, [type(part) for part in parts]) == ("raise", [str, tuple, str]):
            return None, _exception(*parts)
    raise Malformed("an answer of another form")


def _exception(name: str, args: tuple[Any, ...], said: str) -> BaseException:
    """An exception of the builtin class of that name, as tests may expect it; none that could end a loop of theirs."""
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return RemoteError(said)
    if not issubclass(kind, Exception):
        return BaseException(said)
    if kind in (Exception, StopIteration, StopAsyncIteration):
        return RemoteError(said)
    if not all(type(arg) in (str, int, float, bool, type(None)) for arg in args):
        args = (said,)
    try:
        return kind(*args)
    except (TypeError, ValueError, LookupError):  # such as UnicodeDecodeError, which is made from more
        return RemoteError(said)


def _number(value: Any) -> int:
    """The number of a `Remote`: what the tests may pass to the program besides data."""
    if type(value) is not Remote:
        raise Unsendable(f"the tests pass a {type(value).__name__}, and only data can be passed")
    number: int = object.__getattribute__(value, "_testbed_number")
    return number


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
