"""A client of a board's environment service: attempts at tasks that stay with their server.

    with RemoteClient("http://127.0.0.1:8000", token) as board:
        entry = board.begin_entry("hidden-sums", title="My agent", model="my-model")
        session = board.begin(entry["entry"], "calculator")
        reply = session.step("<answer>42</answer>")

What can be sent again safely is sent again when the connection breaks or the server is busy: steps are numbered, and
are charged once. An attempt is begun once only; if the reply to that is lost, the entry lists it among its open
sessions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

from testbed.closing import Closing
from testbed.errors import TransportError, UsageError
from testbed.types import well_formed

RETRIES = 6
LONGEST_WAIT = 30.0  # seconds between two tries
_BUSY = (429, 502, 503, 504)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_encrypted(url: str) -> None:
    """Refuses an address to which a token is not to be sent.

    Raises:
        UsageError: it is no address of the web, or of another machine and without encryption.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise UsageError(f"{url!r:.200} is no server's address; it looks like https://example.org.")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise UsageError(f"{url}: a token is not sent without encryption; write https://.")


class RemoteClient(Closing):
    """A connection to a board's server; a context manager.

    Args:
        url: of the server, such as "http://127.0.0.1:8000".
        token: of scope "submit".
        timeout: seconds that one request may take.
        retries: how often what can be repeated is sent again.

    Raises:
        UsageError: httpx is not installed, or the token would be sent without encryption to another machine.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 120.0, retries: int = RETRIES) -> None:
        try:
            import httpx
        except ImportError:
            raise UsageError("remote boards need httpx: pip install 'capability-testbed[board]'.") from None
        check_encrypted(url)
        self.url, self.token, self.timeout, self.retries = url.rstrip("/"), token, timeout, retries
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=f"{self.url}/api/", headers=headers, timeout=timeout)
        self._before, self._broken = (httpx.ConnectError, httpx.ConnectTimeout), httpx.TransportError

    def close(self) -> None:
        """Closes the connection; sessions stay open on the server."""
        self._http.close()

    def terms(self, board: str) -> dict[str, Any]:
        """What a board asks of its entries: among others "arms", the names of those that a private one serves."""
        return self.ask("GET", f"boards/{board}/terms")

    def begin_entry(
        self, board: str, *, title: str, model: str, arms: Sequence[str] = (), **manifest: str
    ) -> dict[str, Any]:
        """Begins an entry.

        Args:
            board: slug of a private board.
            title: for people.
            model: the model that is behind the agent.
            arms: which of the board's arms it runs; none for all.
            manifest: more that its author says: "agent", "description", "url".

        Returns:
            "entry", its id; "arms", with the tools and the budget of each and what is "left" to be served.
        """
        body = {"title": title, "manifest": {"model": model, **manifest}, "arms": list(arms)}
        return self.ask("POST", f"boards/{board}/remote-entries", body, again=False)

    def entry(self, entry: str) -> dict[str, Any]:
        """How an entry stands: what is left to be served, and which sessions are open."""
        return self.ask("GET", f"remote-entries/{entry}")

    def close_entry(self, entry: str) -> dict[str, Any]:
        """Ends an entry that is complete."""
        return self.ask("POST", f"remote-entries/{entry}/close")

    def begin(self, entry: str, arm: str, task: int | None = None, *, websocket: bool = False) -> RemoteSession:
        """Begins an attempt at a task, or at whichever was served least.

        Args:
            entry: the entry's id.
            arm: the arm's name.
            task: the task's number.
            websocket: whether its steps go over a WebSocket.
        """
        body = {"arm": arm, "task": "next" if task is None else task}
        state = self.ask("POST", f"remote-entries/{entry}/sessions", body, again=False)
        return RemoteSession(self, state, websocket=websocket)

    def session(self, session: str, *, websocket: bool = False) -> RemoteSession:
        """Comes back to a session, where it stood."""
        return RemoteSession(self, self.ask("GET", f"sessions/{session}"), websocket=websocket)

    def ask(self, method: str, path: str, body: Any = None, *, again: bool = True) -> dict[str, Any]:
        """The answer to a request.

        Args:
            method: of HTTP.
            path: below /api/.
            body: to be sent as JSON.
            again: whether sending it twice does no harm.

        Raises:
            UsageError: the server refuses; says why.
            TransportError: it does not answer.
        """
        for tries in range(self.retries + 1):
            try:
                answer = self._http.request(method, path, json=body)
            except self._broken as error:
                if tries == self.retries or not (again or isinstance(error, self._before)):
                    raise TransportError(f"{self.url} does not answer: {error or type(error).__name__}") from error
                time.sleep(min(0.1 * 2**tries, LONGEST_WAIT))
                continue
            if answer.is_success:
                found: dict[str, Any] = answer.json()
                return found
            if answer.status_code not in _BUSY or tries == self.retries:
                break
            time.sleep(min(_seconds(answer.headers.get("retry-after", ""), 0.1 * 2**tries), LONGEST_WAIT))
        raise _refusal(answer.status_code, answer.text)


class RemoteSession:
    """An attempt on a server.

    Args:
        client: the connection.
        state: as the server tells it.
        websocket: whether its steps go over a WebSocket.

    Attributes:
        id: the session's id.
        task: the task's number.
        prompt: the task.
        tools: function schemas of the tools.
        budget: limits of the attempt.
        last: the reply to the last step; at first, with the prompt.
        steps: steps taken so far.
    """

    def __init__(self, client: RemoteClient, state: dict[str, Any], *, websocket: bool = False) -> None:
        self._client, self._websocket = client, websocket
        self._line: Any = None
        self._lines = ExitStack()
        self.id: str = state["session"]
        self.task: int = state["task"]
        self.prompt: str = state["prompt"]
        self.tools: list[dict[str, Any]] = state["tools"]
        self.budget: dict[str, Any] = state["budget"]
        self.last: dict[str, Any] = state["last"]
        self.steps: int = state["step"]

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return bool(self.last["terminated"] or self.last["truncated"])

    def step(self, action: str) -> dict[str, Any]:
        """Takes one step, once, however often it has to be sent.

        Returns:
            "observation" with "text" and "remaining", "reward", "terminated", "truncated", "limit", "lost".

        Raises:
            UsageError: the server refuses it, since the session has ended.
            TransportError: the server does not answer.
        """
        body = {"n": self.steps, "action": well_formed(action)}  # half a surrogate pair could not be sent
        if self._websocket:
            self.last = self._say(body)
        else:
            self.last = self._client.ask("POST", f"sessions/{self.id}/steps", body)
        self.steps += 1
        return self.last

    def end(self) -> None:
        """Ends it without an answer, which is a failure; does nothing if it has ended."""
        self.hang_up()
        if not self.over:
            self.last = self._client.ask("POST", f"sessions/{self.id}/end")["last"]

    def hang_up(self) -> None:
        """Closes its WebSocket, if it has one; the session stays open."""
        self._line = None
        self._lines.close()

    def _say(self, body: dict[str, Any]) -> dict[str, Any]:
        """A step over the WebSocket, which is opened again when it breaks."""
        from websockets.exceptions import WebSocketException

        for tries in range(self._client.retries + 1):
            try:
                reply = self._exchange(json.dumps(body))
            except (OSError, WebSocketException) as error:  # the former: also a connection that is refused
                with suppress(OSError, WebSocketException):
                    self.hang_up()
                if tries == self._client.retries:
                    raise TransportError(f"{self._client.url} does not answer: {error}") from error
                time.sleep(min(0.1 * 2**tries, LONGEST_WAIT))
                continue
            if "error" not in reply:
                return reply
            if reply["status"] not in _BUSY or tries == self._client.retries:
                break
            time.sleep(min(0.1 * 2**tries, LONGEST_WAIT))
        raise _refusal(reply["status"], json.dumps(reply))

    def _exchange(self, text: str) -> dict[str, Any]:
        if self._line is None:
            from websockets.sync.client import connect

            address = self._client.url.replace("http", "ws", 1) + f"/api/sessions/{self.id}/ws"
            headers = {"Authorization": f"Bearer {self._client.token}"}
            connecting = connect(address, additional_headers=headers, open_timeout=self._client.timeout, max_size=None)
            line = self._lines.enter_context(connecting)
            first: dict[str, Any] = json.loads(line.recv(self._client.timeout))
            if "error" in first:
                self._lines.close()
                return first
            self._line = line
        self._line.send(text)
        reply: dict[str, Any] = json.loads(self._line.recv(self._client.timeout))
        return reply


def _seconds(told: str, otherwise: float) -> float:
    return float(told) if told.isdecimal() else otherwise


def _refusal(status: int, text: str) -> Exception:
    try:
        said = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        said = text[:200] or "no reason given"
    if status in _BUSY or status >= 500:
        return TransportError(f"the board answered {status}: {said}")
    return UsageError(f"the board refuses ({status}): {said}")
