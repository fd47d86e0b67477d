"""Models by name: `make_model("reference")`, `make_model("hf:NAME_OR_PATH")`, `make_model("chat:PROVIDER:MODEL")`.

Adapters are imported when a model of their kind is made: most commands need neither torch nor a client library.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.errors import UnknownName, UsageError
from testbed.models.base import Model, Reply, Request, Sampling, uniforms

MODEL_KINDS: Mapping[str, str] = {
    "reference": "the small causal language model that ships with the testbed; runs on the CPU, needs no download",
    "hf:NAME_OR_PATH": "a local transformers model: a directory, or a name on the Hugging Face Hub",
    "chat:PROVIDER:MODEL": "a hosted or served chat model through langchain, such as chat:openai:gpt-4.1-mini",
    "agent:MODULE:OBJECT": "a function, langchain Runnable or graph of yours that drives the environment itself",
    "oracle": "answers from the task's reference: proves graders and pipelines",
    "scripted": "answers by a function or a list of replies: for tests and calibration",
}

NAMED = ("hf", "chat", "agent")  # kinds whose ids go on with a name
GENERAL = ("id", "temperature", "top_p", "max_tokens")  # keys of [model] that are no adapter's: may be misspelled too


def make_model(id: str, options: Mapping[str, Any] | None = None) -> Model:
    """The model that an experiment file names.

    Args:
        id: one of `MODEL_KINDS`, with its name filled in.
        options: what the adapter's constructor takes besides the name.

    Raises:
        UnknownName: there is no such kind of model, or it has no such option; the message has the nearest one.
        ModelError: the model's files cannot be found or read.
        UsageError: an option has a wrong value.
    """
    kind, _, name = id.partition(":")
    makers: Mapping[str, Callable[[str], Callable[..., Model]]] = {
        "reference": _reference,
        "hf": _hf,
        "chat": _chat,
        "agent": _agent,
        "oracle": _oracle,
        "scripted": _scripted,
    }
    if kind not in makers:
        raise unknown_model(id)
    if bool(name) != (kind in NAMED):
        form = next(form for form in MODEL_KINDS if form.partition(":")[0] == kind)
        raise UsageError(f"model {id!r}: write it as {form}.")
    make = makers[kind](name)
    parameters = inspect.signature(make).parameters.values()
    known = {p.name: str(p.annotation) for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option, value in (options or {}).items():
        if option not in known:
            general = () if option in GENERAL else GENERAL
            raise UnknownName(f"option of model {id!r}:", option, [*known, *general])
        _check_plain(option, value, known[option])
    return make(**(options or {}))


def unknown_model(id: str) -> UnknownName:
    """The error for an id of no known kind; says what it may stand for: a directory here, or a misspelled kind."""
    kind, _, name = id.partition(":")
    near = difflib.get_close_matches(kind, NAMED, n=1)
    hint = f"Perhaps '{near[0]}:{name}' is meant." if near and name else ""
    with suppress(OSError, RuntimeError):  # of what can be no path
        if (Path(id).expanduser() / "config.json").is_file():
            hint = f"The directory {id!r} holds a model: write 'hf:{id}'."
    return UnknownName("model", id, MODEL_KINDS, hint)


def _check_plain(option: str, value: Any, annotation: str) -> None:
    """Refuses a value that is no text or no truth value where that is all an option takes; adapters check the rest."""
    kinds = {"str": str, "bool": bool, "None": type(None)}
    wanted = annotation.split(" | ")
    if set(wanted) <= set(kinds) and not isinstance(value, tuple(kinds[kind] for kind in wanted)):
        form = "true or false" if "bool" in wanted else "text"
        raise UsageError(f"model: {option} must be {form}, not {value!r:.80}.")


def _reference(name: str) -> Callable[..., Model]:
    from testbed.models.reference_model import reference

    return reference


def _hf(name: str) -> Callable[..., Model]:
    from testbed.models.hf import HuggingFace

    return _with_first(HuggingFace, name)


def _chat(name: str) -> Callable[..., Model]:
    from testbed.models.chat import Chat

    return _with_first(Chat, name)


def _agent(name: str) -> Callable[..., Model]:
    from testbed.agents import Agent

    return _with_first(Agent, name)


def _oracle(name: str) -> Callable[..., Model]:
    from testbed.models.oracle import Oracle

    return Oracle


def _scripted(name: str) -> Callable[..., Model]:
    from testbed.models.scripted import from_options

    return from_options


def _with_first(make: Callable[..., Model], first: str) -> Callable[..., Model]:
    """`make` with its first argument given; unlike functools.partial, keeps a plain signature of what is left."""

    def made(**options: Any) -> Model:
        return make(first, **options)

    parameters = list(inspect.signature(make).parameters.values())[1:]
    made.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return made


__all__ = ["MODEL_KINDS", "Model", "Reply", "Request", "Sampling", "make_model", "uniforms", "unknown_model"]
