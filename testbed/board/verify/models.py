"""What this server knows of an entry's model: how it counts tokens, and whether it can be asked again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.board.verify.names import read_alike
from testbed.env import approximate_tokens
from testbed.errors import ModelError, UsageError
from testbed.models import make_model
from testbed.models.base import Model
from testbed.models.scripted import VERSION, Instant, Scripted
from testbed.types import Message

Conversation = Sequence[Message]
Schemas = Sequence[Mapping[str, Any]]
OF_THE_MACHINE = ("dtype", "device")  # of a local model's fingerprint: they change no token's boundaries
_INSTANT = Instant()


@dataclass(frozen=True)
class KnownModel:
    """What the server can do of what an entry's model does.

    Attributes:
        count: tokens of a tool result as an attempt of the model counts them; None where that is not known here.
        prompt: tokens of what the model is given for its next message; None likewise.
        spells: whether the same counts what the model writes. A hosted model's provider counts that.
        exact: whether a reply has just the tokens of its text; other models may end with a token that says nothing, or
            spell a text otherwise than their tokenizer does.
        model: the model itself where it is here and writes the same again; else None.
        path: how the model is named here; "" of one that is not.
    """

    count: Callable[[str], int] | None = None
    prompt: Callable[[Conversation, Schemas], int] | None = None
    spells: bool = False
    exact: bool = False
    model: Model | None = None
    path: str = ""

    @property
    def name(self) -> str:
        """What it is called here, without the folder that it lies in; "" of one that is not."""
        return _last(self.path)


def known_model(fingerprint: Mapping[str, Any], names: Sequence[str]) -> KnownModel:
    """What is known of the model with a fingerprint.

    Args:
        fingerprint: as the entry's arms give it.
        names: of the local models on this server, as an experiment names them, such as "reference".
    """
    kind = fingerprint.get("kind")
    if kind == "scripted" and fingerprint.get("version") == VERSION:
        return KnownModel(_INSTANT.count, _said, spells=True, exact=True, model=_of_replies(fingerprint), path=kind)
    if kind in ("chat", "agent"):
        return KnownModel(approximate_tokens)
    if kind == "hf":
        for name in names:
            if (found := _local(name, fingerprint)) is not None:
                return found
    return KnownModel()


def _of_replies(fingerprint: Mapping[str, Any]) -> Model | None:
    """The model that writes by a list of replies; policies are programs of their author's, and are not run here."""
    if not isinstance(fingerprint.get("policy"), list):
        return None
    try:
        made = Scripted(fingerprint["policy"])
    except UsageError:
        return None
    return made if dict(made.fingerprint()) == dict(fingerprint) else None


def _local(name: str, fingerprint: Mapping[str, Any]) -> KnownModel | None:
    from testbed.models.hf import HuggingFace

    try:
        model = make_model(name)
        assert isinstance(model, HuggingFace)
        own = dict(model.fingerprint())
    except ModelError:  # its files are gone: what can be checked without it still is
        return None
    if any(own.get(key) != fingerprint.get(key) for key in {*own, *fingerprint} - set(OF_THE_MACHINE)):
        return None
    same = own == dict(fingerprint)
    return KnownModel(
        model.count,
        lambda messages, schemas: len(model.prompt(messages, schemas)),
        spells=True,
        model=model if same else None,
        path=name,
    )


def misnamed(said: str, known: KnownModel, names: Sequence[str]) -> str:
    """What is odd about the name that an author gives a model; "" if nothing is.

    A model is known by its fingerprint, whose hash the arms have; its name is a label, and anybody may write any. Where
    the model is here, pages show what it is called here. Elsewhere the label is all there is, and one that reads like
    that of a model which is here is told.

    Args:
        said: the name.
        known: what is known of the model.
        names: of the local models on this server.
    """
    if known.path:
        odd = f"its author calls the model {said!r:.120}, and here it is {known.name!r}"
        return "" if read_alike(_last(said), known.name) else odd
    for part in re.split(r"[/\\:]", said):
        if name := next((name for name in map(_last, names) if read_alike(part, name)), ""):
            return f"its author calls the model {said!r:.120}, and it is not {name!r}, the one of that name here"
    return ""


def _last(name: str) -> str:
    """A model's name without the folder that it lies in."""
    return name.rstrip("/").rsplit("/", 1)[-1].removeprefix("hf:")


def _said(messages: Conversation, schemas: Schemas) -> int:
    """What models that load nothing are given: they are told of no tools."""
    return sum(_INSTANT.count(message["content"]) for message in messages)
