"""One session: an attempt that takes its messages one by one, and can be taken up again from its stored steps."""

from __future__ import annotations

import asyncio
from typing import Any

from testbed.board.faults import boundary, record
from testbed.board.refusals import Conflict
from testbed.board.remote.bench import Bench
from testbed.board.remote.serving import Served, task_of
from testbed.budget import Meter
from testbed.env import approximate_tokens
from testbed.episode import Episode, Observation, Step
from testbed.errors import InfrastructureError
from testbed.replay import Recorded
from testbed.store.schema import pack
from testbed.types import REDRAWN, Attempt, Cost, Message, Status, Usage, attempt_id


class LostInRestart(InfrastructureError):
    """A session that called tools which keep state, and whose server has restarted since."""

    kind = "server_restarted"


class Live:
    """A session of a board.

    Args:
        bench: the board.
        served: the session as the database holds it.
        arm_hash: of its arm in the store.
        ended: how it ended, as `Attempt.ended`; "" where it has not: then `resume` takes it up.

    Attributes:
        id: the session's id.
        steps: the messages so far: for each the action, the reply, what it added to the transcript, and the seconds
            after which it was over.
        kept: its steps as the database holds them.
        turn: held while a message is worked on: they are taken one after another.
        ended: "" while it is under way, then as `Attempt.ended`.
    """

    def __init__(self, bench: Bench, served: Served, arm_hash: str, *, ended: str = "") -> None:
        self.bench, self.served, self._hash = bench, served, arm_hash
        self.id, self.steps, self.kept = served.id, list(served.steps), pack(served.steps)
        self.turn = asyncio.Lock()
        self._number, self._task = task_of(bench.board, served.task)
        self._arm = bench.arm(served.arm)
        self._sample = served.serving % bench.samples(served.arm)
        self._episode: Episode | None = None
        self.ended = ended

    @property
    def seconds(self) -> float:
        """Since its first observation."""
        return self._episode.cost().seconds if self._episode else 0.0

    @property
    def seconds_left(self) -> float:
        """Until it ends as a failure."""
        return self._arm.seconds - self.seconds

    def view(self) -> dict[str, Any]:
        """How it stands, for its agent."""
        last = {"n": len(self.steps) - 1, **(self.steps[-1]["reply"] if self.steps else {})}
        if not self.steps and not self.ended and self._episode:
            last["observation"] = _plain(self._episode.observe(self._task.prompt))
        return {
            "session": self.id,
            "entry": self.served.entry,
            "arm": self.served.arm,
            "task": self._number,
            "sample": self._sample,
            "state": "lost" if self.ended.startswith("missing") else "done" if self.ended else "open",
            "prompt": self._task.prompt,
            "tools": self._arm.tools.schemas,
            "budget": {**self._arm.spec.budget.as_dict(), "seconds": self._arm.seconds},
            "seconds_left": 0.0 if self.ended else max(self.seconds_left, 0.0),
            "step": len(self.steps),
            "last": {**self._closing(), **last},
        }

    def repeat(self, n: int, action: str) -> dict[str, Any]:
        """The reply to a step that was taken before, or that comes after the session ended by itself.

        Raises:
            Conflict: it was another action, it is not the next one, or the agent ended the session.
        """
        if n < len(self.steps):
            if self.steps[n]["action"] != action:
                raise Conflict(f"step {n} was taken with another action.")
            reply: dict[str, Any] = self.steps[n]["reply"]
            return reply
        if n > len(self.steps):
            raise Conflict(f"the next step is {len(self.steps)}, not {n}.")
        last = self.steps[-1]["reply"] if self.steps else {}
        if last.get("terminated") or last.get("truncated"):
            raise Conflict("the session has ended.")
        return {**self._closing(), "n": n}

    async def take(self, action: str) -> dict[str, Any]:
        """Takes the next message, within the seconds that are left.

        Raises:
            InfrastructureError: the server could not do its part; says nothing of why.
        """
        assert self._episode is not None
        episode, before = self._episode, len(self._episode.transcript)
        with boundary(InfrastructureError) as fault:
            observation, reward, terminated, truncated, info = await self._step(episode, action)
        if fault.error is not None:  # a tool or a grader that does not work, whose words may hold what is secret
            record(fault.error, "session %s could not take a step", self.id)
            raise InfrastructureError(f"the server met {type(fault.error).__name__}") from fault.error
        reply = {
            "n": len(self.steps),
            "observation": _plain(observation),
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "limit": info.get("limit", ""),
            "lost": "",
        }
        added = list(episode.transcript[before:])
        step = {"action": action, "reply": reply, "messages": added, "seconds": episode.cost().seconds}
        self.steps.append(step)
        self.ended = episode.ended
        return reply

    async def resume(self, spent: float | None = None) -> None:
        """Reads the stored steps again, up to where the session was; one without any begins.

        Args:
            spent: seconds that have passed for it; None for those after which its last step was over.

        Raises:
            LostInRestart: a tool that keeps state was called, or what is read differs.
            InfrastructureError: a tool could not do its part.
        """
        with boundary(InfrastructureError) as fault:
            self._episode = await self._read_again()
        if fault.error is not None:  # a tool or a grader that does not work, as in `take`
            record(fault.error, "session %s could not be taken up again", self.id)
            raise LostInRestart(f"the server met {type(fault.error).__name__}") from fault.error
        assert self._episode is not None
        if spent is None:  # the time of a restart is nobody's
            spent = float(self.steps[-1]["seconds"]) if self.steps else 0.0
        self._episode.forgive(-spent)

    async def _read_again(self) -> Episode:
        said: list[Message] = [message for step in self.steps for message in step["messages"]]
        recorded = Recorded(said, what=f"session {self.id}", stateful=(), live=True)
        episode = self.bench.episode(self.served.arm, self._task, self._sample, recorded)
        stateful = {*self._arm.tools.stateful(), *self._arm.tools.acts_on()}
        for step in self.steps:
            episode.read(step["action"], Usage(generated_tokens=approximate_tokens(step["action"])))
            if called := stateful & {call.name for call in episode.action.calls}:
                raise LostInRestart(f"the server restarted, and {', '.join(sorted(called))} keeps state")
            results = await episode.run_tools()
            observation = (await asyncio.to_thread(episode.finish, results))[0]
            if observation["text"] != step["reply"]["observation"]["text"]:
                raise LostInRestart("the server restarted, and a step that was read again went another way")
        return episode

    def end(self, reason: str) -> None:
        """Ends it from outside."""
        assert self._episode is not None
        self._episode.end(reason)
        self.ended = reason

    def lose(self, error: InfrastructureError) -> None:
        """Ends it because of a fault of the server."""
        self.ended = f"missing:{error.kind}"

    @property
    def attempt_id(self) -> str:
        """Of the attempt in the store."""
        return attempt_id(self._task.hash, self._hash, self._sample, self.bench.board.seed)

    def attempt(self) -> Attempt:
        """What is recorded of it, once it has ended."""
        episode, missing = self._episode, self.ended.startswith("missing")
        grade = episode.grade if episode and not missing else None
        said: list[Message] = [{"role": "user", "content": self._task.prompt}]
        said += [message for step in self.steps for message in step["messages"]]
        lost = self.served.serving // self.bench.samples(self.served.arm)
        return Attempt(
            id=self.attempt_id,
            task=self._task.hash,
            arm=self._hash,
            sample=self._sample,
            seed=self.bench.board.seed,
            status=Status.MISSING if missing else Status.COMPLETE,
            ended=self.ended,
            success=None if missing else bool(grade and grade.success),
            score=grade.score if grade else None,
            answer=episode.answer if episode else None,
            cost=episode.cost() if episode else Cost(),
            faults={**(episode.faults if episode else {}), **({REDRAWN: lost} if lost and not missing else {})},
            transcript=list(episode.transcript) if episode else said,
        )

    async def aclose(self) -> None:
        """Frees what the attempt's tools hold."""
        if self._episode is not None:
            await self._episode.toolbox.aclose()

    async def _step(self, episode: Episode, action: str) -> Step:
        episode.read(action, Usage(generated_tokens=approximate_tokens(action)))
        try:
            async with asyncio.timeout(max(self.seconds_left, 0.0)):
                results = await episode.run_tools()
        except TimeoutError:
            episode.end("limit:seconds")
            return episode.observe(""), 0.0, False, True, {"limit": "seconds"}
        if episode.action.answer is not None and self.bench.environment(self._task).grades_slowly:
            return await asyncio.to_thread(episode.finish, results)
        return episode.finish(results)

    def _closing(self) -> dict[str, Any]:
        """A reply that says no more than whether it is over, and why."""
        kind, _, what = self.ended.partition(":")
        meter = self._episode.meter if self._episode else Meter(self._arm.spec.budget)
        return {
            "observation": {"text": "", "remaining": meter.remaining().tolist()},
            "reward": 0.0,
            "terminated": self.ended == "answered",
            "truncated": kind in ("limit", "missing", "agent"),
            "limit": what if kind == "limit" else "",
            "lost": "the server could not do its part" if kind == "missing" else "",
        }


def _plain(observation: Observation) -> dict[str, Any]:
    return {"text": observation["text"], "remaining": observation["remaining"].tolist()}
