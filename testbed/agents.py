"""Agents: anybody's callables, langchain Runnables and LangGraph graphs, which drive an environment themselves.

Two contracts, told apart by what the named object is:

* a function of the environment, ``def agent(env)`` or ``async def agent(env)``: it calls `env.reset` and `env.step`
  like any user of Gymnasium (awaits them if it is async), see `testbed.agents_env.AgentEnv`;
* a Runnable (a compiled graph is one), or ``def make(tools) -> Runnable``, which is called once per attempt with the
  arm's tools: it is invoked with ``{"messages": [...]}``, and the last message it returns is its answer.

An agent stands where a model stands: its attempts have the same tools, budgets, graders, store and report.
"""

from __future__ import annotations

import importlib
import inspect
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.runnables import Runnable

from testbed.env import approximate_tokens
from testbed.errors import DataError, ModelError, UnknownName, UsageError, nearest_path
from testbed.models.base import Reply, Request
from testbed.models.chat_prices import Prices, prices_of
from testbed.own_loop import OwnLoop
from testbed.plugins import execute, foreign_code, named
from testbed.threads import DaemonThreads
from testbed.types import digest

VERSION = "1"
TIMEOUT = 600.0  # seconds of an attempt, where its budget does not limit them
MOST_THREADS = 10_000  # as many as there can be attempts: none waits for another agent's thread
FUNCTION, RUNNABLE, MAKER = "function", "runnable", "maker"


class Agent:
    """An agent as the arms of an experiment have it.

    Args:
        where: "module:object" or "file.py:object".
        timeout: seconds that an attempt may take where its budget does not limit them: an agent that hangs must end.
        asynchronous: whether a Runnable is awaited (`ainvoke`, on an event loop that all its attempts share) instead of
            called (`invoke`, each attempt in a thread of its own). Functions say so themselves.
        system: system message of a Runnable in place of the instruction to answer in tags; "" for none.
        usd_per_million: prices of the model that it asks: {"input": …, "output": …, "cached_input": …}.
        prices: a TOML file with such a table for each model that it asks, by "PROVIDER:MODEL".
        sampled: whether its author states that each attempt is drawn anew: a word that the report shows as such, and no
            part of the identity, since it changes no attempt.
        name: how the experiment names it.

    Attributes:
        thing: the object itself.
        kind: "function", "runnable" or "maker".
        asynchronous: whether its attempts run on a shared event loop.
        threads: where the others run.
        own_loop: where those run that are asynchronous.
        reproducible: whether the same attempt always goes the same way; as the object's own `reproducible` says.

    Raises:
        UsageError: an option has a wrong value.
        ModelError: there is no such object, or it keeps neither contract.
    """

    gives_logprobs = False

    def __init__(
        self,
        where: str,
        *,
        timeout: float = TIMEOUT,
        asynchronous: bool = False,
        system: str | None = None,
        usd_per_million: Mapping[str, float] | None = None,
        prices: str | None = None,
        sampled: bool = False,
        name: str = "",
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise UsageError(f"model: timeout must be a positive number of seconds, not {timeout!r}.")
        if not isinstance(sampled, bool):
            raise UsageError(f"model: sampled must be true or false, not {sampled!r}.")
        self.where, self.name = where, name or f"agent:{where}"
        self.timeout, self.system = float(timeout), system
        found = load_agent(where)
        self.thing, self.kind, self._content, self._file = found.thing, found.kind, found.content, found.file
        self.asynchronous = _is_async(self.thing) if self.kind == FUNCTION else asynchronous
        self.prices = PriceList(usd_per_million, prices)
        self.threads, self.own_loop = DaemonThreads(MOST_THREADS), OwnLoop()
        self.reproducible = getattr(self.thing, "reproducible", False) is True

    @property
    def priced(self) -> bool:
        """Whether the prices of the models that it asks are known."""
        return self.prices.known

    def fingerprint(self) -> Mapping[str, Any]:
        """Its name, the content of its file, and its own `version`: other files that it uses are told by that alone."""
        own = getattr(self.thing, "version", None)
        return {
            "kind": "agent",
            "version": VERSION,
            "agent": self.where,
            "content": self._content,
            "own": str(own) if isinstance(own, str | int) else "",
            "asynchronous": self.asynchronous,
            "system": self.system,
            "timeout": self.timeout,
        }

    def place_of(self, error: BaseException) -> str:
        """Where in the agent's own file an error came from, as " (my_agent.py, line 7)"; "" where it did not."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if self._file and Path(frame.filename).resolve() == self._file]
        return f" ({self._file.name}, line {lines[-1]})" if self._file and lines else ""

    def count(self, text: str) -> int:
        """Tokens of `text`, estimated: four bytes are about a token."""
        return approximate_tokens(text)

    async def start(self) -> None:
        """Nothing to load: the object was when it was named."""

    async def generate(self, request: Request) -> Reply:
        """Never: an agent asks the environment, not the other way round.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.name} drives its attempts itself and cannot be asked for single messages.")

    async def aclose(self) -> None:
        """Lets its threads and its event loop end; those that hang are left to themselves."""
        self.threads.close()
        await self.own_loop.aclose()


@dataclass(frozen=True)
class Found:
    """An agent's object.

    Attributes:
        thing: the object.
        kind: which contract it keeps.
        content: hash of the file that it was found in; "" where there is none.
        file: that file; None where there is none.
    """

    thing: Any
    kind: str
    content: str
    file: Path | None


def load_agent(where: str) -> Found:
    """The object that "module:object" or "file.py:object" names.

    Raises:
        UsageError: the text has another form.
        ModelError: there is no such module or file, importing it failed, or the object keeps no contract.
        UnknownName: it has no such object.
    """
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise UsageError(f'an agent is written "module:object" or "file.py:object", not {where!r}.')
    try:
        module = _module(place)
    except DataError as error:
        raise ModelError(str(error)) from error
    thing = getattr(module, name, None)
    if thing is None:
        usable = [key for key, value in vars(module).items() if callable(value) and not re.match("_|[A-Z]", key)]
        raise UnknownName("agent", name, usable, hint=f"It is looked up in {place}.")
    named_file = getattr(module, "__file__", None)
    file = Path(named_file).resolve() if named_file and Path(named_file).is_file() else None
    return Found(thing, _kind(thing, where), digest(file.read_bytes().hex()) if file else "", file)


def _module(place: str) -> Any:
    if place.endswith(".py"):
        if not Path(place).is_file():
            near = nearest_path(Path(place), ".py")
            raise DataError(f"there is no agent file {place!r}; paths are relative to the working directory.{near}")
        return execute(Path(place))
    file = f" The file {place}.py is here: write '{place}.py:…'." if Path(f"{place}.py").is_file() else ""
    with foreign_code(lambda error: f"the agent's module {place!r} cannot be imported ({named(error)}).{file}"):
        return importlib.import_module(place)


def _kind(thing: Any, where: str) -> str:
    if isinstance(thing, Runnable) or (not inspect.isclass(thing) and callable(getattr(thing, "invoke", None))):
        return RUNNABLE
    if callable(thing) and not inspect.isclass(thing):
        needed = _needed(thing)
        if needed == ["tools"]:
            return MAKER
        if needed is None or len(needed) == 1:
            return FUNCTION
    raise ModelError(
        f"{where} is {_described(thing)}, which is no agent: give a function of one argument, agent(env), or an object "
        "that is called so; a langchain Runnable or a compiled graph; or a function make(tools) that returns one."
    )


def _described(thing: Any) -> str:
    """What an object is that is no agent, by what is wrong with it."""
    if inspect.isclass(thing):
        return f"the class {thing.__name__}, and not an object of it such as {thing.__name__}()"
    if inspect.isroutine(thing):
        return (
            f"a function called with {', '.join(_needed(thing) or ()) or 'no argument that can be given by position'}"
        )
    return f"{thing!r:.80}"


def _needed(thing: Any) -> list[str] | None:
    """Names of the arguments that must be given by position; None where that cannot be told."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):  # of a builtin
        return None
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return []
    needed = [p.name for p in by_position if p.default is p.empty]
    return needed or [p.name for p in by_position[:1]]


def _is_async(thing: Any) -> bool:
    return inspect.iscoroutinefunction(thing) or inspect.iscoroutinefunction(getattr(thing, "__call__", None))  # noqa: B004


class PriceList:
    """Prices of the models that an agent asks, by name.

    Args:
        usd_per_million: prices of all of them; None for those of a file.
        path: the file.

    Raises:
        UsageError: a price is no number of at least 0.
    """

    def __init__(self, usd_per_million: Mapping[str, float] | None, path: str | None) -> None:
        self._path = None if usd_per_million is not None else path
        self._one = prices_of("", usd_per_million, None)
        self._found: dict[str, Prices] = {}

    @property
    def known(self) -> bool:
        """Whether anything costs anything."""
        return self._one.known or self._path is not None

    def of(self, model: str) -> Prices:
        """Prices of a model, "PROVIDER:MODEL".

        Raises:
            DataError: the file cannot be read.
            UnknownName: the file has no prices of the model.
        """
        if self._path is None:
            return self._one
        if model not in self._found:
            self._found[model] = prices_of(model, None, self._path)
        return self._found[model]
