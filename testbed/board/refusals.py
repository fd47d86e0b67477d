"""What the board refuses, and the one place that says which status of HTTP each error becomes."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from testbed.errors import InfrastructureError, StoreError, UnknownName, UsageError


class Refused(UsageError):
    """A request that the board does not carry out; nothing was written.

    Args:
        message: what is wrong and what to do; shown to whoever asked, so it never holds a secret.
        retry_after: seconds after which the same request may be sent again; 0 says nothing of it.
    """

    status = 400

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotSignedIn(Refused):
    """No token, or one that is wrong, expired or revoked."""

    status = 401


class NotAllowed(Refused):
    """The token is right, and may not do this."""

    status = 403


class NotFound(Refused):
    """There is no such thing here, or none that whoever asks may know of."""

    status = 404


class TooSlow(Refused):
    """A body that did not come in time."""

    status = 408


class Conflict(Refused):
    """It contradicts what is there already."""

    status = 409


class TooLarge(Refused):
    """More bytes, rows or attempts than the board takes."""

    status = 413


class WrongForm(Refused):
    """A body in a form that the board does not read, such as a compressed one."""

    status = 415


class NotValid(Refused):
    """A body that can be read, and does not say what it has to."""

    status = 422


class TooMany(Refused):
    """More requests than the board answers."""

    status = 429


class Overloaded(Refused):
    """The board cannot do it now."""

    status = 503


def status_of(error: Exception) -> int:
    """The status that an error is answered with; 500 is a bug of the board."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, UnknownName):
        return 404
    if isinstance(error, StoreError):
        cause = error.__cause__
        if isinstance(cause, DataError):  # such as NUL in a text that is looked up, which PostgreSQL refuses
            return 400
        return 503 if isinstance(cause, DBAPIError) else 404
    if isinstance(error, UsageError):
        return 400
    if isinstance(error, InfrastructureError | PoolTimeout):
        return 503
    return 500


def message_of(error: Exception) -> str:
    """What whoever asked is told: of a failure of the board's own, no more than that it was one."""
    if isinstance(error, StoreError) and isinstance(error.__cause__, DataError):
        return "a text or number of the request is none that can be looked up."
    if isinstance(error, Refused) or status_of(error) < 500:
        return str(error)
    if status_of(error) == 503:
        return "the board is too busy, or its database does not answer; try again in a while."
    return "something went wrong here; it was written to the board's log."
