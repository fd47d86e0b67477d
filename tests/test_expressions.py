"""Expressions are read in any thread, whatever the others do."""

from __future__ import annotations

import ast
import gc
import os
import select
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from testbed import expressions
from testbed.expressions import parsed

LONG = " + ".join(f"{n} * {n + 7}" for n in range(40))


class Garbage:
    """Runs Python when it is collected, which lets another thread in, in the middle of whatever made it necessary."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(20):
            pass


@contextmanager
def many_switches() -> Iterator[None]:
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50, 2, 2)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)


def outcomes(read: Callable[[str], ast.Expression], threads: int = 8, times: int = 200) -> Counter[str]:
    """What came of reading a long expression so often in each of some threads at one time."""
    found: Counter[str] = Counter()

    def work() -> None:
        for _ in range(times):
            Garbage()
            try:
                read(LONG)
            except (SystemError, RecursionError) as error:
                found[type(error).__name__] += 1
            else:
                found["read"] += 1

    with many_switches():
        working = [threading.Thread(target=work) for _ in range(threads)]
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()
    return found


def test_threads_that_read_expressions_at_one_time_all_read_them() -> None:
    assert outcomes(parsed) == {"read": 1600}


def test_a_tree_that_another_library_has_spoilt_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    makes, spoilt = ast.parse, iter([True, True, False])

    def now_and_then(text: str, mode: str) -> ast.AST:
        if next(spoilt):
            raise SystemError("AST constructor recursion depth mismatch (before=15, after=-24)")
        return makes(text, mode=mode)

    monkeypatch.setattr(expressions.ast, "parse", now_and_then)
    assert ast.unparse(parsed("1 + 2")) == "1 + 2"


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_while_a_thread_reads_reads_too() -> None:
    """As vector environments are, beside graders in threads."""
    reading, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with expressions._one_at_a_time:
            reading.set()
            forked.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    reading.wait()
    out, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(tell, ast.unparse(parsed("1 + 2")).encode())
        finally:
            os._exit(0)
    forked.set()
    thread.join()
    heard, _, _ = select.select([out], [], [], 30)  # it takes milliseconds; else it waits for ever
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert heard
    assert os.read(out, 10) == b"1 + 2"


@pytest.mark.parametrize("text", ["1 +", "(" * 300, "\0", "1\n2"])
def test_what_is_no_expression_is_refused_as_by_python(text: str) -> None:
    with pytest.raises((SyntaxError, ValueError, MemoryError, RecursionError)):
        parsed(text)
