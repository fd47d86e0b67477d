"""A conversation as the server itself renders it, where it says so, and what it finds likely after that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from testbed.errors import ModelError
from testbed.models.chat_echo import LIKELY, Served, by_text
from testbed.models.chat_errors import readable
from testbed.types import Message

TRIAL: tuple[Message, ...] = ({"role": "user", "content": "What is 12 and 30?"},)
Tools = Sequence[Mapping[str, Any]]
Body = Callable[[Sequence[Message], Tools], dict[str, Any]]  # messages and tools in OpenAI's form


async def rendered_tokens(served: Served, body: Mapping[str, Any]) -> list[int]:
    """What vLLM's /tokenize makes of a conversation.

    Raises:
        ModelError: the server does not know that.
        ModelUnavailable: it failed.
        InfrastructureError: there was no answer.
    """
    tokens = (await served.post("/tokenize", {**body, "add_generation_prompt": False})).get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, int) for token in tokens):
        raise ModelError("it returns no token ids")
    return tokens


async def rendered_text(served: Served, body: Mapping[str, Any]) -> str:
    """What llama-server's /apply-template makes of a conversation.

    Raises:
        ModelError: the server does not know that.
        ModelUnavailable: it failed.
        InfrastructureError: there was no answer.
    """
    text = (await served.post("/apply-template", {**body, "add_generation_prompt": False})).get("prompt")
    if not isinstance(text, str) or not text:
        raise ModelError("it returns no text")
    return text


async def next_token(served: Served, body: Mapping[str, Any]) -> tuple[dict[str, float], int | None]:
    """What the server's model finds likely as the first token of its reply, and how many tokens the prompt has.

    Returns:
        Log-probabilities by the tokens' texts, empty where it tells none; and the number, None where it tells none.

    Raises:
        ModelError: the server refuses.
        ModelUnavailable: it failed.
        InfrastructureError: there was no answer.
    """
    asked = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "logprobs": True, "top_logprobs": LIKELY}
    answer = await served.post("chat/completions", {**body, **asked})
    with readable("the log-probabilities of its chat completions"):
        choice = (answer.get("choices") or [{}])[0]
        written: list[dict[str, Any]] = (choice.get("logprobs") or {}).get("content") or []
        told = [each for token in written[:1] for each in (token, *(token.get("top_logprobs") or ()))]
        found = by_text((str(each.get("token") or ""), float(each["logprob"])) for each in told)
        count = (answer.get("usage") or {}).get("prompt_tokens")
    return {text: logprob for text, logprob in found.items() if text}, count
