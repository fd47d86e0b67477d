"""What a request asks for besides its conversation, in the words of the API that is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from testbed import protocol
from testbed.errors import ModelError
from testbed.models.base import Request, uniforms

LIMIT = "max_completion_tokens"  # how OpenAI's API names the limit on a reply
# What leaves each token as likely as the model has it; some servers tell log-probabilities behind these, others before.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "min_p"), (None, 0)),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty", "typical_p"), (None, 1)),
    "top_k": (None, 0, -1),
    "logit_bias": (None, {}),
}


class Settings:
    """How replies are asked for.

    Args:
        name: the model, for messages.
        native: whether calls are asked for natively, so that no tag ends a message.
        known: whether the client is known to be OpenAI's.
        served: whether the server is the user's: it knows the older name of the limit, and has defaults of its own.
        seeded: whether a seed is sent.
        extra: further fields of each request.
    """

    def __init__(
        self, name: str, *, native: bool, known: bool, served: bool, seeded: bool, extra: Mapping[str, Any]
    ) -> None:
        self._name, self._native, self._served, self._seeded, self._extra = name, native, served, seeded, dict(extra)
        self._limit = "max_tokens" if served and known else LIMIT

    def of(self, request: Request) -> dict[str, Any]:
        """Arguments of langchain's call.

        Raises:
            ModelError: log-probabilities are wanted, and would not be the model's own.
        """
        sampling, extra = request.sampling, dict(self._extra)
        settings: dict[str, Any] = {"temperature": sampling.temperature}
        if self._limit == LIMIT:
            settings["max_tokens"] = request.max_tokens  # which clients send under the name of their API
        else:
            extra[self._limit] = request.max_tokens
        if sampling.top_p < 1 or self._served:  # some providers refuse it; servers have defaults
            settings["top_p"] = sampling.top_p
        if not self._native:
            settings["stop"] = list(protocol.STOP_STRINGS)
        if request.logprobs:
            self._check_own(request)
            settings |= {"logprobs": True, "top_logprobs": 0}  # without the latter llama-cpp-python tells none
        if self._seeded:
            settings["seed"] = int(uniforms(request.stream, request.position, 1)[0] * 2**31)
        return settings | ({"extra_body": extra} if extra else {})

    def renames(self, settings: Mapping[str, Any], error: ModelError) -> bool:
        """Whether a request with `settings` was refused for the older name of its limit: from now on it is the newer.

        So do servers in front of hosted models.
        """
        if "max_tokens" in settings or LIMIT not in str(error):
            return False
        self._limit = LIMIT
        return True

    def _check_own(self, request: Request) -> None:
        if request.sampling.temperature != 1 or request.sampling.top_p != 1:  # some servers scale them, others do not
            raise ModelError(f"{self._name} tells log-probabilities of its own only at temperature = 1 and top_p = 1.")
        for field, value in self._extra.items():
            if value not in _NEUTRAL.get(field, (value,)):
                raise ModelError(
                    f"{self._name}: logprobs = true, and extra_body sets {field} = {value!r}, behind which some "
                    "servers tell log-probabilities that are not the model's own; leave one of them out."
                )


def neutral(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Further fields of a request that asks how likely a text is to the model itself, whatever replies are drawn by."""
    return {
        field: value if value in _NEUTRAL.get(field, (value,)) else _NEUTRAL[field][1] for field, value in extra.items()
    }


def kind_of(request: Request) -> str:
    """What a request has in common with others, of which all are taken or none: all but what is said in it."""
    roles = ["", *(message["role"] for message in request.messages)]
    turns = sorted(set(pairwise(roles)))
    return json.dumps([request.sampling.as_dict(), request.logprobs, [dict(tool) for tool in request.tools], turns])
