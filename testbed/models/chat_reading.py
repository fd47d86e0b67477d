"""The ways in which a server may tell how likely a conversation is to its model, and which of them it knows.

Each way renders the conversation as the server does when it is asked for a message: the server does so itself, or the
user has named its tokenizer, whose tokens must then be those that the server read. Nothing is guessed. A way is tried
once with a short conversation, and kept where it works.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Protocol

from testbed.errors import ModelError, ModelNotAsked, ModelUnavailable
from testbed.models.base import Score
from testbed.models.chat_echo import WRITTEN, Echo, Prompt, Served, check_order, prompt_logprobs
from testbed.models.chat_score import STRADDLES, Tokens, marked, places_of, scores_of
from testbed.types import Message

if TYPE_CHECKING:
    from testbed.models.chat_tokenizer import StatedTokenizer

TRIAL: tuple[Message, ...] = ({"role": "user", "content": "What is 12 and 30?"},)
Tools = Sequence[Mapping[str, Any]]
Body = Callable[[Sequence[Message], Tools], dict[str, Any]]  # messages and tools in OpenAI's form


class _Way(Protocol):
    """One of the ways.

    Attributes:
        what: what it asks of the server.
    """

    what: str

    async def check(self) -> None:
        """Tries it.

        Raises:
            ModelError: the server does not know it, or what it tells is something else.
            ModelUnavailable: the server failed; not all say so when they know no such request.
            InfrastructureError: there was no answer.
        """
        ...

    async def scores(self, messages: Sequence[Message], tools: Tools, which: Sequence[int]) -> list[Score]:
        """As `testbed.models.base.Scorer.score`."""
        ...


class Reading:
    """How likely conversations are to a served model.

    Args:
        served: the model on its server.
        body: how conversations are sent.
        stated: the server's tokenizer, where the user names it.
        name: the model, for messages.
    """

    def __init__(self, served: Served, body: Body, stated: StatedTokenizer | None, name: str) -> None:
        self._name = name
        echoes: list[_Way] = (
            [_ByTokenizer(served, body, stated)] if stated else [_ByTokenize(served, body), _ByTemplate(served, body)]
        )
        self._ways: list[_Way] = [_ByPromptLogprobs(served, body), *echoes]
        self._advice = (
            "" if stated else " A server that knows echo can do with tokenizer = NAME_OR_PATH of the model that it has."
        )
        self._trying = asyncio.Lock()
        self._found: _Way | None = None
        self._refused = ""

    async def scores(self, messages: Sequence[Message], tools: Tools, which: Sequence[int]) -> list[Score]:
        """As `testbed.models.base.Scorer.score`.

        Raises:
            ModelError: the server knows no way, which is found out once; or of this conversation, the messages' tokens
                cannot be told from those around them.
            ContextFull: the conversation is too long for the model.
            InfrastructureError: there was no answer.
        """
        async with self._trying:
            if self._found is None and not self._refused:
                self._found = await self._first()
        if self._found is None:
            raise ModelError(self._refused)
        return await self._found.scores(messages, tools, which)

    async def _first(self) -> _Way | None:
        """The first way that the server knows."""
        tried = []
        for way in self._ways:
            try:
                await way.check()
            except ModelNotAsked:
                raise
            except (ModelError, ModelUnavailable) as error:
                said, _, _ = str(error).removeprefix(f"{self._name}: ").partition(" Check the ")
                tried.append(f"{way.what}: {said.removesuffix('.')}")
            else:
                return way
        self._refused = (
            f"{self._name} cannot score texts. Tried {'; '.join(tried)}.{self._advice} Of local models, hf: always can."
        )
        return None


class _ByTokens(ABC):
    """The server tells the tokens that it reads a conversation as."""

    def __init__(self, served: Served, body: Body) -> None:
        self._served, self._body = served, body

    async def check(self) -> None:
        await self.scores(TRIAL, (), [0])

    async def scores(self, messages: Sequence[Message], tools: Tools, which: Sequence[int]) -> list[Score]:
        tokens, template = [await self._read(given, tools) for given in (messages, marked(messages, which))]
        return scores_of(tokens, template, messages, which)

    @abstractmethod
    async def _read(self, messages: Sequence[Message], tools: Tools) -> Tokens: ...


class _ByPromptLogprobs(_ByTokens):
    """vLLM tells them with its chat completions."""

    what = "prompt_logprobs on /v1/chat/completions"

    async def _read(self, messages: Sequence[Message], tools: Tools) -> Tokens:
        asked = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "add_generation_prompt": False}
        return prompt_logprobs(await self._served.post("chat/completions", {**self._body(messages, tools), **asked}))


class _ByTokenize(_ByTokens):
    """The server renders a conversation as token ids."""

    what = "echo on /v1/completions of the tokens that /tokenize returns"

    async def check(self) -> None:
        await check_order(self._served, await self._rendered(TRIAL, ()))
        await super().check()

    async def _read(self, messages: Sequence[Message], tools: Tools) -> Tokens:
        prompt = await self._rendered(messages, tools)
        told = await self._served.echo(prompt)
        if not 0 <= len(told.tokens) - len(prompt) <= WRITTEN:
            raise ModelError(f"of {len(prompt)} tokens, echo tells {len(told.tokens)}")
        return _tokens(told)[: len(prompt)]

    async def _rendered(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        answer = await self._served.post("/tokenize", {**self._body(messages, tools), "add_generation_prompt": False})
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise ModelError("it returns no token ids")
        return tokens


class _ByTemplate:
    """The server renders a conversation as text."""

    what = "echo on /v1/completions of the text that /apply-template returns"

    def __init__(self, served: Served, body: Body) -> None:
        self._served, self._body = served, body

    async def check(self) -> None:
        await check_order(self._served, await self._rendered(TRIAL, ()))
        await self.scores(TRIAL, (), [0])

    async def scores(self, messages: Sequence[Message], tools: Tools, which: Sequence[int]) -> list[Score]:
        text, around = [await self._rendered(given, tools) for given in (messages, marked(messages, which))]
        tokens, length = _tokens(await self._served.echo(text)), 0
        for n, (piece, _) in enumerate(tokens):
            if length == len(text):  # the rest was written after it
                tokens = tokens[:n]
                break
            length += len(piece)
        if "".join(piece for piece, _ in tokens) != text:
            raise ModelError("the tokens that it read do not come to the text that it was given")
        return scores_of(tokens, [(around, 0.0)], messages, which)

    async def _rendered(self, messages: Sequence[Message], tools: Tools) -> str:
        body = {**self._body(messages, tools), "add_generation_prompt": False}
        text = (await self._served.post("/apply-template", body)).get("prompt")
        if not isinstance(text, str) or not text:
            raise ModelError("it returns no text")
        return text


class _ByTokenizer:
    """The user says which tokenizer and chat template the server has."""

    what = "echo on /v1/completions with the tokenizer stated"

    def __init__(self, served: Served, body: Body, stated: StatedTokenizer) -> None:
        self._served, self._body, self._stated = served, body, stated
        self._form: Callable[[str, Sequence[int]], Prompt] = _as_ids

    async def check(self) -> None:
        refused: list[Exception] = []
        for form in (_as_ids, _as_text, self._without_bos):
            self._form = form
            try:
                await self.scores(TRIAL, (), [0])
                text = self._stated.render(self._body(TRIAL, ()), go_on=False)
                await check_order(self._served, self._form(text, self._stated.encode(text)[0]))
            except ModelNotAsked:
                raise
            except (ModelError, ModelUnavailable) as error:
                refused.append(error)
            else:
                return
        raise ModelError("; ".join(dict.fromkeys(shorten(str(error), 160) for error in refused)))

    async def scores(self, messages: Sequence[Message], tools: Tools, which: Sequence[int]) -> list[Score]:
        text, around = [
            self._stated.render(self._body(given, tools), go_on=False) for given in (messages, marked(messages, which))
        ]
        ids, covers = self._stated.encode(text)
        told = await self._served.echo(self._form(text, ids))
        logprobs = self._stated.matched(ids, [text[begin:end] for begin, end in covers], told)
        found = {}
        for n, (begin, end) in places_of(text, around, messages, which).items():
            own = [i for i, (first, last) in enumerate(covers) if first < end and last > begin]
            if any(covers[i][0] < begin or covers[i][1] > end for i in own):
                raise ModelError(STRADDLES)
            if any(logprobs[i] is None for i in own if i):
                raise ModelError("the server does not tell the log-probability of a message's first token")
            found[n] = Score(n, tuple(logprobs[i] or 0.0 for i in own))  # nothing stands before the first of all
        return [found[n] for n in which]

    def _without_bos(self, text: str, ids: Sequence[int]) -> Prompt:
        """For servers that begin every text with that token themselves."""
        return text.removeprefix(self._stated.bos)


def _as_ids(text: str, ids: Sequence[int]) -> Prompt:
    return list(ids)


def _as_text(text: str, ids: Sequence[int]) -> Prompt:
    return text


def _tokens(told: Echo) -> list[tuple[str, float]]:
    if None in told.logprobs[1:]:  # nothing stands before the first
        raise ModelError("echo does not tell the log-probabilities of all tokens")
    return [(token, logprob or 0.0) for token, logprob in zip(told.tokens, told.logprobs, strict=True)]
