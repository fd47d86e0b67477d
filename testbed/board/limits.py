"""What stands before the application: how often it answers, how many wait to write, and the headers of every answer."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from testbed.board.refusals import Overloaded, TooMany
from testbed.board.settings import Settings

if TYPE_CHECKING:
    from testbed.board.accounts import Verified

log = logging.getLogger("testbed.board.requests")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_MOST_BUCKETS = 20_000
_OF_SESSIONS = "/api/sessions/"  # steps of sessions wait for tools, and hardly for the database
_PATIENCE = 20.0  # seconds that a request waits for its turn to write


class Answering:
    """Gives every request an id, every answer its headers, every error an answer, and all of them a line in the log.

    Args:
        app: what comes next.
        answer: makes the answer to an error.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Scope, Exception], ASGIApp]) -> None:
        self._app, self._answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = id_ = secrets.token_hex(8)
        began, status, method = time.monotonic(), 0, scope.get("method", "WebSocket")
        # Proxies and those who check links ask for pages by HEAD: it is GET without the body.
        bodiless = method == "HEAD" and not scope["path"].startswith("/api")
        if bodiless:
            scope = {**scope, "method": "GET"}

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                _add_headers(message, scope["path"], id_)
            elif message["type"] == "websocket.accept":
                status = 101
            elif bodiless and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except Exception as error:  # a bug is answered like any error, with the headers of any answer
            if status:  # too late for another answer: the server breaks the connection off
                raise
            await self._answer(scope, error)(scope, receive, with_headers)
        finally:
            # The path alone: addresses of other people's making may hold anything after it.
            path, spent = scope["path"].encode("unicode_escape").decode(), time.monotonic() - began
            log.info("%s %s %s %d %.0f ms", id_, method, path[:200], status, 1000 * spent)


def _add_headers(message: Message, path: str, id_: str) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-store" if path.startswith("/api") else "no-cache")
    headers["X-Request-ID"] = id_


class RateLimit:
    """Refuses requests of whoever sends too many: a bucket of tokens for each address, and for each right token.

    Messages over a WebSocket are counted as requests, and wait instead. A token that was never found right counts as
    none: else new ones could be made up for every request.
    """

    def __init__(self, app: ASGIApp, settings: Settings, verified: Verified) -> None:
        self._app, self._verified = app, verified
        self._rate, self._burst = settings.requests, float(settings.burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when it was
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it with `TooMany`."""
        if scope["type"] != "lifespan" and (wait := self.wait(self._who(scope))) > 0:
            raise TooMany(f"too many requests; wait {wait:.1f} s.", retry_after=wait)
        await self._app(scope, self._paced(scope, receive) if scope["type"] == "websocket" else receive, send)

    def _paced(self, scope: Scope, receive: Receive) -> Receive:
        """What a WebSocket receives, each message counted as a request; those that are too many wait."""

        async def paced() -> Message:
            message = await receive()
            while message["type"] == "websocket.receive" and (wait := self.wait(self._who(scope))) > 0:
                await asyncio.sleep(wait)
            return message

        return paced

    def wait(self, who: str) -> float:
        """Seconds until this one may send a request; 0 takes one now."""
        at = time.monotonic()
        with self._lock:
            left, last = self._buckets.pop(who, (self._burst, at))
            left = min(self._burst, left + (at - last) * self._rate)
            granted = left >= 1
            self._buckets[who] = (left - 1 if granted else left, at)
            if len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
        return 0.0 if granted else (1 - left) / self._rate

    def _who(self, scope: Scope) -> str:
        said = Headers(scope=scope).get("authorization", "")
        kind, _, token = said.partition(" ")
        if kind.lower() == "bearer" and token in self._verified:
            return f"token {token.split('_')[1]}"
        return f"address {_network((scope.get('client') or ('unknown', 0))[0])}"


class WriteLimit:
    """Lets so many requests at one time have the database changed; the others wait their turn, and hold no thread.

    The database has one writer at a time. Without this, those who wait for it would leave no thread to readers.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._turns = app, asyncio.Semaphore(settings.writers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on when it is its turn.

        Raises:
            Overloaded: its turn did not come in time.
        """
        waits = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD")
        if not waits or scope["path"].startswith(_OF_SESSIONS):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded("too many are waiting to write; try again.", retry_after=_PATIENCE) from None
        try:
            await self._app(scope, receive, send)
        finally:
            self._turns.release()


def _network(address: str) -> str:
    """What counts as one sender: an IPv4 address, or the network that an IPv6 one chooses its addresses from."""
    try:
        found = ip_address(address)
    except ValueError:  # a socket in the file system, or a test's client
        return address
    return found.exploded[:19] if isinstance(found, IPv6Address) else str(found)
