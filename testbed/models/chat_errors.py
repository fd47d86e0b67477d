"""What a provider's exception means: ours to repeat, or the caller's to mend."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from testbed.errors import (
    ContextFull,
    InfrastructureError,
    ModelBusy,
    ModelError,
    ModelNotAsked,
    ModelUnavailable,
    TransportError,
)

# Class names as langchain, the OpenAI and Anthropic clients and httpx have them: their packages need not be installed.
_BROKEN = ("APIConnectionError", "ModelConnectionError", "ModelTimeoutError", "TransportError", "ConnectError")
_UNREADABLE = ("APIResponseValidationError",)
_TOO_LONG = re.compile(r"context.{0,20}(length|window|size)|too (long|many tokens)|maximum.{0,20}tokens", re.IGNORECASE)
_NUMBER_ALONE = re.compile(r"Error code: \d+")
_BUSY = (408, 409, 425, 429)
_REFUSED = (429, 503, 529)  # before the model has begun
# What proxies answer with 503 for a server that was lost on the way: it may have begun.
_LOST = re.compile(r"before headers|connection termination|remote reset", re.IGNORECASE)
_SPENT = re.compile(
    r"insufficient_quota|exceeded your current quota|credit balance", re.IGNORECASE
)  # waiting is no use
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


def translated(error: Exception, name: str, timeout: float, *, answered: bool = False) -> Exception:
    """The error as the testbed has it, or `error` itself where it is none of the provider's.

    Args:
        error: what the client raised.
        name: the model, for the message.
        timeout: seconds that the call was given.
        answered: whether the server had answered by then: whatever else the client raises is about the answer.
    """
    status, names = _status(error), {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, InfrastructureError | ModelError | ContextFull):
        return error
    if isinstance(error, TimeoutError) or "APITimeoutError" in names:
        return TransportError(f"{name} did not answer within {timeout:g} s.")
    if status == 413 or (status == 400 and _TOO_LONG.search(str(error))):
        return ContextFull(f"{name}: {_short(error)}")
    spent = status == 402 or (status in _REFUSED and _SPENT.search(str(error)))
    if spent or (status in (400, 403) and _FILTERED.search(str(error))):
        final = ModelNotAsked(f"{name}: the server answered {status}: {_short(error)}")
        final.passing = False
        return final
    if status in _BUSY or (status or 0) >= 500:
        said = f"{name}: the server answered {status}: {_short(error)}"
        busy = ModelBusy(said) if status in _REFUSED and not _LOST.search(said) else ModelUnavailable(said)
        busy.retry_after = _retry_after(getattr(getattr(error, "response", None), "headers", None) or {})
        return busy
    if status is not None:
        return ModelError(f"{name}: the server answered {status}: {_short(error)}{_remedy(status)}")
    if isinstance(error, ConnectionRefusedError) or _causes(error) & {"ConnectError", "ConnectTimeout"}:
        return ModelNotAsked(f"{name}: no connection: {_short(error)}")
    if isinstance(error, ConnectionError) or names & set(_BROKEN):
        return TransportError(f"{name}: the connection failed: {_short(error)}")
    if answered or isinstance(error, json.JSONDecodeError) or names & set(_UNREADABLE) or _is_malformed(error):
        return TransportError(f"{name}: the server's answer cannot be read: {_short(error)}")
    if getattr(error, "is_retryable", False):
        return ModelUnavailable(f"{name}: {_short(error)}")
    return error


def _status(error: Exception) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        status: Any = getattr(holder, "status_code", None)
        if isinstance(status, int) and status >= 300:
            return status
    return None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server wants to be left alone: "retry-after-ms", or Retry-After as seconds or as a date."""
    milliseconds, told = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    for text, unit in ((milliseconds, 1e-3), (told, 1.0)):
        try:
            seconds = float(text) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else 0.0  # NaN is in no range
    try:
        date = parsedate_to_datetime(told)
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):  # the latter of a number with too many digits
        return 0.0
    return max(seconds, 0.0)


def _causes(error: BaseException | None) -> set[str]:
    """Names of the exceptions that led to this one, its own among them."""
    names: set[str] = set()
    while error is not None:
        names |= {cls.__name__ for cls in type(error).__mro__}
        error = error.__cause__
    return names


def _is_malformed(error: Exception) -> bool:
    """langchain-openai raises plain TypeError or KeyError for an answer without the fields it must have."""
    return isinstance(error, TypeError | KeyError | AttributeError) and "choices" in str(error)


def _remedy(status: int) -> str:
    if status in (401, 403):
        return " Check the API key and what it may use."
    if status == 404 or status < 400:
        return " Check the model's name and the base_url."
    return ""


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if _NUMBER_ALONE.fullmatch(text):  # the server has its own form of errors, which the client does not read
        text += ": " + " ".join(str(getattr(getattr(error, "response", None), "text", "")).split())
    return text[:300]
