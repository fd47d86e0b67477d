"""What a served model gives each token of a text: `prompt_logprobs`, or `echo` on /v1/completions.

The openai client sends these requests too, but what comes back is read here: servers add fields, and leave some out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any, Protocol

from testbed.errors import ModelError
from testbed.models.chat_errors import readable

Prompt = str | list[int]
LIKELY = 5  # most likely tokens that a check asks for at each place; some servers give no more
ALIKE = 0.5  # nats by which rounding may move a likely token: logits of 16 to 32 are 0.125 apart in bfloat16
WRITTEN = 8  # tokens that a server may write where one is wanted: llama-cpp-python ends a character that was begun
ENDS = ("1", "a", "The")
AFTERWARDS = (
    "it tells how likely a token is after it was read, not before (llama-cpp-python does so where a prompt does not "
    "begin with the model's beginning-of-text token)"
)


class Send(Protocol):
    """Sends a request at the server's pace, with the testbed's errors."""

    async def __call__(self, request: Callable[[], Awaitable[Any]], /) -> Any:
        """Sends it, and again where the server was busy."""
        ...


@dataclass(frozen=True)
class Echo:
    """A prompt as a server says that it read it, with what it wrote after it.

    Attributes:
        tokens: their texts, as far as the server tells them.
        logprobs: of each, in nats; None where it tells none, as of the first.
        likely: the most likely tokens at each place with their log-probabilities; empty where it tells none.
        count: how many tokens the prompt has, by the server's count; None where it does not say.
    """

    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]
    likely: tuple[Mapping[str, float], ...]
    count: int | None

    def first(self, n: int) -> Echo:
        """The same of the first `n` tokens alone."""
        return replace(self, tokens=self.tokens[:n], logprobs=self.logprobs[:n], likely=self.likely[:n])


class Served:
    """One model of a server.

    Args:
        client: an openai client.
        model: the model's name there.
        send: sends its requests.
    """

    def __init__(self, client: Any, model: str, send: Send) -> None:
        self._client, self._model, self._send = client, model, send
        self._base = str(client.base_url).rstrip("/")

    async def post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The JSON object that the server answers with.

        Args:
            path: below the base URL where it has no slash, else below the server's root.
            body: the request, without the model's name.

        Raises:
            ModelError: the server refuses, or answers with something else.
            ContextFull: the text is too long for the model.
            InfrastructureError: there was no answer.
        """
        url = f"{self._base.removesuffix('/v1')}{path}" if path.startswith("/") else f"{self._base}/{path}"
        sent = {"model": self._model, **body}
        answer = await self._send(lambda: self._client.post(url, cast_to=object, body=sent))
        if not isinstance(answer, Mapping):
            raise ModelError(f"the answer is no JSON object: {str(answer)[:60]!r}")
        return answer

    async def echo(self, prompt: Prompt, likely: int = 1) -> Echo:
        """The log-probabilities of a prompt's tokens at temperature 1.

        One token is written after them: not every server takes a limit of 0, and to some it means no limit.

        Args:
            prompt: text or token ids.
            likely: how many of the most likely tokens are wanted at each place.

        Raises:
            ModelError: the server refuses, or tells none.
            ContextFull: the prompt is too long for the model.
            InfrastructureError: there was no answer.
        """
        body = {"prompt": prompt, "echo": True, "logprobs": likely, "max_tokens": 1, "temperature": 1.0}
        if isinstance(prompt, str):
            body["add_special_tokens"] = False  # vLLM's: the template has written them already
        answer = await self.post("completions", body)
        with readable("what echo brings"):
            choice = (answer.get("choices") or [{}])[0]
            told = choice.get("logprobs") or {}
            tokens, logprobs = told.get("tokens") or (), told.get("token_logprobs") or ()
            if len(tokens) != len(logprobs) or len(tokens) < 2:
                raise ModelError("echo brings no log-probabilities of the prompt's tokens")
            return Echo(
                tuple(str(token or "") for token in tokens),
                tuple(None if logprob is None else float(logprob) for logprob in logprobs),
                tuple(_numbers(choices or {}) for choices in told.get("top_logprobs") or ()),
                (answer.get("usage") or {}).get("prompt_tokens"),
            )


async def check_order(served: Served, prompt: Prompt) -> None:
    """Checks that what a token is given follows from the tokens before it: some servers are off by one.

    The prompt is read with several ends. What the server finds likely in their place must be the same for all of them.

    Raises:
        ModelError: it is not, or cannot be told.
    """
    compared = 0
    for one, other in pairwise([await served.echo(ended, LIKELY) for ended in _with_ends(prompt)]):
        differ = (n for n, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=False)) if a != b)
        place = next(differ, None)
        if place is None or place >= min(len(one.likely), len(other.likely)):
            continue
        mine, theirs = one.likely[place], other.likely[place]
        shared = mine.keys() & theirs.keys()
        if not shared or any(abs(mine[token] - theirs[token]) > ALIKE for token in shared):
            raise ModelError(AFTERWARDS)
        compared += 1
    if not compared:
        raise ModelError("echo does not tell the texts and the most likely alternatives of the prompt's tokens")


def _with_ends(prompt: Prompt) -> list[Prompt]:
    if isinstance(prompt, str):
        return [prompt + end for end in ENDS]
    known = list(dict.fromkeys(prompt))  # which tokens there are besides these, only the server knows
    return [[*prompt, token] for token in known[:: max(len(known) // len(ENDS), 1)]]


async def prompt_logprobs(served: Served, body: Mapping[str, Any], likely: int = 0) -> Echo:
    """A conversation's tokens and their log-probabilities by vLLM's `prompt_logprobs`.

    Args:
        served: the model on its server.
        body: the conversation, in OpenAI's form.
        likely: how many of the most likely tokens are wanted at each place, besides the conversation's own.

    Raises:
        ModelError: the server refuses, or tells none.
        ContextFull: the conversation is too long for the model.
        InfrastructureError: there was no answer.
    """
    asked = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": likely, "add_generation_prompt": False}
    told = (await served.post("chat/completions", {**body, **asked})).get("prompt_logprobs")
    if not isinstance(told, list) or not told:
        raise ModelError("the answer has none")
    with readable("prompt_logprobs"):
        places = [list((choices or {}).values()) for choices in told]  # there is none at the start
        return Echo(  # the prompt's own token stands first in each place
            tuple(str(place[0].get("decoded_token") or "") if place else "" for place in places),
            tuple(float(place[0].get("logprob", 0.0)) if place else None for place in places),
            tuple(
                by_text((str(one.get("decoded_token") or ""), float(one["logprob"])) for one in place)
                for place in places
            ),
            len(told),
        )


def by_text(told: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by the texts of tokens; of several with one text, that of the likeliest."""
    return dict(sorted(told, key=itemgetter(1)))


def _numbers(choices: Mapping[str, Any]) -> dict[str, float]:
    return {str(token): float(logprob) for token, logprob in choices.items()}
