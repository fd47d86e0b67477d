"""How the board answers: JSON for programs, a page for people, and what becomes of errors."""

from __future__ import annotations

import json
import math
import re
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Scope

from testbed.board.faults import own, record
from testbed.board.refusals import Refused, message_of, status_of
from testbed.board.views import templates
from testbed.types import well_formed

API = "/api"  # below it, programs are answered


class Problem(BaseModel):
    """What is said of a request that was not carried out."""

    error: str


PROBLEMS = {
    400: "The request cannot be read, or asks for what cannot be done.",
    401: "A token is needed, or the one given is wrong, expired or revoked.",
    403: "The token's scopes do not allow this.",
    404: "There is no such thing here.",
    405: "The address does not take this method.",
    408: "The body did not come in time.",
    409: "It contradicts what is there.",
    413: "It is larger than the board takes.",
    415: "The body is in a form that is not read here.",
    422: "A field is missing, or holds something else than it should.",
    429: "Too many requests; Retry-After says how many seconds to wait.",
    503: "The board cannot do it now; try again.",
}
"""What each status that a request may be refused with means."""
_BOARD = re.compile(r"/boards/[a-z0-9-]{1,64}(?=/|$)")
_PLAIN = {404: "there is nothing at this address.", 405: "this address does not take that method."}


class AnyTextJSON(JSONResponse):
    """JSON with any text in it: models write halves of surrogate pairs, which are legal in JSON and not in UTF-8."""

    def render(self, content: Any) -> bytes:
        """UTF-8 where the text allows it, else escapes."""
        try:
            return super().render(content)
        except UnicodeEncodeError:
            return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def handled(request: Request, error: Exception) -> Response:
    """The answer to an error that came out of an endpoint."""
    if isinstance(error, HTTPException):
        text = _PLAIN.get(error.status_code, str(error.detail))
        return say(request.scope, error.status_code, text, dict(error.headers or {}))
    if isinstance(error, RequestValidationError):
        return say(request.scope, 422, _first_wrong(error))
    return answer(request.scope, error)


def answer(scope: Scope, error: Exception) -> Response:
    """The answer to any error; one of the board's own is written to its log."""
    status = status_of(error)
    if own(error):
        record(error, "request %s failed", scope.get("state", {}).get("request_id"))
    headers = {}
    if isinstance(error, Refused) and error.retry_after:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    return say(scope, status, message_of(error), headers)


def say(scope: Scope, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """An answer that is no more than a status and a sentence: JSON for programs, a page for people."""
    text = well_formed(text)
    if scope["type"] != "http" or scope["path"].startswith(API):
        return JSONResponse({"error": text}, status, headers)
    heading = f"{status}: {HTTPStatus(status).phrase.lower()}"
    back = _board_of(scope) if status in (400, 422) else ""
    page = templates().get_template("problem.html.j2").render(here=scope["path"], heading=heading, said=text, back=back)
    return HTMLResponse(page, status, headers)


def _board_of(scope: Scope) -> str:
    """Address of the board that a page's address is about; "" where it is about none."""
    asked = QueryParams(scope["query_string"]).get("board", "")
    found = _BOARD.match(scope["path"]) or _BOARD.match(f"/boards/{asked}")
    return found[0] if found else ""


def _first_wrong(error: RequestValidationError) -> str:
    """Says what is wrong with the first wrong field; never what was sent, which may be anything."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"[:500]
