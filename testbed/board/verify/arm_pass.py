"""What is known of one arm of an entry, and what only several of its attempts at a task show."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from testbed.board.bundle_lines import ClaimedAttempt
from testbed.board.verify.arms import EntryArm
from testbed.board.verify.prints import Prints
from testbed.board.verify.replay import Replayer
from testbed.board.verify.tools import Remaker

# This share of the pairs of an arm's attempts at one task went the same and took the same time to the nanosecond: ten
# times what was counted in 2.7 million pairs of a fast local model. More than one in a thousand honest entries has by
# chance is forged. What took less than a millisecond tells nothing.
ALIKE_BY_CHANCE = 1e-5
RARE = 1e-3
SHORTEST = 1e-3
LONG = 400  # characters that a model wrote, from which on a word for word repetition is worth a remark


@dataclass
class ArmPass:
    """What is known of one arm during the pass.

    Attributes:
        arm: the arm.
        replayer: goes through its attempts.
        remaker: makes its tool results again.
        stored: hash of the arm in the server's store.
        missing: attempts that the infrastructure is said to have ended, or whose first draw it is said to have lost.
        seconds: as claimed, summed.
        usd: likewise.
        called: attempts with tool results.
        remade: of these, those whose results were made again, none of them another.
        unsettled: of these, those with a result that could not be compared.
        pairs: pairs of attempts that could be alike.
        alike: attempts that are just like an earlier one, seconds included.
        repeated: attempts whose long text is just that of an earlier one.
        prints: of its attempts.
    """

    arm: EntryArm
    replayer: Replayer
    remaker: Remaker
    stored: str
    missing: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    called: int = 0
    remade: int = 0
    unsettled: int = 0
    pairs: int = 0
    alike: list[str] = field(default_factory=list)
    repeated: int = 0
    prints: Prints = field(default_factory=Prints)


class Cell:
    """The attempts of one arm at one task, for what only several of them show."""

    def __init__(self, arm: ArmPass) -> None:
        self._arm = arm
        self._timed: Counter[tuple[bytes, float]] = Counter()
        self._seen: Counter[bytes] = Counter()
        self._slow = 0

    def add(self, claimed: ClaimedAttempt) -> None:
        """Compares an attempt with those before it."""
        if claimed.missing:
            return
        arm, seconds = self._arm, claimed.cost.seconds
        text = _content(claimed)
        if seconds >= SHORTEST:
            arm.pairs += self._slow
            self._slow += 1
            if self._timed[text, seconds]:
                arm.alike.append(claimed.id)
            self._timed[text, seconds] += 1
        if sum(len(message.content) for message in claimed.transcript if message.role == "assistant") >= LONG:
            arm.repeated += self._seen[text] > 0
        arm.prints.add(claimed.task, text, self._seen[text])
        self._seen[text] += 1


def _content(claimed: ClaimedAttempt) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for message in claimed.transcript:
        digest.update(f"{message.role}\0{len(message.content)}\0{message.content}".encode("utf-8", "surrogatepass"))
    return digest.digest()
