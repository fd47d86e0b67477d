"""What an exception of a provider's client tells, whichever client it is: a status, what happened, when to ask again.

Every client has exceptions of its own, and no package of theirs need be installed: attributes and names are read here
that they have in common, of the exception and of those that led to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

# Names of exceptions, and of errors in AWS's answers, by the status that says the same; the first that fits.
_NAMED = tuple(
    (re.compile(pattern), status)
    for pattern, status in (
        (r"Context(Overflow|Window|Length)", 413),
        (r"RateLimit|TooManyRequests|ResourceExhausted|Throttl|QuotaExceeded", 429),
        (r"Overloaded|ServiceUnavailable|ModelNotReady", 503),
        (r"Authentication|Unauthorized|Unauthenticated|ApiKey|Credentials", 401),
        (r"PermissionDenied|AccessDenied|Forbidden", 403),
        (r"^NotFound|(Model|Resource)NotFound", 404),
        (r"BadRequest|InvalidRequest|InvalidArgument|UnprocessableEntity|ValidationException", 400),
        (r"InternalServer|ServerError|ModelErrorException|(API|Api|Response|Rpc)Error$", 500),
    )
)
_OF_RPC = {
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
}
_DELAY = re.compile(r"retryDelay\W{1,6}(\d+(?:\.\d+)?)s")  # how Google's answers say it


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that led to it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def names_of(error: BaseException) -> list[str]:
    """Names of the exception's classes and of those that led to it, the most particular first."""
    return [cls.__name__ for each in chain(error) for cls in type(each).__mro__]


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception tells as a number, or that led to it; None where it tells none."""
    return next((status for each in chain(error) if (status := _told(each))), None)


def status_code_of(error: BaseException) -> int | None:
    """The HTTP status that an exception itself or its answer has as `status_code`; None where it has none."""
    kept = (getattr(holder, "status_code", None) for holder in (error, getattr(error, "response", None)))
    return next(filter(None, map(_number, kept)), None)


def named_status(error: BaseException) -> int | None:
    """The HTTP status that the name of an exception, or of what led to it, comes to; None where it comes to none."""
    for each in chain(error):
        foreign = (cls.__name__ for cls in type(each).__mro__ if cls.__module__ != "builtins")
        if (found := next(filter(None, map(_of_name, foreign)), None)) is not None:
            return found
    return None


def retry_after(error: BaseException) -> float:
    """Seconds that the server wants to be left alone; 0 where it says nothing that can be read.

    Of "retry-after-ms", Retry-After as seconds or as a date, and Google's retryDelay.
    """
    headers = _headers(error)
    milliseconds, told = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    delay = _DELAY.search(str(error))
    for text, unit in ((milliseconds, 1e-3), (told, 1.0), (delay[1] if delay and not told else "", 1.0)):
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


def _told(error: BaseException) -> int | None:
    """As botocore, grpc, openai, httpx, aiohttp and Google's clients keep it."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        meant = _of_name(str((response.get("Error") or {}).get("Code")))
        return meant or _number((response.get("ResponseMetadata") or {}).get("HTTPStatusCode"))
    if any(cls.__name__ == "RpcError" for cls in type(error).__mro__):
        code: Any = getattr(error, "code", None)
        return _OF_RPC.get(str(getattr(code(), "name", "")), 500) if callable(code) else None
    kept = [getattr(holder, key, None) for key in ("status_code", "status", "code") for holder in (error, response)]
    return next(filter(None, map(_number, kept)), None)


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and 300 <= value < 1000 else None


def _of_name(name: str) -> int | None:
    return next((status for pattern, status in _NAMED if pattern.search(name)), None)


def _headers(error: BaseException) -> dict[str, str]:
    """Of the answer that an exception keeps, or one that led to it; names in lower case."""
    for each in chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):
            found = (response.get("ResponseMetadata") or {}).get("HTTPHeaders")
        else:
            found = getattr(response, "headers", None) or getattr(each, "headers", None)
        if found and hasattr(found, "items"):
            return {str(key).lower(): str(value) for key, value in found.items()}
    return {}
