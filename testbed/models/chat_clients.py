"""langchain clients by "PROVIDER:MODEL"; a provider's package is imported when one of its models is made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from testbed.edges import Foreign
from testbed.errors import ModelError, UnknownName, UsageError
from testbed.models.chat_providers import PACKAGES, canonical, known_providers

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_KEYLESS = re.compile(r"missing credentials|api_key|api key", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[^/?#\s]", re.IGNORECASE)

_OWN_SERVER = "A server that speaks the OpenAI protocol needs no provider: chat:openai:NAME with base_url."
# Keys of providers by how they begin, and whatever a server says that it was given as one.
_LIKE_A_KEY = re.compile(
    r"\b(sk|pk|rk|gsk|xai|csk|nvapi|pplx|r8)[-_][\w*.-]{5,}[\w*]|\bhf_\w{16,}|\bAIza[\w-]{16,}|\bAKIA[A-Z0-9]{12,}"
    r"|(?<=key provided: )[^\s\"',;]*[\w*]|(?<=bearer )(?=\S*[\d*])[\w*.-]{6,}[\w*]",
    re.IGNORECASE,
)

# What each request says of its own accord.
_OWN_FIELDS = {"model", "messages", "tools", "temperature", "top_p", "max_tokens", "max_completion_tokens"} | {
    *("stop", "seed", "logprobs", "n", "stream", "prompt", "echo")
}


class NoKey(ModelError):
    """A variable with a provider's key is not set."""


class Connections(Protocol):
    """What a client's connections are to the testbed: something to close."""

    async def aclose(self) -> None:
        """Closes them."""
        ...


def check_client(model: str, api_key_env: str | None, base_url: str | None) -> str:
    """Checks what can be checked before anything is asked.

    Returns:
        "PROVIDER:MODEL" in its one spelling, see `canonical`.

    Raises:
        ModelError: the provider's package is not installed.
        NoKey: the variable that is to have the key is not set.
        UsageError: the name or the server's address has another form.
    """
    model = canonical(model)
    provider, _, name = model.partition(":")
    if not provider or not name:
        raise UsageError(
            f"write a chat model as chat:PROVIDER:MODEL, as in chat:openai:gpt-4.1-mini, not chat:{model}."
        )
    if api_key_env and api_key_env not in os.environ:
        raise NoKey(f"chat:{model}: the environment variable {api_key_env} is not set.")
    if provider == "openai" and base_url and not _ADDRESS.match(base_url):
        raise UsageError(f"model: base_url must be an address such as http://127.0.0.1:8000/v1, not {base_url!r}.")
    if provider == "openai" and find_spec("langchain_openai") is None:
        raise ModelError("chat:openai needs langchain-openai: pip install 'capability-testbed[chat]'.")
    if provider not in PACKAGES and provider not in known_providers():
        raise UnknownName("provider of chat models", provider, known_providers(), _OWN_SERVER)
    if provider != "openai" and find_spec("langchain") is None:
        package = PACKAGES[provider]
        raise ModelError(
            f"chat:{model} needs the packages langchain and {package}: pip install langchain {package}. {_OWN_SERVER}"
        )
    return model


def extra_fields(given: Mapping[str, Any] | None, takes_them: bool) -> dict[str, Any]:
    """Further fields of each request.

    Args:
        given: the option.
        takes_them: whether the client is known to send them.

    Raises:
        UsageError: it is no table, or it has what the testbed sets itself, or the client takes none.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UsageError(f"model: extra_body must be a table, such as {{ top_k = 0 }}, not {given!r:.80}.")
    if given and not takes_them:
        raise UsageError("model: extra_body is for chat:openai:NAME only.")
    if own := sorted(given.keys() & _OWN_FIELDS):
        raise UsageError(f"model: extra_body may not set {own[0]}, which the testbed sets itself.")
    return dict(given)


def make_client(
    model: str, base_url: str | None, api_key_env: str | None, timeout: float
) -> tuple[BaseChatModel, Connections | None]:
    """The langchain client of "PROVIDER:MODEL", its own retries off, and its connections where they are ours to close.

    Raises:
        NoKey: the client needs a key, and the provider's usual variable has none.
        ModelError: the client refuses to be made.
    """
    provider, _, name = model.partition(":")
    options: dict[str, Any] = {"max_retries": 0, "timeout": timeout}
    if base_url:
        options["base_url"] = base_url
    if api_key_env:
        options["api_key"] = os.environ[api_key_env]
    variable = api_key_env or _variable(model)
    key = os.environ.get(variable, "")
    if key != key.strip() or not (key.isascii() and key.isprintable()):
        raise ModelError(
            f"chat:{model}: the key in {variable} cannot be sent: it has a blank or a line break at one end, or a "
            "character that is none of a key's."
        )

    def told(error: Exception) -> Exception:  # constructors validate each in their own way, missing keys included
        if _KEYLESS.search(str(error)) and not api_key_env:  # its own advice, an argument, cannot be followed here
            return NoKey(f"chat:{model} has no API key: set {variable}, or name another variable with api_key_env.")
        said = without_key(f"{type(error).__name__}: {error}", model, api_key_env)
        return ModelError(f"chat:{model}: the client cannot be made: {said}")

    with Foreign(told):
        return _openai(name, options) if provider == "openai" else (_other(provider, name, options), None)


def model_of(client: BaseChatModel | None) -> str:
    """The model's name, wherever a client keeps it."""
    return str(getattr(client, "model_name", None) or getattr(client, "model", None) or "")


def without_key(text: str, model: str, api_key_env: str | None) -> str:
    """A message of a client or a server without the key, which some of them repeat, and without what looks like one."""
    key = os.environ.get(api_key_env or _variable(model), "")
    return _LIKE_A_KEY.sub("…", text.replace(key, "…") if key else text)


def _variable(model: str) -> str:
    """The usual environment variable with a provider's key."""
    return f"{model.partition(':')[0].upper()}_API_KEY"


def _openai(name: str, options: dict[str, Any]) -> tuple[BaseChatModel, Connections]:
    from langchain_openai import ChatOpenAI
    from openai import Timeout

    from testbed.models.chat_answers import AnswerConnections

    served = options.get("base_url") or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
    if served and "api_key" not in options and "OPENAI_API_KEY" not in os.environ:
        options["api_key"] = "none"  # servers of one's own mostly ask for no key, and the client insists on one
    # A server that cannot be reached is told from one that was asked and does not answer.
    options["timeout"] = Timeout(options["timeout"], connect=options["timeout"] / 2)
    # langchain shares its connections between clients, and so between event loops, which connections do not survive.
    connections = AnswerConnections(timeout=options["timeout"])
    return ChatOpenAI(model=name, http_async_client=connections, **options), connections


def _other(provider: str, name: str, options: dict[str, Any]) -> BaseChatModel:
    chat_models = import_module("langchain.chat_models")
    client: BaseChatModel = chat_models.init_chat_model(name, model_provider=provider, **options)
    return client
