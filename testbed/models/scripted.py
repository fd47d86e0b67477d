"""A model that does what it is told: instant and deterministic, for tests, benchmarks and policies of known truth."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from testbed.edges import Foreign
from testbed.errors import ModelError, UnknownName, UsageError, nearest_path
from testbed.models.base import Reply, Request, philox
from testbed.types import Usage, digest

VERSION = "1"
CHARS_PER_TOKEN = 4

Policy = Callable[[Request, np.random.Generator], str] | Callable[[Request], str]


class Instant:
    """What models have in common that load nothing and write at once; four characters are a token."""

    reproducible = True
    priced = False

    def count(self, text: str) -> int:
        """Tokens of `text`: a quarter of its characters, rounded up."""
        return (len(text) + CHARS_PER_TOKEN - 1) // CHARS_PER_TOKEN

    async def start(self) -> None:
        """Nothing to load."""

    async def aclose(self) -> None:
        """Nothing to free."""


class Scripted(Instant):
    """Writes what a policy says.

    Four characters are a token, so that a reply longer than `max_tokens` is cut there like any other model's.

    Args:
        policy: a function of the request and a random generator (or of the request alone), or the replies by turn, of
            which the last is repeated. The generator is the attempt's own: its numbers are the same whatever else runs.
        name: how the experiment names it.

    Raises:
        UsageError: there is no reply, or the policy is neither a function nor replies.
    """

    def __init__(self, policy: Policy | Sequence[str], *, name: str = "scripted") -> None:
        self.name = name
        self._identity = {
            "kind": "scripted",
            "version": VERSION,
            "policy": identify(policy) if callable(policy) else list(policy),
        }
        self._write = _from_policy(policy) if callable(policy) else _from_replies(policy)

    def fingerprint(self) -> Mapping[str, Any]:
        """The replies, or the policy's source."""
        return self._identity

    async def generate(self, request: Request) -> Reply:
        """What the policy says, cut at `max_tokens`.

        Raises:
            ModelError: the policy failed, or said no text; names its file and the line.
        """
        text, finish = self._said(request), "stop"
        if self.count(text) > request.max_tokens:
            text, finish = text[: CHARS_PER_TOKEN * request.max_tokens], "length"
        prompt = sum([self.count(message["content"]) for message in request.messages])
        return Reply(text, Usage(prompt, self.count(text)), finish)

    def _said(self, request: Request) -> str:
        with Foreign(self._failed):
            text = self._write(request)
        if not isinstance(text, str):
            function = self._identity["policy"]["function"]
            raise ModelError(f"the policy {function} must return text, not {text!r:.60}: does it lack a return?")
        return text

    def _failed(self, error: Exception) -> ModelError:
        told = traceback.format_exception_only(error)[-1].strip()
        return ModelError(f"the policy of model {self.name!r} failed: {_line_of(error)}{told}")


def _line_of(error: Exception) -> str:
    """Where in the policy's own file an error came up, such as "policy.py:2: "; empty where it has none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"{own[-1].filename}:{own[-1].lineno}: " if own else ""


def from_options(*, replies: Sequence[str] | None = None, policy: str | None = None) -> Scripted:
    """The scripted model of an experiment file.

    Args:
        replies: the replies by turn.
        policy: where the policy stands: "module:function" or "file.py:function".

    Raises:
        UsageError: not exactly one of the two is given, or it has a wrong type.
        ModelError: the policy cannot be imported.
    """
    if (replies is None) == (policy is None):
        raise UsageError('model "scripted": give either replies = ["…"] or policy = "module:function".')
    if replies is not None:
        return Scripted(replies)
    assert policy is not None
    return Scripted(load_policy(policy))


def load_policy(where: str) -> Policy:
    """The function that "module:function" or "file.py:function" names.

    Raises:
        UsageError: the text has another form.
        ModelError: there is no such module or file, or importing it failed.
        UnknownName: it has no such function.
    """
    place, _, function = str(where).rpartition(":")
    if not place or not function:
        raise UsageError(f'model "scripted": policy must be "module:function" or "file.py:function", not {where!r}.')
    module = _module_from_file(Path(place)) if place.endswith(".py") else _module(place)
    functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    found = getattr(module, function, None)
    if not callable(found):
        raise UnknownName("policy", function, functions, hint=f"It is looked up in {place}.")
    return found  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"the policy's module {name!r} cannot be imported: {error}.") from error


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = nearest_path(path, ".py")
        raise ModelError(f"there is no policy file {str(path)!r}; paths are relative to the working directory.{near}")
    spec = importlib.util.spec_from_file_location(f"testbed_policy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)

    def failed(error: Exception) -> ModelError:
        return ModelError(f"the policy file {str(path)!r} cannot be run: {type(error).__name__}: {error}.")

    with Foreign(failed):
        spec.loader.exec_module(module)
    return module


def identify(function: Callable[..., Any]) -> dict[str, str]:
    """What identifies a function: its name and a hash of its source, so that a changed policy is another arm."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", type(function).__qualname__)
    code = function if inspect.isroutine(function) else type(function)
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):  # typed at a prompt, or built in: its name must do
        source = ""
    return {"function": f"{module}:{name}", "source": digest(source)}


def _from_replies(replies: Sequence[str]) -> Callable[[Request], str]:
    if isinstance(replies, str) or not replies or not all(isinstance(reply, str) for reply in replies):
        raise UsageError('model "scripted": replies must be a list of at least one text, one for each turn.')
    last = len(replies) - 1

    def write(request: Request) -> str:
        turn = sum([message["role"] == "assistant" for message in request.messages])
        return replies[min(turn, last)]

    return write


def _from_policy(policy: Callable[..., str]) -> Callable[[Request], str]:
    if len(inspect.signature(policy).parameters) < 2:
        return policy

    def write(request: Request) -> str:
        # The position goes into the counter's third word: each turn has numbers of its own, however many it draws.
        bits = philox(request.stream, [0, 0, request.position, 0])
        return policy(request, np.random.Generator(bits))

    return write
