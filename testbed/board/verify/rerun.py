"""Some attempts made again by the same model, which must write the same: what was drawn is what was sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from testbed.board.bundle_lines import ClaimedAttempt
from testbed.board.verify.arms import EntryArm
from testbed.board.verify.replay import Ground, Replayer, messages_of
from testbed.board.verify.spread import CONTEXT, Forged
from testbed.episode import Episode
from testbed.errors import ContextFull, NotRecorded
from testbed.models.base import Model, Request

_TOGETHER = 128  # attempts that a model is asked for at one time

T = TypeVar("T")


@dataclass(frozen=True)
class Again:
    """An attempt that is to be made again: it has passed every other check.

    Attributes:
        claimed: as its author tells it.
        ground: what it was made on.
        replayer: of its arm.
    """

    claimed: ClaimedAttempt
    ground: Ground
    replayer: Replayer


class Drawn(Generic[T]):
    """Some of many, each as likely as any other, however many there turn out to be.

    Args:
        most: how many are kept.
        chance: draws them.
    """

    def __init__(self, most: int, chance: random.Random) -> None:
        self._most, self._chance, self.seen = most, chance, 0
        self.kept: list[T] = []

    def add(self, one: T) -> None:
        """One more of the many."""
        self.seen += 1
        if len(self.kept) < self._most:
            self.kept.append(one)
        elif (place := self._chance.randrange(self.seen)) < self._most:
            self.kept[place] = one


async def made_again(
    model: Model, chosen: Sequence[Again], made: list[Again], different: list[tuple[Again, str]]
) -> None:
    """Asks a model for attempts again, many at a time, until some come out otherwise.

    The tools answer as recorded: their results are checked elsewhere.

    Args:
        model: writes the same again, see `testbed.models.base.Model.reproducible`; is started and closed here.
        chosen: the attempts.
        made: gets those that were made again, as they are: not all where the time runs out.
        different: gets those that came out otherwise, and how, as soon as it shows: time may run out after it.
    """

    async def compare(again: Again) -> None:
        if how := await _differs(model, again):
            different.append((again, how))

    await model.start()
    try:
        for at in range(0, len(chosen), _TOGETHER):
            batch = chosen[at : at + _TOGETHER]
            await asyncio.gather(*map(compare, batch))
            made += batch
            if different:
                return
    finally:
        await model.aclose()


async def _differs(model: Model, again: Again) -> str:
    """How an attempt comes out otherwise; "" if it does not."""
    claimed, arm = again.claimed, again.replayer.arm
    episode = again.replayer.open(claimed, again.ground)
    sent = [message["content"] for message in messages_of(claimed) if message["role"] == "assistant"]
    cut = False  # by the context, before anything was done
    try:
        for n, text in enumerate(sent):
            reply = await model.generate(_request(episode, arm))
            if reply.text != text:
                return f"its message {n + 1} is {text!r:.120}, and the model writes {reply.text!r:.120}"
            episode.read(reply.text, reply.usage)
            if cut := reply.finish == "context" and not episode.action.does_something:
                if n < len(sent) - 1 or claimed.ended != CONTEXT:
                    return f"its message {n + 1} fills the model's context, and it goes on or ends by another cause"
                break
            results = await episode.run_tools()
            if n < len(sent) - 1 or claimed.ended == CONTEXT:
                episode.finish(results)
    except (ContextFull, NotRecorded, Forged) as error:
        return f"the model could not go through it: {error}"
    used = int(episode.meter.amounts["generated_tokens"])
    if used != claimed.cost.generated_tokens:
        return f"the model writes it in {used:,} tokens, not {claimed.cost.generated_tokens:,}"
    return await _goes_on(model, episode, arm) if claimed.ended == CONTEXT and not cut else ""


async def _goes_on(model: Model, episode: Episode, arm: EntryArm) -> str:
    """What the model writes next in an attempt that is said to have filled its context; "" if it takes no more."""
    try:
        reply = await model.generate(_request(episode, arm))
    except ContextFull:
        return ""
    return f"it is said to have ended by {CONTEXT!r}, and the model goes on with {reply.text!r:.120}"


def _request(episode: Episode, arm: EntryArm) -> Request:
    return Request(
        messages=episode.messages,
        tools=arm.schemas,
        sampling=arm.sampling,
        max_tokens=int(min(arm.sampling.max_tokens, episode.meter.left("generated_tokens"))),
        stream=episode.stream,
        position=episode.position,
        task=episode.task,
    )
