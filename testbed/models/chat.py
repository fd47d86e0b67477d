"""Chat models through langchain: hosted ones, and servers that speak the OpenAI protocol, such as vLLM or llama.cpp."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from testbed import protocol
from testbed.errors import ModelError, UsageError
from testbed.models.base import Reply, Request, uniforms
from testbed.models.chat_clients import Connections, check_client, make_client
from testbed.models.chat_errors import translated
from testbed.models.chat_messages import encode_reply, to_langchain
from testbed.types import Usage

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage

VERSION = "1"
PRICES = ("input", "output")
_SEEDED = ("ChatOpenAI", "AzureChatOpenAI")  # clients known to pass `seed` on


class Chat:
    """Any langchain chat model.

    Tools are called natively; calls are written to the transcript in the text protocol, and given back to the model as
    native calls. What a provider's sampler does with a seed is its own affair: its attempts need not repeat.

    Args:
        model: "PROVIDER:MODEL", or a chat model object, whose own retries should be off.
        native: whether to use the provider's tool calls; else tools are described in the system text.
        base_url: where the server is; for "openai" by default $OPENAI_BASE_URL.
        api_key_env: environment variable with the key; by default the provider's usual one.
        timeout: wall seconds that one call may take.
        system: system text in place of the instruction to answer in tags; "" for none.
        usd_per_million: prices of a million tokens: {"input": …, "output": …}.
        seed: whether to send a seed with each call; by default where the client is known to take one.
        name: how the experiment names it.

    Raises:
        UsageError: an option has a wrong value.
        ModelError: the provider's package is not installed.
    """

    def __init__(
        self,
        model: str | BaseChatModel,
        *,
        native: bool = True,
        base_url: str | None = None,
        api_key_env: str | None = None,
        timeout: float = 120.0,
        system: str | None = None,
        usd_per_million: Mapping[str, float] | None = None,
        seed: bool | None = None,
        name: str = "",
    ) -> None:
        self._prices = _checked_prices(usd_per_million or {})
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            raise UsageError(f"model: timeout must be a positive number of seconds, not {timeout!r}.")
        self._timeout, self._native, self._system = float(timeout), native, system
        self._base_url, self._key_env = base_url, api_key_env
        self._client: BaseChatModel | None = None
        self._connections: Connections | None = None
        if isinstance(model, str):
            check_client(model, api_key_env)
            self._id, kind = model, "ChatOpenAI" if model.startswith("openai:") else ""
        else:
            self._client, kind = model, type(model).__name__
            self._id = f"{kind}:{_model_of(model)}"
        self.name = name or f"chat:{self._id}"
        self._seeded = kind in _SEEDED if seed is None else seed
        self._bound: dict[str, Any] = {}
        self._approximate = False

    @property
    def counts_are_approximate(self) -> bool:
        """Whether the provider left out the token counts of a reply, so that four bytes were taken for a token."""
        return self._approximate

    @property
    def priced(self) -> bool:
        """Whether its prices are known, without which no reply costs anything."""
        return any(self._prices.values())

    def fingerprint(self) -> Mapping[str, Any]:
        """What is asked and how. A hosted model's weights cannot be seen: they may change under the same name."""
        return {
            "kind": "chat",
            "version": VERSION,
            "model": self._id,
            "server": self._base_url or "",
            "native": self._native,
            "system": self._system,
            "seed": self._seeded,
        }

    def count(self, text: str) -> int:
        """Tokens of `text`, estimated: the provider's tokenizer is not here, and four bytes are about a token."""
        return (len(text.encode("utf-8", "replace")) + 3) // 4

    async def start(self) -> None:
        """Makes the client; the first call shows whether the provider answers.

        Raises:
            ModelError: the client refuses its settings.
        """
        if self._client is None:
            self._client, self._connections = make_client(self._id, self._base_url, self._key_env, self._timeout)

    async def generate(self, request: Request) -> Reply:
        """Asks for the next message, once: the runner repeats what fails.

        Raises:
            ModelError: the provider refuses the request: wrong key, unknown model, wrong parameters, too long a prompt.
            ModelUnavailable: rate limit or server error.
            TransportError: no connection, no answer in time, or an answer that cannot be read.
        """
        await self.start()
        assert self._client is not None
        messages = to_langchain(request.messages, self._system_text(request.tools), native=self._native)
        begun = time.monotonic()
        message = await self._ask(self._runnable(self._client, request), messages, self._settings(request))
        seconds = time.monotonic() - begun
        finish = _finish(message)
        text = encode_reply(message, native=self._native, cut=finish == "length")
        return Reply(text, self._usage(messages, message, text, seconds), finish)

    async def aclose(self) -> None:
        """Closes the connections of a client made here."""
        connections, self._connections = self._connections, None
        if connections is not None:
            self._client, self._bound = None, {}
            await connections.aclose()

    async def _ask(self, runnable: Any, messages: Sequence[BaseMessage], settings: Mapping[str, Any]) -> AIMessage:
        try:
            async with asyncio.timeout(self._timeout):
                answer: AIMessage = await runnable.ainvoke(messages, **settings)
        except Exception as error:  # each provider has its own; those that can be explained are translated
            raise translated(error, self.name, self._timeout) from error
        return answer

    def _runnable(self, client: BaseChatModel, request: Request) -> Any:
        if not (self._native and request.tools):
            return client
        key = json.dumps([dict(tool) for tool in request.tools])
        if key not in self._bound:
            try:
                self._bound[key] = client.bind_tools([dict(tool) for tool in request.tools])
            except NotImplementedError:
                raise ModelError(f"{self.name} has no native tool calls; set native = false for text.") from None
        return self._bound[key]

    def _settings(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        settings: dict[str, Any] = {"temperature": sampling.temperature, "max_tokens": request.max_tokens}
        if sampling.top_p < 1:  # some providers refuse it beside a temperature
            settings["top_p"] = sampling.top_p
        if not self._native:
            settings["stop"] = list(protocol.STOP_STRINGS)
        if self._seeded:
            settings["seed"] = int(uniforms(request.stream, request.position, 1)[0] * 2**31)
        return settings

    def _system_text(self, tools: Sequence[Mapping[str, Any]]) -> str:
        answer = protocol.ANSWER_INSTRUCTION if self._system is None else self._system
        described = protocol.instructions([] if self._native else tools)
        return described.removesuffix(protocol.ANSWER_INSTRUCTION) + answer

    def _usage(self, sent: Sequence[BaseMessage], message: AIMessage, text: str, seconds: float) -> Usage:
        told = message.usage_metadata
        if told is None:
            self._approximate = True
            prompt, written = sum(self.count(str(m.text)) for m in sent), self.count(text)
        else:
            prompt, written = told["input_tokens"], told["output_tokens"]
        usd = (prompt * self._prices.get("input", 0.0) + written * self._prices.get("output", 0.0)) / 1e6
        return Usage(prompt, written, seconds, usd)


def _model_of(client: BaseChatModel) -> str:
    return str(getattr(client, "model_name", None) or getattr(client, "model", None) or "")


def _finish(message: AIMessage) -> str:
    reason = message.response_metadata.get("finish_reason") or message.response_metadata.get("stop_reason")
    return "length" if reason in ("length", "max_tokens", "MAX_TOKENS") else "stop"


def _checked_prices(prices: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(prices, Mapping):
        raise UsageError(f"model: usd_per_million must be a table of input = … and output = …, not {prices!r:.80}.")
    for key, price in prices.items():
        number = isinstance(price, int | float) and not isinstance(price, bool) and price >= 0
        if key not in PRICES or not number:
            raise UsageError(f"model: usd_per_million takes input = … and output = …, not {key} = {price!r}.")
    return dict(prices)
