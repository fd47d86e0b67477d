"""The ways in which a server may tell how likely a conversation is to its model, and which of them it knows.

Each way renders the conversation as the server does when it is asked for a message: the server does so itself, or the
user has named its tokenizer, whose tokens must then be those that the server read. Nothing is guessed. A way is tried
once with a short conversation, and kept where it works.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from testbed.errors import InfrastructureError, ModelError, ModelNotAsked, ModelUnavailable
from testbed.models.base import Score
from testbed.models.chat_echo import WRITTEN, Echo, Served, check_order, prompt_logprobs
from testbed.models.chat_parts import in_characters
from testbed.models.chat_rendering import TRIAL, Body, Tools, rendered_text, rendered_tokens
from testbed.models.chat_score import OtherTokens, hidden_before, marked, placed, scores_of
from testbed.types import Message

if TYPE_CHECKING:
    from testbed.models.chat_tokenizer import StatedTokenizer

DATED = (
    "; the chat template writes on which day it is, and the server's day may be another: pin it for both, where the "
    'template takes it, as in extra_body = { chat_template_kwargs = { date_string = "26 Jul 2024" } }'
)


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
        self._ways = _ways_with(served, body, stated) if stated else _ways(served, body)
        self._advice = (
            "" if stated else " A server that knows echo can do with tokenizer = NAME_OR_PATH of the model that it has."
        )
        self._dated = stated is not None and stated.is_dated(body(TRIAL, ()))
        self._trying = asyncio.Lock()
        self._unheard: InfrastructureError | None = None  # of the last try that had no answer
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
        before = self._unheard
        async with self._trying:
            if self._unheard is not None and self._unheard is not before:
                raise self._unheard  # meanwhile: else many would wait for the same one after another
            if self._found is None and not self._refused:
                try:
                    self._found = await self._first()
                except InfrastructureError as error:
                    self._unheard = error
                    raise
        if self._found is None:
            raise ModelError(self._refused)
        try:
            return await self._found.scores(messages, tools, which)
        except OtherTokens as error:
            raise ModelError(f"{error}{self._day}") from error

    @property
    def _day(self) -> str:
        """What to say of the day where tokens differ, and it may be why."""
        return DATED if self._dated else ""

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
            f"{self._name} cannot score texts. Tried {'; '.join(tried)}{self._day}.{self._advice} Of local models, hf: "
            "always can."
        )
        return None


def _ways(served: Served, body: Body) -> list[_Way]:
    return [_ByPromptLogprobs(served, body), _ByTokenize(served, body), _ByTemplate(served, body)]


def _ways_with(served: Served, body: Body, stated: StatedTokenizer) -> list[_Way]:
    from testbed.models.chat_stated import ByStatedEcho, ByStatedPrompt

    return [ByStatedPrompt(served, body, stated), ByStatedEcho(served, body, stated)]


class _ByTokens(ABC):
    """The server tells the tokens that it reads a conversation as. Which of them end messages it does not say."""

    def __init__(self, served: Served, body: Body) -> None:
        self._served, self._body = served, body

    async def check(self) -> None:
        await self.scores(TRIAL, (), [0])

    async def scores(self, messages: Sequence[Message], tools: Tools, which: Sequence[int]) -> list[Score]:
        said = [messages[n]["content"] for n in which]
        told, template = [
            in_characters(await self._read(given, tools), said) for given in (messages, marked(messages, which))
        ]
        text, around = "".join(told.tokens), "".join(template.tokens)
        hidden = hidden_before(placed(template.tokens, template.logprobs), around, which)
        return scores_of(placed(told.tokens, told.logprobs), text, around, messages, which, hidden)

    @abstractmethod
    async def _read(self, messages: Sequence[Message], tools: Tools) -> Echo: ...


class _ByPromptLogprobs(_ByTokens):
    """vLLM tells them with its chat completions."""

    what = "prompt_logprobs on /v1/chat/completions"

    async def _read(self, messages: Sequence[Message], tools: Tools) -> Echo:
        return await prompt_logprobs(self._served, self._body(messages, tools))


class _ByTokenize(_ByTokens):
    """The server renders a conversation as token ids."""

    what = "echo on /v1/completions of the tokens that /tokenize returns"

    async def check(self) -> None:
        await check_order(self._served, await rendered_tokens(self._served, self._body(TRIAL, ())))
        await super().check()

    async def _read(self, messages: Sequence[Message], tools: Tools) -> Echo:
        prompt = await rendered_tokens(self._served, self._body(messages, tools))
        told = await self._served.echo(prompt)
        if not 0 <= len(told.tokens) - len(prompt) <= WRITTEN:
            raise ModelError(f"of {len(prompt)} tokens, echo tells {len(told.tokens)}")
        return _whole(told.first(len(prompt)))


class _ByTemplate:
    """The server renders a conversation as text."""

    what = "echo on /v1/completions of the text that /apply-template returns"

    def __init__(self, served: Served, body: Body) -> None:
        self._served, self._body = served, body

    async def check(self) -> None:
        await check_order(self._served, await rendered_text(self._served, self._body(TRIAL, ())))
        await self.scores(TRIAL, (), [0])

    async def scores(self, messages: Sequence[Message], tools: Tools, which: Sequence[int]) -> list[Score]:
        text, around = [
            await rendered_text(self._served, self._body(given, tools)) for given in (messages, marked(messages, which))
        ]
        told = await self._served.echo(text)
        lengths = [0, *accumulate(map(len, told.tokens))]
        if len(text) in lengths:  # the rest was written after it
            told = told.first(lengths.index(len(text)))
        if "".join(told.tokens) != text:
            raise ModelError("the tokens that it read do not come to the text that it was given")
        told = _whole(told)
        return scores_of(placed(told.tokens, told.logprobs), text, around, messages, which)


def _whole(told: Echo) -> Echo:
    if None in told.logprobs[1:]:  # nothing stands before the first
        raise ModelError("echo does not tell the log-probabilities of all tokens")
    return told
