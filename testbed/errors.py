"""Every error the testbed raises, and what happens to each.

Failure policy, from the outside in:

* `UsageError` is the caller's: an unknown name, a bad experiment file, a store that cannot be written. Nothing has run,
  nothing has been written; the command line prints the message and exits with code 2.
* `ToolFault` is the **model's**: a call that does not parse, names no offered tool, has wrong arguments, fails, hangs,
  or comes after the budget. It is shown to the model as the call's result, metered and scored. *A bad attempt is data,
  not a crash.*
* `ContextFull` ends the attempt like a spent budget ("limit:context"): no conversation is ever cut in silence.
* `InfrastructureError` is **ours**: a transport that broke, a sandbox that died, a model that is unavailable. The
  runner tries the attempt again with back-off, then records it as missing data. It is never a failure of the model and
  never scored 0.
* Anything else is a bug. It propagates and ends the run; attempts already reported as complete are safe in the store.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

LONGEST_NAME = 100  # names come from models and files: longer ones are cut in messages, and are near to no other


class FaultKind(StrEnum):
    """What was wrong with a tool call; each is the model's doing and is scored."""

    PARSE_ERROR = "parse_error"
    TOOL_NOT_FOUND = "tool_not_found"
    INVALID_ARGS = "invalid_args"
    EXECUTION_ERROR = "execution_error"
    TIMEOUT = "timeout"
    BUDGET_EXHAUSTED = "budget_exhausted"


class TestbedError(Exception):
    """Base of every error that the testbed raises on purpose."""

    __test__ = False  # pytest must not collect a class for its name
    exit_code = 1


class UsageError(TestbedError):
    """The request cannot be carried out as written; nothing was done."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is in no registry; the message offers the nearest one.

    Args:
        kind: what was looked up, such as "environment" or "tool".
        name: the name that was asked for.
        known: every name that would have been found.
        hint: one more sentence on what to do.
        of: what would have it, such as "run 'demo'", where that has a name of its own.
    """

    kind: str
    name: str
    known: tuple[str, ...]
    hint: str
    of: str

    def __init__(
        self, kind: str | UnknownName, name: str = "", known: Iterable[str] = (), hint: str = "", of: str = ""
    ) -> None:
        if isinstance(kind, UnknownName):  # vector environments make an error anew from the one another process raised
            self.kind, self.name, self.known, self.hint, self.of = kind.__reduce__()[1]
        else:
            self.kind, self.name, self.known, self.hint, self.of = kind, name, tuple(sorted(known)), hint, of
        told = f"{self.of} has no {self.kind}" if self.of else f"unknown {self.kind}"
        near = did_you_mean(self.name, self.known)
        super().__init__(f"{told} {_shown(self.name)}.{near}{' ' + self.hint if self.hint else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is unpickled from its message alone; vector environments send them between processes.
        return UnknownName, (self.kind, self.name, self.known, self.hint, self.of)


class ExperimentError(UsageError):
    """An experiment file that cannot be run; names the file and, where known, the line."""

    def __init__(self, message: str, *, path: str = "", line: int | None = None) -> None:
        where = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
        super().__init__(where + message)


class StoreError(UsageError):
    """A store that cannot be opened, read or written."""


class DataError(UsageError):
    """An input file that is missing or malformed; names the file and the line."""


class ModelError(UsageError):
    """A model that cannot be loaded or asked for what the experiment wants."""


class SandboxUnavailable(UsageError):
    """No sandbox backend passed its self-test; the message names each cause and its remedy."""


class SandboxFileError(UsageError):
    """A file of a sandbox's scratch folder that cannot be written or read; names it."""


class ToolFault(TestbedError):
    """A fault of the model in using a tool. Tools may raise it to say which kind; it becomes the call's result."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        self.kind = kind
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return ToolFault, (self.kind, str(self))


class ContextFull(TestbedError):
    """The conversation no longer fits into the model's context: a limit like any other, so the attempt is data."""


class InfrastructureError(TestbedError):
    """Something of ours failed. The attempt is retried, then recorded as missing."""

    kind = "infrastructure"
    passing = True  # whether another try may succeed


class TransportError(InfrastructureError):
    """A connection to a tool or a model broke."""

    kind = "transport_error"


class SandboxDied(InfrastructureError):
    """The sandbox worker died, or broke its protocol, for a reason that the called code does not explain."""

    kind = "sandbox_died"


class ModelUnavailable(InfrastructureError):
    """The model could not answer: rate limit, server error, out of memory."""

    kind = "model_unavailable"
    retry_after = 0.0  # seconds after which the server wants to be asked again, where it says so


class ModelNotAsked(ModelUnavailable):
    """The model was not even asked: no connection, too many requests, overload. No reply was lost."""

    kind = "model_not_asked"


class ModelBusy(ModelNotAsked):
    """The server is there and refused for now: too many requests, overload. The same request may be sent again."""


class YokeMissing(InfrastructureError):
    """The live attempt whose results a yoked attempt replays is itself missing."""

    kind = "yoke_missing"
    passing = False


class GivenUp(InfrastructureError):
    """The run was ended in the middle of the attempt: what its model has written, or was writing, is lost."""

    kind = "given_up"


class NotRecorded(InfrastructureError):
    """A replayed attempt made a call whose result was never recorded."""

    kind = "not_recorded"
    passing = False


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Says which known name is nearest, or which have it as a word, or all there are: ' Did you mean "search"?'."""
    names = sorted({str(name) for name in known})
    folded = {n.lower(): n for n in names}
    having = [n for n in names if str(name).lower() in re.split(r"[\W_]+", n.lower())]
    if (
        name and str(name) not in names and 1 < len(having) <= 4
    ):  # "tokens": any of several, of which the nearest is a guess
        return f" Did you mean {', '.join(map(repr, having[:-1]))} or {having[-1]!r}?"
    near = difflib.get_close_matches(str(name)[:LONGEST_NAME].lower(), folded, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {folded[near[0]]!r}?"
    if not names:
        return " There is none."
    shown = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
    return f" There are: {shown}."


def nearest_path(path: Path, ending: str | tuple[str, ...], others: Iterable[str] = ()) -> str:
    """Says which file beside a path that is not there is nearest; "" where none is: ' Did you mean "mult.toml"?'.

    Args:
        path: what was asked for.
        ending: of the files that could be meant, such as ".toml"; or several.
        others: further names that could be meant.
    """
    beside = [str(file) for file in path.parent.glob("*") if file.name.endswith(ending)]
    found = did_you_mean(str(path), [*beside, *others])
    return found if found.startswith(" Did you mean") else ""


def in_the_way(folder: Path) -> str:
    """Names what lets no folder be made, with what to do: "out.txt is a file: give another path"; "" if nothing."""
    for place in (folder, *folder.parents):
        if os.path.isdir(place):
            return ""
        if os.path.lexists(place):
            return f"{place} is a {'link that leads nowhere' if os.path.islink(place) else 'file'}: give another path"
    return ""


def unwritable(path: Path, why: str) -> UsageError:
    """The error that a file cannot be written, with what to do where there is no folder for it."""
    remedy = "" if os.path.isdir(path.parent) else in_the_way(path.parent) or f"make the folder {path.parent} first"
    return UsageError(f"{path} cannot be written: {why}{remedy and '; '}{remedy}.")


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error to show of several: the caller's, which has a remedy, before a bug."""
    flat: list[BaseException] = []
    for error in errors.exceptions:
        flat.append(first_of(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in flat if isinstance(error, TestbedError)), flat[0])


def _shown(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"
