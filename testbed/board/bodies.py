"""Bodies of requests: read before the application does, no more of them than allowed, and looked at before parsing.

Plain ASGI: whatever parses a body sees only what has passed here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from testbed.board.refusals import NotSignedIn, Overloaded, Refused, TooLarge, TooSlow, WrongForm
from testbed.board.settings import Settings

_CHUNKS = re.compile(r"/api/uploads/[^/]+/chunks/")  # the only addresses that take large bodies
_PART = re.compile(rb'"(?:[^"\\]+|\\.?)*+"?|[\[\]{}]', re.DOTALL)  # each byte is looked at once, whatever it is


class BodyLimit:
    """Reads a request's body for the application, refuses what it is not to see, and holds only so much at one time.

    Args:
        app: what comes next.
        settings: the limits.
        admit: raises where a token is not right. Large bodies are read of those only who have one.
    """

    def __init__(self, app: ASGIApp, settings: Settings, admit: Callable[[str], object]) -> None:
        self._app, self._settings, self._admit = app, settings, admit
        self._held = 0  # bytes, with those that may still come

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its body, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            raise Refused("an address holds no NUL.")
        headers = Headers(scope=scope)
        is_chunk = bool(_CHUNKS.match(scope["path"]))
        most = _size(headers, self._settings.chunk if is_chunk else self._settings.body)
        if is_chunk:
            await self._check_token(headers)
        if self._held + most > self._settings.held:
            raise Overloaded("too many bodies are being read; try again.", retry_after=2.0)
        self._held += most
        try:
            body = await _whole(receive, most, self._settings.body_seconds)
            if body is None:  # whoever sent it has gone
                return
            if not is_chunk:
                self._check_text(body)
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._held -= most

    async def _check_token(self, headers: Headers) -> None:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            raise NotSignedIn("this needs a token: send the header Authorization: Bearer TOKEN.")
        await run_in_threadpool(self._admit, token)

    def _check_text(self, body: bytes) -> None:
        if b"\0" in body:  # also how UTF-16 shows, in which nesting would not be seen
            raise Refused("the body is no JSON in UTF-8.")
        if nesting(body, self._settings.depth) > self._settings.depth:
            raise Refused(f"the body is nested more than {self._settings.depth} deep.")


def _size(headers: Headers, most: int) -> int:
    """The most bytes that a body may turn out to have.

    Raises:
        WrongForm: it is compressed.
        TooLarge: it is said to be larger than `most`.
        Refused: what is said of its length is no number.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise WrongForm(f"Content-Encoding {coding!r:.40} is not read here; send the body as it is.")
    if "transfer-encoding" in headers:
        return most
    said = headers.get("content-length", "0")
    if not said.isascii() or not said.isdigit():
        raise Refused("Content-Length is no number.")
    if (size := int(said[:20])) > most:
        raise TooLarge(_too_large(most))
    return size


def nesting(body: bytes, most: int) -> int:
    """How deeply the lists and objects of JSON text are nested; what passes `most` is not counted on.

    It is counted without a parser, since parsers of nested text need a stack.
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return 0
    depth = deepest = 0
    for part in _PART.finditer(body):
        sign = part[0]
        if sign in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > most:
                break
        elif sign in (b"]", b"}"):
            depth -= 1
    return deepest


async def _whole(receive: Receive, most: int, seconds: float) -> bytes | None:
    """A request's body; None where the connection ended before it did.

    Raises:
        TooLarge: it is longer than `most`; the rest of it stays unread.
        TooSlow: it did not come within `seconds`.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > most:
                    raise TooLarge(_too_large(most))
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise TooSlow(f"the body did not come within {seconds:.0f} s.") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for the application to read."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _too_large(most: int) -> str:
    return f"the body is larger than {most} bytes, the most that this address takes."
