"""An environment whose tasks, tools and graders are on a board's server: ``testbed/Remote-v0`` of Gymnasium.

It lists no tasks and grades nothing, so it is none of the registry's: an experiment cannot be made of it, and
`gymnasium.make` alone knows it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import gymnasium as gym
import numpy as np

from testbed.budget import LARGEST, UNLIMITED, VISIBLE
from testbed.episode import Observation, Step
from testbed.errors import TestbedError, UnknownName, UsageError
from testbed.remote_client import RemoteClient, RemoteSession
from testbed.spaces import Utf8


class Remote(gym.Env[Observation, str]):
    """One arm of an entry to a private board: every `reset` begins an attempt on the server.

    Args:
        url: of the board's server.
        token: of scope "submit".
        arm: name of the board's arm.
        entry: id of an entry of yours; "" begins a new one, see `entry`.
        board: for a new entry: slug of the board.
        title: for a new entry: its title.
        model: for a new entry: the model that is behind the agent.
        websocket: whether steps go over a WebSocket.

    Attributes:
        entry: the entry's id.
        tools: function schemas of the arm's tools.
        budget: limits of an attempt.

    Raises:
        UsageError: the server refuses, or it is not said which entry.
        UnknownName: the board has no such arm, or the entry does not run it.
        TransportError: the server does not answer.
    """

    metadata: dict[str, Any] = {"render_modes": [], "render_fps": 1}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(
        self,
        url: str,
        token: str,
        arm: str,
        *,
        entry: str = "",
        board: str = "",
        title: str = "",
        model: str = "",
        websocket: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if not entry and not (board and model):
            raise UsageError("give the id of an entry, or board and model to begin one.")
        self.render_mode = render_mode
        self._client, self._websocket = RemoteClient(url, token), websocket
        self._session: RemoteSession | None = None
        self._seeded = False
        try:
            if not entry:
                _known(arm, self._client.terms(board)["arms"])  # before an entry is begun that nobody wants
            found = self._found(entry, board, title or model, model)
            arms = {shown["name"]: shown for shown in found["arms"]}
            _known(arm, arms)
        except TestbedError:
            self._client.close()
            raise
        self.entry, self.arm, self._tasks = str(found["entry"]), arm, int(found["tasks"])
        self.tools: list[dict[str, Any]] = arms[arm]["tools"]
        self.budget: dict[str, Any] = arms[arm]["budget"]
        size = len(VISIBLE) + len(self.budget.get("calls", {}))
        remaining = gym.spaces.Box(UNLIMITED, LARGEST, (size,), np.float64)
        self.observation_space = cast(
            "gym.Space[Observation]", gym.spaces.Dict({"text": Utf8(), "remaining": remaining})
        )
        self.action_space = Utf8()

    def _found(self, entry: str, board: str, title: str, model: str) -> dict[str, Any]:
        if entry:
            return self._client.entry(entry)
        return self._client.begin_entry(board, title=title, model=model)

    def left(self) -> dict[int, int]:
        """Attempts that may still be begun, by the task's number."""
        arms = self._client.entry(self.entry)["arms"]
        return {int(n): count for shown in arms if shown["name"] == self.arm for n, count in shown["left"].items()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an attempt; one that is under way ends without an answer, as a failure.

        Args:
            seed: from it tasks are drawn from now on, as long as they have attempts left; without one, and where the
                drawn one has none, it is the task that was served least.
            options: "task": the task's number.

        Raises:
            UsageError: nothing is left to be served; or there is no such option.
        """
        super().reset(seed=seed)
        for key in options or {}:
            if key != "task":
                raise UnknownName("reset option", key, ("task",))
        self._end()
        wanted = (options or {}).get("task")
        self._seeded = self._seeded or seed is not None
        if wanted is None and self._seeded:
            drawn = int(self.np_random.integers(self._tasks))
            wanted = drawn if drawn in self.left() else None
        self._session = self._client.begin(self.entry, self.arm, wanted, websocket=self._websocket)
        info = {"task": self._session.task, "tools": self._session.tools}
        return _observation(self._session.last), info

    def step(self, action: str) -> Step:
        """Sends one message to the server.

        Raises:
            UsageError: there is no attempt, it is over, or the action is not text.
            TransportError: the server does not answer; the step may be taken again.
        """
        if not isinstance(action, str):
            raise UsageError(f"an action is the text of a message, not {action!r:.80}.")
        if self._session is None:
            raise UsageError("no attempt is under way; call reset() first.")
        reply = self._session.step(action)
        told = {key: reply[key] for key in ("limit", "lost") if reply[key]}
        info = {"task": self._session.task, **told}
        return _observation(reply), float(reply["reward"]), reply["terminated"], reply["truncated"], info

    def close(self) -> None:
        """Ends the attempt under way, as a failure, and the connection."""
        try:
            self._end()
        finally:
            self._client.close()

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end()


def _known(arm: str, arms: Collection[str]) -> None:
    if arm not in arms:
        raise UnknownName("arm", arm, arms)


def _observation(reply: dict[str, Any]) -> Observation:
    seen = reply["observation"]
    return {"text": seen["text"], "remaining": np.array(seen["remaining"], np.float64)}
