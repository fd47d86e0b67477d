"""One try at an attempt, as a sentence: ask the model, read its message, run the tools it calls, show the results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

from testbed.edges import Kept
from testbed.env import Environment
from testbed.episode import Episode
from testbed.errors import (
    ContextFull,
    GivenUp,
    InfrastructureError,
    ModelError,
    ModelNotAsked,
    TestbedError,
    UsageError,
)
from testbed.lookahead.beginning import begin
from testbed.models.base import Imaginer, Request
from testbed.preparation import Arm
from testbed.threads import DaemonThreads
from testbed.tool import AttemptContext
from testbed.types import CONTEXT_FULL, Attempt, Control, Cost, Message, Status, Task, attempt_id, stream_key

_CUT = "the model's context was full before it had answered; use a model with a longer context, or shorter prompts."


class Trial:
    """One try at an attempt; every further try after a fault of the infrastructure is another trial.

    Args:
        arm: who tries.
        task: what is tried.
        environment: the task's.
        sample: index of the attempt within arm and task.
        seed: the experiment's.
    """

    def __init__(self, arm: Arm, task: Task, environment: Environment, sample: int, seed: int) -> None:
        self._arm, self._task, self._environment = arm, task, environment
        self._sample, self._seed = sample, seed
        self._episode: Episode | None = None
        self._clock: asyncio.Timeout
        self._bug: BaseException | None = None
        self._running: asyncio.Task[Attempt | None] | None = None
        self._waits = self._asked = self._drawn = self._stopping = self._given_up = False

    async def run(self, replay: Iterator[str] | None, graders: DaemonThreads) -> Attempt | None:
        """The attempt, however the model fared in it; None where it was given up, see `stop_waiting`.

        Args:
            replay: the results that a yoked attempt's tools give, one after another.
            graders: where slow graders work.

        Raises:
            InfrastructureError: it could not be made; see `missing`.
        """
        task = self._running = asyncio.current_task()
        assert task is not None
        try:
            return await self._made(replay, graders)
        except asyncio.CancelledError:
            if self._given_up and task.uncancel() == 0:
                return None
            raise
        except (InfrastructureError, ModelError) as error:  # the attempt's clock has stopped
            if explain := getattr(self._arm.model, "explain", None):
                await explain(error)
            raise

    def stop_waiting(self) -> None:
        """From now on gives this try up where it waits for its turn at the model, and nothing would be lost with it.

        That is as long as the model has written nothing in it, or would write the same again.
        """
        self._stopping = True
        self._give_up()

    def _give_up(self) -> None:
        kept = self._drawn and not self._repeats
        if self._waits and not kept and not self._given_up and self._running is not None:
            self._given_up = True
            self._running.cancel()

    async def _made(self, replay: Iterator[str] | None, graders: DaemonThreads) -> Attempt:
        arm = self._arm
        episode = self._episode = self._begin(replay)
        try:
            async with asyncio.timeout(arm.spec.budget.seconds) as clock:
                self._clock = clock
                while not episode.over:
                    try:
                        await self._make_turn(episode, clock, graders)
                    except ContextFull as error:
                        await episode.fill(str(error))
        except TimeoutError:
            episode.end("limit:seconds")
        finally:
            await episode.toolbox.aclose()
        return self._record(Status.COMPLETE, episode.ended, episode.transcript)

    def has_drawn(self, error: InfrastructureError) -> bool:
        """Whether this try, ended by `error`, has cost a reply that would not be the same another time."""
        if self._repeats:
            return False
        return not isinstance(error, ModelNotAsked) or has_reply(self._episode.transcript if self._episode else ())

    def has_asked(self) -> bool:
        """Whether this try, cancelled, has cost such a reply: one that came, or that the model was asked for."""
        return (self._asked or self._drawn) and not self._repeats

    @property
    def _repeats(self) -> bool:
        return bool(getattr(self._arm.model, "reproducible", False))

    def missing(self, error: InfrastructureError) -> Attempt:
        """What is recorded of an attempt that the infrastructure ended: as far as it came, and why."""
        transcript = list(self._episode.transcript) if self._episode else []
        if why := str(error):
            transcript.append({"role": "system", "content": why})
        return self._record(Status.MISSING, f"missing:{error.kind}", transcript)

    def given_up(self) -> Attempt:
        """What is recorded of an attempt in the middle of which its run was ended, see `missing`."""
        return self.missing(GivenUp("the run was given up before the attempt had ended."))

    def _begin(self, replay: Iterator[str] | None) -> Episode:
        arm, task, env = self._arm, self._task, self._environment
        budget, count, lookahead = arm.spec.budget, arm.model.count, arm.spec.lookahead
        recorded = arm.recording.of(task.hash, self._sample) if arm.recording else None
        imagine = self._imagine if arm.spec.control is Control.IMAGINED else None
        key = stream_key(self._seed, task.hash, self._sample)
        context = AttemptContext(key, replay, recorded, imagine=imagine, off_clock=self._tool_waits)
        if lookahead is not None:
            return begin(lookahead, env, task, arm.tools, budget, count, context, arm.spec.sampling.max_tokens)
        return Episode(task, env.grade, arm.tools, budget, count, env.enter(task, arm.tools, context), env.feedback)

    def _request(self, episode: Episode, clock: asyncio.Timeout) -> Request:
        sampling = self._arm.spec.sampling
        return Request(
            messages=episode.messages,
            tools=self._arm.tools.schemas,
            sampling=sampling,
            max_tokens=int(min(sampling.max_tokens, episode.meter.left("generated_tokens"))),
            stream=episode.stream,
            position=episode.position,
            task=episode.task,
            logprobs=self._arm.spec.logprobs,
            off_clock=partial(self._off_clock, episode, clock, asyncio.get_running_loop().time()),
        )

    @contextmanager
    def _off_clock(
        self, episode: Episode, clock: asyncio.Timeout, asked: float, since: float | None = None
    ) -> Iterator[None]:
        """Meanwhile, and since then, the attempt waits for others: not a second of it is the attempt's.

        What was before the request was made, `asked`, cannot have been a wait for its sake.
        """
        loop = asyncio.get_running_loop()
        began = loop.time() if since is None else max(since, asked)
        self._waits = True
        if self._stopping:
            loop.call_soon(self._give_up)  # which finds it waiting, unless there was room for it at once
        with waiting(episode, clock, began):
            try:
                yield
            except asyncio.CancelledError:
                self._asked = False  # it was still waiting: the model has not seen the request
                raise
            finally:
                self._waits = False

    def _tool_waits(self) -> AbstractContextManager[None]:
        """Around a wait of the attempt's tool for its turn.

        Raises:
            UsageError: the tool waits in a thread, where nobody can move the clock.
        """
        assert self._episode is not None
        try:
            began = asyncio.get_running_loop().time()
        except RuntimeError as error:  # else each call would be scored as the model's fault
            raise UsageError("a tool can wait with context.off_clock() in `_arun` only: `_run` has no loop.") from error
        return waiting(self._episode, self._clock, began)

    async def _imagine(self) -> str:
        """A tool's result as the model itself writes it; its tokens are generated ones of the attempt."""
        episode, model = self._episode, self._arm.model
        assert episode is not None
        assert isinstance(model, Imaginer)
        asked = self._request(episode, self._clock)
        room = int(min(asked.max_tokens, episode.meter.left("observed_tokens")))
        if room < 1 or any(episode.meter.left(limit) <= 0 for limit in ("model_calls", "prompt_tokens")):
            return ""
        with Kept(Exception, passing=TestbedError) as kept:
            reply = await model.imagine(replace(asked, messages=episode.said, max_tokens=room))
        if kept.error is not None:  # a bug of ours, raised later: what a tool raises would be scored
            self._bug = kept.error
            return ""
        episode.meter.charge_imagined(reply.usage)
        if reply.logprobs is not None:
            episode.imagined[len(episode.results)] = reply.logprobs
        return reply.text

    async def _make_turn(self, episode: Episode, clock: asyncio.Timeout, graders: DaemonThreads) -> None:
        """Asks the model for a message and does what it says.

        Raises:
            ContextFull: the conversation fills the model's context.
        """
        self._asked = True
        reply = await self._arm.model.generate(self._request(episode, clock))
        self._drawn = True
        episode.read(reply.text, reply.usage, reply.logprobs)
        cut = reply.finish == "context" and not episode.action.does_something
        if cut and not self._arm.spec.lookahead:
            raise ContextFull(_CUT)
        await self._finish_turn(episode, clock, graders)
        if cut and episode.over and not episode.goes_on_elsewhere:  # else a limit on turns or tokens would be blamed
            episode.end(CONTEXT_FULL, _CUT)

    async def _finish_turn(self, episode: Episode, clock: asyncio.Timeout, graders: DaemonThreads) -> None:
        """Runs the tools and finishes the turn; a slow grader works in a thread while the attempt's clock stands."""
        results = await episode.run_tools()
        if self._bug is not None:
            raise self._bug
        if episode.action.answer is None or not self._environment.grades_slowly:
            episode.finish(results)
            return
        with standing(clock, asyncio.get_running_loop().time()):  # the episode itself leaves out a grader's time
            await graders.run(lambda: episode.finish(results))

    def _record(self, status: Status, ended: str, transcript: Sequence[Message]) -> Attempt:
        episode, scored = self._episode, status is Status.COMPLETE
        grade = episode.grade if episode and scored else None
        return Attempt(
            id=attempt_id(self._task.hash, self._arm.hash, self._sample, self._seed),
            task=self._task.hash,
            arm=self._arm.hash,
            sample=self._sample,
            seed=self._seed,
            status=status,
            ended=ended,
            success=bool(grade and grade.success) if scored else None,
            score=grade.score if grade else None,
            answer=episode.answer if episode else None,
            cost=episode.cost() if episode else Cost(),
            faults=dict(episode.faults) if episode else {},
            transcript=list(transcript),
        )


@contextmanager
def standing(clock: asyncio.Timeout, began: float) -> Iterator[None]:
    """The attempt's limit of seconds moves away by the time that passes from `began` to the end."""
    ends = clock.when()
    clock.reschedule(None)
    try:
        yield
    finally:
        if ends is not None:
            clock.reschedule(ends + asyncio.get_running_loop().time() - began)


@contextmanager
def waiting(episode: Episode, clock: asyncio.Timeout, began: float) -> Iterator[None]:
    """Since `began`, and to the end, the attempt waits for others: it is none of its seconds, nor held to a limit."""
    with standing(clock, began):
        try:
            yield
        finally:
            episode.forgive(asyncio.get_running_loop().time() - began)


def has_reply(transcript: Sequence[Message]) -> bool:
    """Whether the model has written anything in it."""
    return any(message["role"] == "assistant" for message in transcript)
