"""Chat models through langchain: hosted ones, and servers that speak the OpenAI protocol, such as vLLM or llama.cpp."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import convert_to_openai_messages

from testbed import protocol
from testbed.errors import ModelError, UsageError
from testbed.models.base import Reply, Request, Score, uniforms
from testbed.models.chat_clients import Connections, check_client, make_client, without_key
from testbed.models.chat_errors import translated
from testbed.models.chat_messages import encode_reply, to_langchain
from testbed.models.chat_prices import prices_of
from testbed.models.chat_score import Tokens, marked, scores_of, tokens_read, written_logprobs
from testbed.models.pacing import Answer, Pace
from testbed.types import Message, Usage

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage

VERSION = "1"
CONCURRENCY = 256
PATIENCE = 300.0
_OPENAI = ("ChatOpenAI", "AzureChatOpenAI")  # clients known to pass `seed` and `logprobs` on


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
        concurrency: requests at one time at most; how many there are follows what the server takes.
        patience: seconds for which a server that refuses everything (429, 503) is waited for.
        system: system text in place of the instruction to answer in tags; "" for none.
        usd_per_million: prices of a million tokens: {"input": …, "output": …, "cached_input": …}.
        prices: a TOML file with such a table for each model, by "PROVIDER:MODEL".
        seed: whether to send a seed with each call; by default where the client is known to take one.
        name: how the experiment names it.

    Attributes:
        gives_logprobs: whether it can ask for the log-probabilities of what is written; not every server tells them.

    Raises:
        UsageError: an option has a wrong value.
        DataError: the file of prices cannot be read.
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
        concurrency: int = CONCURRENCY,
        patience: float = PATIENCE,
        system: str | None = None,
        usd_per_million: Mapping[str, float] | None = None,
        prices: str | None = None,
        seed: bool | None = None,
        name: str = "",
    ) -> None:
        for option, value in (("timeout", timeout), ("patience", patience)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise UsageError(f"model: {option} must be a positive number of seconds, not {value!r}.")
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise UsageError(f"model: concurrency must be a whole number of requests from 1 on, not {concurrency!r}.")
        self._timeout, self._native, self._system = float(timeout), native, system
        self._pace = Pace(concurrency, float(patience))
        self._base_url, self._key_env = base_url, api_key_env
        self._client: BaseChatModel | None = None
        self._connections: Connections | None = None
        if isinstance(model, str):
            check_client(model, api_key_env)
            self._id, kind = model, "ChatOpenAI" if model.startswith("openai:") else ""
        else:
            self._client, kind = model, type(model).__name__
            self._id = f"{kind}:{_model_of(model)}"
        self._prices = prices_of(self._id, usd_per_million, prices)
        self.name = name or f"chat:{self._id}"
        self.gives_logprobs = kind in _OPENAI
        self._seeded = self.gives_logprobs if seed is None else seed
        self._bound: dict[str, Any] = {}
        self._approximate = self._told_logprobs = False

    @property
    def counts_are_approximate(self) -> bool:
        """Whether the provider left out the token counts of a reply, so that four bytes were taken for a token."""
        return self._approximate

    @property
    def priced(self) -> bool:
        """Whether its prices are known, without which no reply costs anything."""
        return self._prices.known

    @property
    def refused(self) -> int:
        """Requests that the server refused so far, before the model began, and that were sent again."""
        return self._pace.refused

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
        """Asks for the next message: again where the server refused before the model began, else once.

        Raises:
            ModelError: the provider refuses the request (wrong key, unknown model, wrong parameters), or does not tell
                log-probabilities where they are wanted.
            ContextFull: the conversation is too long for the model.
            ModelNotAsked: no connection, or a server that refuses for longer than it is waited for.
            ModelUnavailable: server error.
            TransportError: no answer in time, or one that was cut off or cannot be read.
        """
        await self.start()
        assert self._client is not None
        messages = to_langchain(request.messages, self._system_text(request.tools), native=self._native)
        runnable, settings = self._runnable(self._client, request), self._settings(request)
        begun = 0.0

        async def send() -> AIMessage:
            nonlocal begun
            begun = time.monotonic()
            answer: AIMessage = await runnable.ainvoke(messages, **settings)
            return answer

        message, resent = await self._pace.ask(lambda: self._in_time(send()), request.off_clock)
        seconds = time.monotonic() - begun
        finish = _finish(message)
        text = encode_reply(message, native=self._native, cut=finish == "length")
        usage = replace(self._usage(messages, message, text, seconds), resent=resent)
        return Reply(text, usage, finish, self._logprobs(request, message, usage) if request.logprobs else None)

    async def score(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], which: Sequence[int]
    ) -> list[Score]:
        """Log-probabilities of messages as the server's model reads them, where the server gives any (vLLM does).

        Raises:
            ModelError: the server gives none, or the messages' tokens cannot be told from those around them.
            ContextFull: the conversation is too long for the model.
            InfrastructureError: as in `generate`.
        """
        await self.start()
        if self._native and any(protocol.parse(messages[n]["content"]).calls for n in which if _is_said(messages[n])):
            raise ModelError(
                f"{self.name} cannot score native calls, which each server writes in its own way; set native = false."
            )
        tokens, template = [await self._read(m, tools) for m in (messages, marked(messages, which))]
        return scores_of(tokens, template, messages, which)

    async def aclose(self) -> None:
        """Closes the connections of a client made here."""
        connections, self._connections = self._connections, None
        if connections is not None:
            self._client, self._bound = None, {}
            await connections.aclose()

    async def _in_time(self, answer: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except Exception as error:  # each provider has its own; those that can be explained are translated
            told = translated(error, self.name, self._timeout)
            if told is error:
                raise
            told.args = (without_key(str(told), self._id, self._key_env),)
            raise told from error

    async def _read(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Tokens:
        """The tokens of a conversation as the server's model reads it."""
        client = getattr(self._client, "root_async_client", None)
        if client is None:
            raise ModelError(f"{self.name} cannot score texts: only chat:openai:NAME can, where a server offers it.")
        body: dict[str, Any] = {
            "model": _model_of(self._client),
            "messages": convert_to_openai_messages(
                to_langchain(messages, self._system_text(tools), native=self._native)
            ),
            "max_tokens": 1,
            "temperature": 0,
            "extra_body": {"prompt_logprobs": 0, "add_generation_prompt": False},
        }
        if self._native and tools:
            body["tools"] = [dict(tool) for tool in tools]
        answer, _ = await self._pace.ask(
            lambda: self._in_time(client.chat.completions.create(**body)), lambda since=None: nullcontext()
        )
        return tokens_read(answer.to_dict(), self.name)

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
        if request.logprobs:
            settings["logprobs"] = True
        if self._seeded:
            settings["seed"] = int(uniforms(request.stream, request.position, 1)[0] * 2**31)
        return settings

    def _logprobs(self, request: Request, message: AIMessage, usage: Usage) -> tuple[float, ...] | None:
        """Of the reply's tokens; a server that gave none yet is told by name instead of leaving all out in silence."""
        if request.sampling.temperature != 1 or request.sampling.top_p != 1:  # some servers scale them, others do not
            raise ModelError(f"{self.name} tells log-probabilities of its own only at temperature = 1 and top_p = 1.")
        found = written_logprobs(message.response_metadata, usage.generated_tokens)
        if found is None and not self._told_logprobs:
            raise ModelError(
                f"{self.name}: logprobs = true, and its server does not tell the log-probability of every token that "
                "it bills, calls and the end included; leave logprobs out."
            )
        self._told_logprobs = True
        return found

    def _system_text(self, tools: Sequence[Mapping[str, Any]]) -> str:
        answer = protocol.ANSWER_INSTRUCTION if self._system is None else self._system
        described = protocol.instructions([] if self._native else tools)
        return described.removesuffix(protocol.ANSWER_INSTRUCTION) + answer

    def _usage(self, sent: Sequence[BaseMessage], message: AIMessage, text: str, seconds: float) -> Usage:
        told = message.usage_metadata
        if told is None:
            self._approximate = True
            prompt, written, cached = sum(self.count(str(m.text)) for m in sent), self.count(text), 0
        else:
            prompt, written = max(told["input_tokens"], 0), max(told["output_tokens"], 0)  # servers tell anything
            cached = min(max(told.get("input_token_details", {}).get("cache_read", 0), 0), prompt)
        return Usage(prompt, written, seconds, self._prices.usd(prompt, cached, written))


def _is_said(message: Message) -> bool:
    return message["role"] == "assistant"


def _model_of(client: BaseChatModel | None) -> str:
    return str(getattr(client, "model_name", None) or getattr(client, "model", None) or "")


def _finish(message: AIMessage) -> str:
    reason = message.response_metadata.get("finish_reason") or message.response_metadata.get("stop_reason")
    return "length" if reason in ("length", "max_tokens", "MAX_TOKENS") else "stop"
