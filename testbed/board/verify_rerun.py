"""Some attempts made again by the same model, which must write the same: what was drawn is what was sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from testbed.board.bundle_lines import ClaimedAttempt
from testbed.board.verify_replay import Ground, Replayer, messages_of
from testbed.board.verify_spread import Forged
from testbed.errors import ContextFull, NotRecorded
from testbed.models.base import Model, Request


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


async def made_again(model: Model, chosen: list[Again]) -> list[tuple[Again, str]]:
    """Asks a model for attempts again, many at a time; those that come out otherwise, and how.

    The tools answer as recorded: their results are checked elsewhere.

    Args:
        model: writes the same again, see `testbed.models.base.Model.reproducible`; is started and closed here.
        chosen: the attempts.
    """
    await model.start()
    try:
        found = await asyncio.gather(*(_differs(model, again) for again in chosen))
    finally:
        await model.aclose()
    return [(again, how) for again, how in zip(chosen, found, strict=True) if how]


async def _differs(model: Model, again: Again) -> str:
    """How an attempt comes out otherwise; "" if it does not."""
    claimed, arm = again.claimed, again.replayer.arm
    episode = again.replayer.open(claimed, again.ground)
    sent = [message["content"] for message in messages_of(claimed) if message["role"] == "assistant"]
    sampling = arm.sampling
    try:
        for n, text in enumerate(sent):
            request = Request(
                messages=episode.messages,
                tools=arm.schemas,
                sampling=sampling,
                max_tokens=int(min(sampling.max_tokens, episode.meter.left("generated_tokens"))),
                stream=episode.stream,
                position=episode.position,
                task=episode.task,
            )
            reply = await model.generate(request)
            if reply.text != text:
                return f"its message {n + 1} is {text!r:.120}, and the model writes {reply.text!r:.120}"
            episode.read(reply.text, reply.usage)
            results = await episode.run_tools()
            if n < len(sent) - 1:
                episode.finish(results)
    except (ContextFull, NotRecorded, Forged) as error:
        return f"the model could not go through it: {error}"
    used = int(episode.meter.amounts["generated_tokens"])
    if used != claimed.cost.generated_tokens:
        return f"the model writes it in {used:,} tokens, not {claimed.cost.generated_tokens:,}"
    return ""
