"""Python's own parser of expressions, where several threads use it: tools and graders work in threads."""

from __future__ import annotations

import ast
import os
import threading

_TRIES = 100
_one_at_a_time = threading.RLock()  # of one thread: what it collects as garbage meanwhile may read an expression, too


def _forget_the_parents_readers() -> None:
    """In a process that was forked while a thread read: that thread is not there to let others in."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents_readers)


def parsed(text: str) -> ast.Expression:
    """The tree of an expression, as `ast.parse` makes it.

    CPython before 3.11.8 and 3.12.2 counts how deep it stands in all threads' trees in one number (CPython issue
    106905): where one thread makes a tree while another does, either may end with a SystemError, whatever its text is.
    So ours wait for one another; where another library's thread comes between, the tree is made again.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: as `ast.parse`.
    """
    with _one_at_a_time:
        for _ in range(_TRIES):
            try:
                return ast.parse(text, mode="eval")
            except SystemError:
                continue
        return ast.parse(text, mode="eval")
