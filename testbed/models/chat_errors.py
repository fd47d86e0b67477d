"""What a provider's exception means: ours to repeat, or the caller's to mend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from testbed.errors import (
    ContextFull,
    InfrastructureError,
    ModelBusy,
    ModelError,
    ModelNotAsked,
    ModelUnavailable,
    TransportError,
)
from testbed.models.chat_status import chain, named_status, names_of, retry_after, status_code_of, status_of

# Class names as langchain and the clients of providers have them: their packages need not be installed.
_NO_CONNECTION = {"ConnectError", "ConnectTimeout"}
_NOT_REACHED = {
    *(*_NO_CONNECTION, "PoolTimeout", "ConnectionRefusedError", "gaierror"),
    *("ClientConnectorError", "EndpointConnectionError", "ConnectTimeoutError", "ConnectionTimeoutError"),
}
_TIMED_OUT = re.compile(r"Timeout|TimedOut|DeadlineExceeded")
_NOT_SENT = {"UnsupportedProtocol", "InvalidURL", "TooManyRedirects"}
_BROKEN = {
    *("APIConnectionError", "ModelConnectionError", "TransportError", "ConnectionError"),
    *("ClientConnectionError", "ClientPayloadError", "ChunkedEncodingError", "ProtocolError"),
}
_UNREADABLE = {"APIResponseValidationError", "DecodingError", "JSONDecodeError", "ContentTypeError"}
# Of the conversation: not of a tool's description, and not of the reply that is asked for.
_TOO_LONG = re.compile(
    r"context.{0,20}(length|window|size|limit)|(?<!string )(?<!array )too (long|many tokens)"
    r"|maximum(?!.{0,25}output).{0,20}tokens|maximum (allowed )?(model|prompt|input|sequence).length"
    r"|reduce the length of|tokens.{0,30}must be <=|model token limit|token count.{0,20}exceeds"
    r"|input length.{0,30}exceeds",
    re.IGNORECASE,
)
# Of a limit on a reply: how much there is room for, in a reply or in the whole context.
_ROOM = re.compile(
    r"max_(completion_)?tokens.{0,200}?(at most (?P<reply>\d[\d,]*) (completion|output) tokens"
    r"|maximum context length (of|is) (?P<whole>\d[\d,]*))",
    re.IGNORECASE,
)
_NUMBER_ALONE = re.compile(r"Error code: \d+")
_MALFORMED = (400, 422)  # what the request says is refused
_ABOUT_THE_REQUEST = (*_MALFORMED, 403)  # or may be: firewalls read what they let through
_BUSY = (408, 409, 421, 424, 425, 429, 449, 499)
_REFUSED = (429, 503, 529)  # before the model has begun
# What proxies answer with 503 for a server that was lost on the way: it may have begun.
_LOST = re.compile(r"before headers|connection termination|remote reset", re.IGNORECASE)
_SPENT = re.compile(
    r"insufficient_quota|exceeded your current quota|credit balance", re.IGNORECASE
)  # waiting is no use
_TOO_LARGE_FOR_ITS_LIMIT = re.compile(r"tokens per (min|day)|\bTP[MD]\b|rate.?limit", re.IGNORECASE)
# A prompt that the provider will not show to its model: no other prompt is the worse for it.
_FILTERED = re.compile(r"content.?(filter|management|policy)|flagged", re.IGNORECASE)

_came: ContextVar[list[bool] | None] = ContextVar("answers that came to the call under way", default=None)


def expect_answers() -> list[bool]:
    """A list to which each answer is added that comes to what this task sends from here on, and those that it starts.

    Only answers over connections of `testbed.models.chat_answers` are.
    """
    came: list[bool] = []
    _came.set(came)
    return came


def note_answer() -> None:
    """Says that an answer came."""
    if (came := _came.get()) is not None:
        came.append(True)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Around the reading of an answer that nothing has checked: servers put anything anywhere.

    Raises:
        ModelError: something is not where it must be, or of another type.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{what} cannot be read: {error}") from error


class Refused(ModelError):
    """The server refuses a request as it is.

    Attributes:
        status: of its answer.
    """

    status = 400

    def of_conversation(self) -> ModelNotAsked | None:
        """The same where requests of its kind are taken: what this conversation says is refused, and no other is.

        None where its status says that it is about something else.
        """
        if self.status not in _ABOUT_THE_REQUEST:
            return None
        return _final(f"{str(self).removesuffix('.')}. Others like it were taken: it is about this conversation.")


def translated(
    error: Exception, name: str, timeout: float, *, client: bool = False, answered: bool = False, limit: int = 0
) -> Exception:
    """The error as the testbed has it, or `error` itself where it is none of the provider's.

    Args:
        error: what the client raised.
        name: the model, for the message.
        timeout: seconds that the call was given.
        client: whether a model's client is known to have raised it: then any status, wherever it is kept, and any name
            that says what happened is the server's. Else it may be somebody's code that calls itself unavailable.
        answered: whether the server had answered by then: whatever else the client raises is about the answer.
        limit: most tokens of the reply that was asked for; 0 where none was.
    """
    if isinstance(error, InfrastructureError | ModelError | ContextFull):
        return error
    if (status := status_of(error) if client else status_code_of(error)) is not None:
        return _by_status(status, error, f"{name}: the server answered {status}", limit)
    names = names_of(error) if client else [cls.__name__ for cls in type(error).__mro__]
    unreached = _NOT_REACHED.intersection(names) if client else _NO_CONNECTION.intersection(names_of(error))
    if unreached or isinstance(error, ConnectionRefusedError):
        return ModelNotAsked(f"{name}: no connection: {_with_cause(error)}{_asked_at(error)}")
    if isinstance(error, TimeoutError) or any(map(_TIMED_OUT.search, names)):
        return TransportError(f"{name} did not answer within {timeout:g} s.")
    if _NOT_SENT.intersection(names):
        return ModelError(f"{name} cannot be asked: {_with_cause(error)}. Check the base_url.")
    if isinstance(error, ConnectionError) or _BROKEN.intersection(names):
        return TransportError(f"{name}: the connection failed: {_with_cause(error)}")
    status = named_status(error) if client else None
    if (answered and status != 413) or _UNREADABLE.intersection(names) or _is_malformed(error):
        return TransportError(f"{name}: the server's answer cannot be read: {_short(error)}")
    if status is not None:
        return _by_status(status, error, f"{name}: {type(error).__name__}", limit)
    if getattr(error, "is_retryable", False):
        return ModelUnavailable(f"{name}: {_short(error)}")
    return error


def _by_status(status: int, error: Exception, who: str, limit: int) -> Exception:
    """What an answer with `status` to a request for `limit` tokens at most means; `who` begins the message."""
    whole, said = _whole(error), f"{who}: {_short(error)}"
    if status in _MALFORMED and (room := _too_little_room(whole, limit)):
        return ModelError(
            f"{said.removesuffix('.')}. max_tokens = {limit} is more than the model has room for ({room} tokens), "
            "whatever the conversation: lower max_tokens in [model]."
        )
    if status == 413 and _TOO_LARGE_FOR_ITS_LIMIT.search(whole):
        return _final(said)
    if status == 413 or (status in _MALFORMED and _TOO_LONG.search(whole)):
        return ContextFull(said)
    spent = status == 402 or (status in _REFUSED and _SPENT.search(whole))
    if spent or (status in (400, 403) and _FILTERED.search(whole)):
        return _final(said)
    if status in _BUSY or status >= 500:
        busy = ModelBusy(said) if status in _REFUSED and not _LOST.search(whole) else ModelUnavailable(said)
        busy.retry_after = retry_after(error)
        return busy
    remedy = _remedy(status)
    refused = Refused(f"{said.removesuffix('.')}.{remedy}" if remedy else said)
    refused.status = status
    return refused


def _too_little_room(whole: str, limit: int) -> int:
    """How many tokens an answer says that there is room for, where no reply of `limit` tokens has it; else 0."""
    found = _ROOM.search(whole)
    if found is None:
        return 0
    room = int((found["reply"] or found["whole"]).replace(",", ""))
    return room if limit > room or (found["whole"] and limit == room) else 0  # of the whole, the prompt takes some


def _final(said: str) -> ModelNotAsked:
    """A refusal that no waiting helps against."""
    refusal = ModelNotAsked(said)
    refusal.passing = False
    return refusal


def _is_malformed(error: Exception) -> bool:
    """Clients raise plain errors for an answer without what it must have."""
    if isinstance(error, TypeError | KeyError | AttributeError):
        return "choices" in str(error)
    return isinstance(error, ValueError) and "No generation" in str(error)  # langchain's, of an empty stream


def _remedy(status: int) -> str:
    if status in (401, 403):
        return " Check the API key and what it may use."
    if status in (404, 405) or status < 400:
        return " Check the model's name and the base_url."
    return ""


def _with_cause(error: Exception) -> str:
    """Its message and the first one that led to it: clients say no more of a connection than that it failed."""
    texts = [" ".join(str(each).split()) for each in chain(error)]
    told = list(dict.fromkeys(text.removesuffix(".") for text in texts if text))
    return ": ".join(told[:2])[:300] or type(error).__name__


def _asked_at(error: Exception) -> str:
    """Where the server was sought, without a password; "" where the client does not say."""
    for each in chain(error):
        with suppress(RuntimeError):  # httpx's, of an error without a request
            if url := str(getattr(getattr(each, "request", None), "url", "")):
                return f" (asked: {re.sub('//[^/@]*@', '//…@', url.partition('?')[0])}; is the base_url right?)"
    return ""


def _short(error: Exception) -> str:
    return _whole(error)[:300]


def _whole(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if _NUMBER_ALONE.fullmatch(text):  # the server has its own form of errors, which the client does not read
        text += ": " + " ".join(str(getattr(getattr(error, "response", None), "text", "")).split())
    return text
