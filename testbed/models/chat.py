"""Chat models through langchain: hosted ones, and servers that speak the OpenAI protocol, such as vLLM or llama.cpp."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from testbed import protocol
from testbed.edges import Foreign
from testbed.errors import ModelError
from testbed.models.base import Reply, Request, Score
from testbed.models.chat_clients import Connections, check_client, extra_fields, make_client, model_of, without_key
from testbed.models.chat_echo import Served
from testbed.models.chat_errors import Refused, expect_answers, translated
from testbed.models.chat_messages import encode_reply, finish_of, in_openais_form, system_text, to_langchain
from testbed.models.chat_names import ServedNames
from testbed.models.chat_prices import check_limit, estimated, prices_of, usage_of
from testbed.models.chat_reading import Reading
from testbed.models.chat_score import written_logprobs
from testbed.models.chat_settings import Settings, kind_of, neutral
from testbed.models.pacing import Answer, Pace, seconds_of
from testbed.types import Message, Usage

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage

    from testbed.models.chat_tokenizer import StatedTokenizer

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
        tokenizer: the transformers tokenizer with the server's chat template, a directory or a name on the Hub: for
            scoring texts by servers that cannot render a conversation themselves.
        extra_body: further fields of each request, which OpenAI's API does not have: {"top_k": 0, "min_p": 0.0}.
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
        tokenizer: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> None:
        self._timeout, self._native, self._system = seconds_of("timeout", timeout), native, system
        self._pace = Pace(concurrency, seconds_of("patience", patience))
        self._base_url, self._key_env, self._tokenizer = base_url, api_key_env, tokenizer
        self._client: BaseChatModel | None = None
        self._connections: Connections | None = None
        if isinstance(model, str):
            self._id = check_client(model, api_key_env, base_url)
            kind = "ChatOpenAI" if self._id.startswith("openai:") else ""
        else:
            self._client, kind = model, type(model).__name__
            self._id = f"{kind}:{model_of(model)}"
        self._prices = prices_of(self._id, usd_per_million, prices)
        self.name = name or f"chat:{self._id}"
        self.gives_logprobs = kind in _OPENAI
        self._seeded = self.gives_logprobs if seed is None else seed
        self._bound: dict[str, Any] = {}
        self._approximate = self._told_logprobs = False
        self._stated: StatedTokenizer | None = None
        self._reading: Reading | None = None
        self._extra = extra_fields(extra_body, self.gives_logprobs)
        self._settings = Settings(
            self.name,
            native=native,
            known=self.gives_logprobs,
            served=bool(base_url),
            seeded=self._seeded,
            extra=self._extra,
        )
        self._taken: set[str] = set()  # kinds of requests that the server has answered
        self.explain = ServedNames(lambda: None if self._taken else self._client).explain

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

    def refusing(self) -> tuple[float, float] | None:
        """For how many seconds the server has refused everything, and for how many that is waited out; None if not."""
        return self._pace.refusing()

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
            **({"top_p": "always sent"} if self._base_url else {}),
            **({"extra_body": self._extra} if self._extra else {}),
        }

    def count(self, text: str) -> int:
        """Tokens of `text`, estimated: the provider's tokenizer is not here, and four bytes are about a token."""
        return estimated(text)

    async def start(self) -> None:
        """Makes the client; the first call shows whether the provider answers.

        Raises:
            ModelError: the client refuses its settings, or the tokenizer cannot be had.
        """
        if self._tokenizer and self._stated is None:
            from testbed.models.chat_tokenizer import StatedTokenizer  # loads transformers

            self._stated = await asyncio.to_thread(StatedTokenizer, self._tokenizer)
            self.prompt = self._prompt
        if self._client is None:
            self._client, self._connections = make_client(self._id, self._base_url, self._key_env, self._timeout)

    async def generate(self, request: Request) -> Reply:
        """Asks for the next message: again where the server refused before the model began, else once.

        Raises:
            ModelError: the provider refuses the request (wrong key, unknown model, wrong parameters), or does not tell
                log-probabilities where they are wanted.
            ContextFull: the conversation is too long for the model.
            ModelNotAsked: no connection, a server that refuses for longer than it is waited for, or one that refuses
                this conversation alone.
            ModelUnavailable: server error.
            TransportError: no answer in time, or one that was cut off or cannot be read.
        """
        await self.start()
        assert self._client is not None
        messages = self._written(request.messages, request.tools)
        runnable, settings = self._runnable(self._client, request), self._settings.of(request)
        kind, limit, begun = kind_of(request), request.max_tokens, 0.0

        async def send() -> AIMessage:
            nonlocal begun
            begun = time.monotonic()
            answer: AIMessage = await runnable.ainvoke(messages, **settings)
            return answer

        try:
            message, resent = await self._pace.ask(lambda: self._in_time(send(), limit), request.off_clock)
        except Refused as error:
            if self._settings.renames(settings, error):
                return await self.generate(request)
            if kind in self._taken and (only_this := error.of_conversation()):
                raise only_this from error
            raise
        self._taken.add(kind)
        finish = finish_of(message)
        text = encode_reply(message, native=self._native, cut=finish != "stop")
        usage, told = usage_of(message, messages, text, self._prices)
        self._approximate |= not told
        check_limit(usage.generated_tokens if told else 0, request.max_tokens, self.name)
        usage = replace(usage, seconds=time.monotonic() - begun, resent=resent)
        return Reply(text, usage, finish, self._logprobs(message, usage) if request.logprobs else None)

    async def score(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], which: Sequence[int]
    ) -> list[Score]:
        """Log-probabilities of messages as the server's model reads them, where the server tells any.

        Raises:
            ModelError: it tells none, or the messages' tokens cannot be told from those around them.
            ContextFull: the conversation is too long for the model.
            InfrastructureError: as in `generate`.
        """
        await self.start()
        said = [messages[n]["content"] for n in which if messages[n]["role"] == "assistant"]
        if self._native and any(protocol.parse(text).calls for text in said):
            raise ModelError(
                f"{self.name} cannot score native calls, which each server writes in its own way; set native = false."
            )
        return await self._reads().scores(messages, tools, which)

    async def aclose(self) -> None:
        """Closes the connections of a client made here."""
        connections, self._connections, self._reading = self._connections, None, None
        if connections is not None:
            self._client, self._bound = None, {}
            await connections.aclose()

    async def _in_time(self, answer: Awaitable[Answer], limit: int = 0) -> Answer:
        came = expect_answers()

        def told(error: Exception) -> Exception:
            meant = translated(error, self.name, self._timeout, client=True, answered=bool(came), limit=limit)
            if meant is not error:
                meant.args = (without_key(str(meant), self._id, self._key_env),)
            return meant

        with Foreign(told):
            async with asyncio.timeout(self._timeout):
                return await answer

    def _reads(self) -> Reading:
        if self._reading is None:
            client = getattr(self._client, "root_async_client", None)
            if client is None:
                raise ModelError(f"{self.name} cannot score texts: only chat:openai:NAME can, by some servers.")
            served = Served(client, model_of(self._client), self._asked)
            self._reading = Reading(served, self._body, self._stated, self.name)
        return self._reading

    async def _asked(self, request: Callable[[], Awaitable[Any]]) -> Any:
        return (await self._pace.ask(lambda: self._in_time(request()), lambda since=None: nullcontext()))[0]

    def _prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """The tokens with which its tokenizer says that the model is asked; what was recorded is held against them."""
        assert self._stated is not None
        return self._stated.encode(self._stated.render(self._body(messages, tools), go_on=True))[0]

    def _body(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A conversation in OpenAI's form, to be read."""
        return {
            **neutral(self._extra),
            **in_openais_form(self._written(messages, tools), tools if self._native else ()),
        }

    def _written(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[BaseMessage]:
        system = system_text([] if self._native else tools, self._system)
        return to_langchain(messages, system, native=self._native, offered={tool["function"]["name"] for tool in tools})

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

    def _logprobs(self, message: AIMessage, usage: Usage) -> tuple[float, ...] | None:
        """Of the reply's tokens; a server that gave none yet is told by name instead of leaving all out in silence."""
        found = written_logprobs(message.response_metadata, str(message.text), usage.generated_tokens)
        if found is None and not self._told_logprobs:
            raise ModelError(
                f"{self.name}: logprobs = true, and its server does not tell the log-probability of every token that "
                "it bills, calls and the end included; leave logprobs out."
            )
        self._told_logprobs = True
        return found
