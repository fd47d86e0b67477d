"""One claimed attempt, gone through again: the server's own episode, grader and meter, with the recorded tool results.

What an attempt used, how it ended and whether it succeeded follows from what the model wrote and what its tools
returned. So none of that is believed: the messages of the model are read again by the same code that reads them in a
run, and what comes of it must be what was claimed, message by message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from testbed.agents_trial import AgentEpisode
from testbed.board.bundle_lines import ClaimedAttempt
from testbed.board.verify.arms import EntryArm
from testbed.board.verify.claims import said, same_outcome, same_transcript
from testbed.board.verify.models import KnownModel
from testbed.board.verify.spread import CONTEXT, Forged, Spread, as_told, can_come, fewest
from testbed.env import Environment
from testbed.episode import Episode
from testbed.errors import FaultKind, NotRecorded
from testbed.recording import RecordedTools
from testbed.replay import Recorded
from testbed.tool import AttemptContext, ToolSet
from testbed.types import REDRAWN, RESENT, Attempt, Cost, Grade, Message, Status, Task, Usage, stream_key

BY_CLOCK, BY_PRICE = "limit:seconds", "limit:usd"
UNSEEN = (BY_CLOCK, BY_PRICE)  # limits of which no transcript can tell
# How an attempt may end without an answer and within every limit that a transcript shows: all are failures.
ENDED_OUTSIDE = (CONTEXT, *UNSEEN)
AGENTS_ENDS = ("agent:silent", "agent:error", "limit:model_calls", "limit:generated_tokens", "limit:prompt_tokens")
COUNTED = ("generated_tokens", "prompt_tokens", "observed_tokens", "model_calls", "tool_calls", "turns")
_FOR_EVER = 1e12  # seconds, and more USD than there are


@dataclass(frozen=True)
class Ground:
    """What an attempt is made on.

    Attributes:
        task: the board's task.
        environment: makes and grades it.
        grade: its grader; may remember what it was asked before.
    """

    task: Task
    environment: Environment
    grade: Callable[[Task, str], Grade]


@dataclass
class Replayer:
    """Goes through the attempts of one arm again.

    Attributes:
        arm: the arm.
        known: what is known of its model.
        seed: the board's.
        short: attempts that claim fewer tokens than the tokenizer makes of their texts, by id: those claimed.
        clocked: how many attempts ended by a clock or a price.
        full: how many ended since the model takes no longer conversation.
    """

    arm: EntryArm
    known: KnownModel
    seed: int
    short: dict[str, int] = field(default_factory=dict)
    clocked: int = 0
    full: int = 0

    def __post_init__(self) -> None:
        self._tools = stand_ins(self.arm)
        self._agent = self.arm.model.get("kind") == "agent"
        ends = (*ENDED_OUTSIDE, *AGENTS_ENDS) if self._agent else ENDED_OUTSIDE
        self._ends = tuple(end for end in ends if can_come(end, self.arm.budget))

    async def attempt(self, claimed: ClaimedAttempt, ground: Ground, id: str, arm: str) -> Attempt:
        """The attempt as the server makes it out; seconds and USD are left at 0, since they are its author's word.

        Args:
            claimed: as its author tells it.
            ground: what it was made on.
            id: for the attempt in the server's store.
            arm: likewise of its arm.

        Raises:
            Forged: it is not as claimed; says what.
        """
        transcript = messages_of(claimed)
        same_transcript([Message(role="user", content=ground.task.prompt)], transcript[:1])
        episode = await self._gone_through(claimed, transcript, ground)
        same_transcript(episode.transcript, transcript)
        same_outcome(episode, claimed)
        told = {kind: claimed.faults[kind] for kind in (REDRAWN, RESENT) if claimed.faults.get(kind)}
        if dict(episode.faults) != {kind: n for kind, n in claimed.faults.items() if kind not in told and n}:
            raise Forged(f"it has the faults {dict(episode.faults)}, not {dict(claimed.faults)}", "counts")
        return Attempt(
            id=id,
            task=ground.task.hash,
            arm=arm,
            sample=claimed.sample,
            seed=claimed.seed,
            status=Status.COMPLETE,
            ended=episode.ended,
            success=bool(episode.grade and episode.grade.success),
            score=episode.grade.score if episode.grade else None,
            answer=episode.answer,
            cost=self._cost(claimed, episode),
            faults={**episode.faults, **told},
            transcript=episode.transcript,
        )

    def open(self, claimed: ClaimedAttempt, ground: Ground) -> Episode:
        """An episode at its beginning, whose tools answer from the claimed transcript."""
        transcript = messages_of(claimed)
        key = stream_key(self.seed, ground.task.hash, claimed.sample)
        context = AttemptContext(key, recorded=Recorded(transcript, what="the transcript"))
        count = self.known.count or as_told(transcript, self.arm.budget, claimed.cost)
        kind = AgentEpisode if self._agent else Episode
        feedback = ground.environment.feedback
        episode = kind(ground.task, ground.grade, self._tools, self.arm.budget, count, context, feedback)
        episode.forgive(_FOR_EVER)  # the time that it takes here is nobody's
        return episode

    async def _gone_through(self, claimed: ClaimedAttempt, transcript: Sequence[Message], ground: Ground) -> Episode:
        """The episode at its end; a clock may have ended it between two messages, or while one was finished."""
        self.full += claimed.ended == CONTEXT
        if claimed.ended not in UNSEEN or claimed.ended not in self._ends:
            return await self._read_all(claimed, transcript, ground, late=False)
        self.clocked += 1
        with suppress(Forged):
            episode = await self._read_all(claimed, transcript, ground, late=False)
            if said(episode.transcript) == said(transcript):
                return episode
        return await self._read_all(claimed, transcript, ground, late=True)

    async def _read_all(
        self, claimed: ClaimedAttempt, transcript: Sequence[Message], ground: Ground, *, late: bool
    ) -> Episode:
        episode = self.open(claimed, ground)
        replies = [n for n, message in enumerate(transcript) if message["role"] == "assistant"]
        self._check_length(replies, transcript)
        texts = [transcript[n]["content"] for n in replies]
        spread = Spread(transcript, replies, self.arm.budget, claimed.cost)
        generated = self._generated(claimed, texts, spread)
        least = [0] * len(replies) if self._agent else _least_given(transcript, replies)  # an agent may ask no model
        given = None if self.known.prompt else spread.of("prompt_tokens", least)
        for n, (at, text) in enumerate(zip(replies, texts, strict=True)):
            await asyncio.sleep(0)  # so that who has no time left for this can end it between any two messages
            if episode.over:
                raise Forged(f"it goes on after it was over ({episode.ended})")
            too_late = late and n == len(replies) - 1
            prompt = given[n] if given is not None else self._given(episode)
            usd = _FOR_EVER if too_late and claimed.ended == BY_PRICE else 0.0
            episode.read(text, Usage(prompt, generated[n], usd=usd))
            if too_late and episode.action.calls and at == len(transcript) - 1:
                break  # the clock ran out while the tools worked
            if claimed.ended == CONTEXT and at == len(transcript) - 2 and not episode.action.does_something:
                break  # the context cut this message: nothing came of it
            if too_late and claimed.ended == BY_CLOCK:
                episode.forgive(-2 * _FOR_EVER)
            await _finish(episode, ground.environment)
        if not episode.over and claimed.ended in self._ends:
            last = transcript[-1]
            episode.end(claimed.ended, last["content"] if last["role"] == "system" else "")
        if not episode.over:
            raise Forged(f"it stops before it is over, and cannot have ended by {claimed.ended!r:.80}")
        return episode

    def _check_length(self, replies: Sequence[int], transcript: Sequence[Message]) -> None:
        """Refuses what no attempt within the budget can have, before any of it is worked through.

        Raises:
            Forged: it has too many messages, or too long ones.
        """
        limit, written = self.arm.budget.turns, self.arm.budget.generated_tokens
        if limit is not None and len(replies) > limit:
            raise Forged(f"it has {len(replies):,} messages of the model, and its budget {limit:,} turns")
        least = sum(fewest(transcript[n]["content"], plain=False) for n in replies)
        if written is not None and not self.known.exact and not self._agent and least > written:
            raise Forged(f"its texts have at least {least:,} tokens, and its budget {written:,}", "counts")

    def _generated(self, claimed: ClaimedAttempt, texts: Sequence[str], spread: Spread) -> list[int]:
        """Tokens of each of the model's messages: counted, or as claimed where that is possible.

        Raises:
            Forged: it is not.
        """
        least = self._least(texts)
        found = spread.of("generated_tokens", least)
        if self.known.exact and found != least:
            raise Forged(
                f"its texts have {sum(least):,} tokens, not the {claimed.cost.generated_tokens:,} claimed", "counts"
            )
        most = self.arm.sampling.max_tokens
        if not self._agent and any(tokens > most for tokens in least):
            raise Forged(f"a message has more than the {most:,} tokens that one may have", "counts")
        count = self.known.count if self.known.spells else None
        if count is not None and sum(map(count, texts)) > claimed.cost.generated_tokens:
            self.short[claimed.id] = claimed.cost.generated_tokens
        return found

    def _least(self, texts: Sequence[str]) -> list[int]:
        """The least tokens of each message that an episode believes."""
        count = self.known.count
        if count is None:
            return [fewest(text, plain=False) for text in texts]
        if self._agent:  # one call of a model may be behind several messages
            ends = [fewest("x" * sum(map(len, texts[: n + 1]))) for n in range(len(texts))]
            return [end - before for before, end in zip([0, *ends], ends, strict=False)]
        if self.known.exact:
            return [count(text) for text in texts]
        return [min(fewest(text), count(text)) if self.known.spells else fewest(text) for text in texts]

    def _given(self, episode: Episode) -> int:
        assert self.known.prompt is not None
        return self.known.prompt(episode.messages, self.arm.schemas)

    def _cost(self, claimed: ClaimedAttempt, episode: Episode) -> Cost:
        """What it used, counted again.

        Raises:
            Forged: another cost is claimed.
        """
        own, said = episode.meter.cost, claimed.cost.cost
        if self._agent:  # it may ask models more than once for a message, or never
            own = replace(own, model_calls=said.model_calls)
        if claimed.ended == BY_CLOCK and episode.action.calls and not episode.results:
            # Begun when the clock ran out: how many of the calls were made, and what they returned, nobody saw.
            calls = min(max(said.tool_calls, own.tool_calls), own.tool_calls + len(episode.action.calls))
            own = replace(own, tool_calls=calls, observed_tokens=max(said.observed_tokens, own.observed_tokens))
        for component in COUNTED:
            mine, theirs = getattr(own, component), getattr(said, component)
            if mine != theirs:
                raise Forged(f"it used {mine:,} {component}, not {theirs:,}", "counts")
        return replace(own, seconds=0.0, usd=0.0)


def stand_ins(arm: EntryArm) -> ToolSet:
    """Tools that go by the names of an arm's and know nothing: they answer from a recording or not at all."""
    if not arm.tools:
        return ToolSet()
    empty = {"type": "object", "properties": {}}  # nothing is checked by a stranger's schema, so it is not compiled
    functions = [{"name": tool.name, "description": "-", "parameters": empty} for tool in arm.tools]
    chars = arm.tools[0].result_chars
    known = [{"schema": {"type": "function", "function": f}, "result_chars": chars} for f in functions]
    return RecordedTools(known, [tool.name for tool in arm.tools])


def messages_of(claimed: ClaimedAttempt) -> list[Message]:
    """A claimed transcript as the testbed has it.

    Raises:
        Forged: a tool's message lacks something, or says what cannot be.
    """
    made: list[Message] = []
    for n, sent in enumerate(claimed.transcript):
        if sent.role == "tool" and (sent.name is None or sent.tokens is None):
            raise Forged(f"message {n} is a tool's result without the tool's name or its tokens")
        if sent.fault is not None and sent.fault not in list(FaultKind):
            raise Forged(f"message {n} has a fault of no known kind")
        if sent.tokens is not None and sent.tokens < fewest(sent.content, plain=False):
            raise Forged(f"message {n} is said to have {sent.tokens} tokens, which is fewer than can be", "counts")
        message: Any = sent.model_dump(exclude_none=True)
        message.pop("logprobs", None)  # its author's word
        made.append(message)
    return made


async def _finish(episode: Episode, environment: Environment) -> None:
    try:
        results = await episode.run_tools()
    except NotRecorded as error:
        raise Forged(f"a tool's result does not belong to its call: {error}", "tools") from None
    if episode.action.answer is not None and environment.grades_slowly:
        await asyncio.to_thread(episode.finish, results)
    else:
        episode.finish(results)


def _least_given(transcript: Sequence[Message], replies: Sequence[int]) -> list[int]:
    """The least tokens before each of the model's messages."""
    each = (fewest(m["content"], plain=False) if m["role"] != "system" else 0 for m in transcript)
    before = [0, *accumulate(each)]
    return [before[at] for at in replies]
