"""Ways in which a server tells how likely a conversation is, where the user has named its tokenizer and chat template.

What is named is not taken on trust. Each token that the server read must be the tokenizer's, and the template must be
the server's own: where the server shows how it renders a conversation, that must be the same, token by token; where
it does not, its model must find the same tokens likely after a conversation as after what the template makes of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any

from testbed.errors import ModelError, ModelNotAsked, ModelUnavailable
from testbed.models.base import Score
from testbed.models.chat_echo import ALIKE, LIKELY, Echo, Prompt, Served, by_text, check_order, prompt_logprobs
from testbed.models.chat_rendering import TRIAL, Body, Tools, next_token, rendered_text, rendered_tokens
from testbed.models.chat_score import Read, chance_to_end, marked, scores_of
from testbed.models.chat_tokenizer import UNREADABLE, StatedTokenizer
from testbed.types import Message

# What the stated template is held against the server's own with: turns of either side, and what comes next.
TURNS: tuple[Message, ...] = (
    *TRIAL,
    {"role": "assistant", "content": "42"},
    {"role": "user", "content": "Say it in words."},
)
_SPELLINGS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})
_COMPARED = 3  # of the likeliest tokens, where none is spelled alike
NEXT = "1"  # some token, in whose place the server says what is likely


class _Stated(ABC):
    """Scores by the places of the stated tokenizer's tokens."""

    def __init__(self, served: Served, body: Body, stated: StatedTokenizer) -> None:
        self._served, self._body, self._stated = served, body, stated

    async def scores(self, messages: Sequence[Message], tools: Tools, which: Sequence[int]) -> list[Score]:
        """As `testbed.models.base.Scorer.score`."""
        text, around = [
            self._stated.render(self._body(given, tools), go_on=False) for given in (messages, marked(messages, which))
        ]
        ids, covers = self._stated.encode(text)
        told = await self._told(text, ids, messages, tools)
        tokens = [Read(begin, end, None) for begin, end in covers]
        for place, n in enumerate(self._shown(text, ids, covers, told)):
            logprob, likely = told.logprobs[place], told.likely[place] if place < len(told.likely) else {}
            ending = chance_to_end(self._stated.ends.get(ids[n], ""), logprob, likely, self._stated.ends.values())
            tokens[n] = tokens[n]._replace(logprob=logprob, ending=ending)
        return scores_of(tokens, text, around, messages, which)

    def _shown(self, text: str, ids: Sequence[int], covers: Sequence[tuple[int, int]], told: Echo) -> Sequence[int]:
        return self._stated.shown(ids, [text[begin:end] for begin, end in covers], told)

    @property
    def _likely(self) -> int:
        """How many alternatives are asked for in each place: any only where there are several ends to be summed."""
        return LIKELY if len(self._stated.ends) > 1 else 1

    @abstractmethod
    async def _told(self, text: str, ids: Sequence[int], messages: Sequence[Message], tools: Tools) -> Echo: ...


class ByStatedPrompt(_Stated):
    """vLLM renders the conversation itself, and tells the tokens with its chat completions."""

    what = "prompt_logprobs on /v1/chat/completions"

    async def check(self) -> None:
        """Tries it: the tokens that it renders must be those that the stated tokenizer has."""
        await self.scores(TURNS, (), [0, 1])

    async def _told(self, text: str, ids: Sequence[int], messages: Sequence[Message], tools: Tools) -> Echo:
        alternatives = self._likely if self._likely > 1 else 0
        return await prompt_logprobs(self._served, self._body(messages, tools), alternatives)


class ByStatedEcho(_Stated):
    """The server reads what the stated tokenizer makes of the conversation."""

    what = "echo on /v1/completions with the tokenizer stated"

    def __init__(self, served: Served, body: Body, stated: StatedTokenizer) -> None:
        super().__init__(served, body, stated)
        self._form: Callable[[str, Sequence[int]], Prompt] = _as_ids

    async def check(self) -> None:
        """Tries it, with ids, with text, and with text to which the server adds its beginning."""
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
                await self._check_template()
                return
        raise ModelError("; ".join(dict.fromkeys(shorten(str(error), 160) for error in refused)))

    async def _told(self, text: str, ids: Sequence[int], messages: Sequence[Message], tools: Tools) -> Echo:
        return await self._served.echo(self._form(text, ids), self._likely)

    async def _check_template(self) -> None:
        """Refuses a chat template that is not the server's.

        Raises:
            ModelError: it is not, or the server says nothing that it could be held against.
        """
        body = self._body(TURNS, ())
        texts = [self._stated.render(body, go_on=on) for on in (False, True)]  # servers may open a reply unasked
        known = False
        for render, ours in (
            (rendered_tokens, [list(self._stated.encode(text)[0]) for text in texts]),
            (rendered_text, [form for text in texts for form in (text, text.removeprefix(self._stated.bos))]),
        ):
            try:
                theirs: Any = await render(self._served, body)
            except ModelNotAsked:
                raise
            except (ModelError, ModelUnavailable):
                continue
            if theirs not in ours:
                raise ModelError(f"{self._other()}: the server writes {shorten(str(theirs), 160)}")
            known = True
        if not known:
            for turns in (TURNS, TRIAL):
                await self._check_next(turns)

    async def _check_next(self, turns: Sequence[Message]) -> None:
        """Compares what comes next by the server's template, which it does not show, and by the stated one."""
        body = self._body(turns, ())
        text = self._stated.render(body, go_on=True)
        ids, _ = self._stated.encode(text)
        theirs, count = await next_token(self._served, body)
        if count is not None and count != len(ids):
            closed, _ = self._stated.encode(self._stated.render(body, go_on=False))
            raise ModelError(
                f"{self._other()}: to the server a short conversation has {count} tokens with the opening of a reply, "
                f"not {len(ids)}, of which the opening is {len(ids) - len(closed)}"
            )
        ours = await self._next(text, ids)
        if not (theirs and ours):
            if count is None:
                raise ModelError(
                    "its chat completions tell neither the most likely tokens nor how many a prompt has, by which the "
                    f"chat template of {self._stated.name!r} could be held against the server's"
                )
            return
        if not _alike(_spelled(theirs), _spelled(ours)):
            raise ModelError(f"{self._other()}: after the same conversation, its model finds other tokens likely")

    async def _next(self, text: str, ids: Sequence[int]) -> Mapping[str, float]:
        """What the server finds likely behind a prompt as the stated template has it; empty where it does not tell."""
        longer = text + NEXT
        more, covers = self._stated.encode(longer)
        if len(more) == len(ids) or more[: len(ids)] != tuple(ids):
            return {}
        told = await self._served.echo(self._form(longer, more), LIKELY)
        shown = list(self._shown(longer, more, covers, told))
        place = shown.index(len(ids))
        found = told.likely[place] if place < len(told.likely) else {}
        return {token: logprob for token, logprob in found.items() if token}

    def _other(self) -> str:
        return f"the chat template of the tokenizer {self._stated.name!r} is not the server's"

    def _without_bos(self, text: str, ids: Sequence[int]) -> Prompt:
        """For servers that begin every text with that token themselves."""
        return text.removeprefix(self._stated.bos)


def _spelled(likely: Mapping[str, float]) -> dict[str, float]:
    """Likely tokens in one spelling: servers write blanks and line breaks in several ways, or leave them out."""
    words = ((text.translate(_SPELLINGS).strip(), logprob) for text, logprob in likely.items())
    return by_text((word, logprob) for word, logprob in words if not any(sign in word for sign in UNREADABLE))


def _alike(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether tokens are as likely; where none has the same spelling, whether the likeliest are."""
    shared = one.keys() & other.keys()
    pairs = [(one[token], other[token]) for token in shared]
    if not pairs:
        pairs = list(zip(*(sorted(likely.values(), reverse=True)[:_COMPARED] for likely in (one, other)), strict=False))
    return all(abs(a - b) <= ALIKE for a, b in pairs)


def _as_ids(text: str, ids: Sequence[int]) -> Prompt:
    return list(ids)


def _as_text(text: str, ids: Sequence[int]) -> Prompt:
    return text
