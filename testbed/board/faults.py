"""The board's one boundary: here ends what nobody foresaw, whoever's code raised it.

It is written to the log with what was under way (a request, an entry or a session by its id: no token, and nothing that
was sent), and whoever was at it goes on: the worker with the next entry, the server with an answer that tells no more
than that something went wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from testbed.board.refusals import Refused, status_of

log = logging.getLogger("testbed.board")


@dataclass
class Fault:
    """What a block under `boundary` came to.

    Attributes:
        error: what ended it; None where it came to its end.
    """

    error: Exception | None = None


@contextmanager
def boundary(*passing: type[Exception]) -> Iterator[Fault]:
    """Keeps what its block raises, in place of letting it through; whoever is cancelled or interrupted still is.

    Args:
        passing: errors that are let through, as somebody further out knows what they mean.
    """
    fault = Fault()
    try:
        yield fault
    except passing:
        raise
    except Exception as error:  # noqa: BLE001 (a bug of the board's, or what other people's code raised)
        fault.error = error


def own(error: Exception) -> bool:
    """Whether an error is the board's own, and belongs in its log; else it is a request's."""
    return status_of(error) >= 500 and not isinstance(error, Refused)


def record(error: Exception, doing: str, *about: object) -> None:
    """Writes an error to the board's log.

    Args:
        error: what happened.
        doing: over what, with `%s` for each of `about`.
        about: ids: never a token, or what was sent.
    """
    log.error(doing, *about, exc_info=error)
