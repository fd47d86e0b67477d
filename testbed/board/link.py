"""Requests to a board's server, sent again where it could not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from testbed.errors import TransportError, UsageError

TRIES = 8  # of one request, where the connection breaks or the board is busy
_PATIENCE = 30.0  # seconds between two tries, at most
_AGAIN = (429, 502, 503, 504)


def address_of(text: str) -> httpx.URL | None:
    """An address of the web, without a user's name, which would take the token's place; None if it is none."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return None
    return url if url.scheme in ("http", "https") and url.host and not url.userinfo else None


class Link:
    """Requests to one board.

    A server that refuses the very first connection is none, or not there: that is said at once. Later on it is one that
    is being started again, and is waited for.

    Args:
        http: sends the requests.
        base: address of the server, without a slash at the end.
        token: of scope "submit".
        pause: seconds before the first further try; doubles with each.
        say: told of every further try.
    """

    def __init__(
        self, http: httpx.Client, base: str, token: str, pause: float = 0.5, say: Callable[[str], object] = print
    ) -> None:
        self._http, self._base, self._pause, self._say = http, base, pause, say
        self._headers = {"Authorization": f"Bearer {token}"}
        self._reached = False

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """The answer's JSON.

        Raises:
            UsageError: the board refuses the request; says why.
            TransportError: it cannot be reached.
        """
        for tried in range(1, TRIES + 1):
            wait = min(self._pause * 2**tried, _PATIENCE)
            try:
                answer = self._http.request(method, self._base + path, headers=self._headers, **body)
            except httpx.TransportError as error:
                refused = isinstance(error, httpx.ConnectError) and not self._reached
                if tried == TRIES or refused:
                    raise TransportError(f"the board at {self._base} cannot be reached: {error}") from error
                why = f"the board does not answer ({str(error) or type(error).__name__})"
            else:
                self._reached = True
                if answer.status_code not in _AGAIN or tried == TRIES:
                    return _read(answer, self._base)
                told = answer.headers.get("Retry-After", "")
                wait = min(float(told), _PATIENCE) if told.isdigit() else wait
                why = f"the board is busy ({answer.status_code})"
            self._say(f"{why}; trying again in {wait:.0f} s, try {tried + 1} of {TRIES}")
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def _read(answer: httpx.Response, base: str) -> Any:
    try:
        value = answer.json()
    except ValueError:
        raise UsageError(f"{base} answers {answer.status_code} with no JSON: is it a testbed board?") from None
    if answer.is_success:
        return value
    said: Mapping[str, Any] = value if isinstance(value, dict) else {}
    raise UsageError(f"the board answers {answer.status_code}: {said.get('error') or 'no reason given'}")
