"""Which message of the model used how much of a total: what its author says, as far as it can be."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from testbed.board.bundle_lines import ClaimedCost
from testbed.budget import Budget
from testbed.episode import MOST_CHARS_PER_TOKEN
from testbed.protocol import NO_ACTION, TOOLS_SPENT
from testbed.types import Message

CONTEXT = "limit:context"  # the model's own, of which only the model can tell
_RUN = re.compile(r"(.)\1{3,}", re.DOTALL)  # of one character many tokenizers have long tokens


class Forged(Exception):
    """A claimed attempt is not what it is said to be.

    Args:
        message: how, without the attempt's name.
        check: what found it, see `verify.findings.CHECKS`.
    """

    def __init__(self, message: str, check: str = "answers") -> None:
        super().__init__(message)
        self.check = check


def fewest(text: str, *, plain: bool = True) -> int:
    """The least tokens that any model is believed to need for a text.

    Args:
        text: the text.
        plain: count each of its characters; else of one that is repeated, three.
    """
    length = len(text) if plain else len(_RUN.sub(r"\1\1\1", text))
    return -(-length // MOST_CHARS_PER_TOKEN)


def can_come(end: str, budget: Budget) -> bool:
    """Whether an attempt can have ended so: no limit that the budget does not have ends anything."""
    kind, _, limit = end.partition(":")
    return kind != "limit" or end == CONTEXT or getattr(budget, limit) is not None


def observed(transcript: Sequence[Message], budget: Budget, cost: ClaimedCost) -> dict[str, int]:
    """Tokens of what an attempt was shown after the prompt, by text, as its author counts them.

    A tool's result says its own. What notes on wrong answers have follows from what is left of the budget where that is
    told next, or from the total; of several, the first has what the others need not.

    Args:
        transcript: as claimed.
        budget: the attempt's limits.
        cost: as claimed.
    """
    told: dict[str, int] = {}
    open_notes: list[str] = []
    known = 0

    def settle(total: int) -> None:
        nonlocal known
        least = [fewest(note, plain=False) for note in open_notes]
        for n, note in enumerate(open_notes):
            told[note] = least[n] if n else max(least[0], total - known - sum(least[1:]))
        known += sum(told[note] for note in open_notes)
        open_notes.clear()

    for n, message in enumerate(transcript):
        if message["role"] == "tool":
            if "cut" in message and budget.observed_tokens is not None:
                settle(budget.observed_tokens - message["cut"])
            told[message["content"]] = message["tokens"]
            known += message["tokens"]
            last = n + 1 == len(transcript) or transcript[n + 1]["role"] != "tool"
            left = message.get("remaining", {}).get("observed_tokens", 0)
            if last and left > 0 and budget.observed_tokens is not None:
                settle(int(budget.observed_tokens - left))
        elif message["role"] == "user" and n and message["content"] not in (NO_ACTION, TOOLS_SPENT):
            open_notes.append(message["content"])
    settle(cost.observed_tokens)
    return told


def as_told(transcript: Sequence[Message], budget: Budget, cost: ClaimedCost) -> Callable[[str], int]:
    """Counts tokens as an attempt's author does, as far as that shows; where the model's tokenizer is not here.

    Of a text that was cut, what is longer than what was shown has more than were left.
    """
    told = observed(transcript, budget, cost)
    cuts = {m["content"]: m["cut"] for m in transcript if m["role"] == "tool" and "cut" in m and m["content"]}

    def count(text: str) -> int:
        if text in told:
            return told[text]
        beyond = [left + 1 for shown, left in cuts.items() if text.startswith(shown)]
        return max([fewest(text, plain=False), *beyond])

    return count


class Spread:
    """Spreads what an attempt is said to have used over the model's messages.

    After a tool's result a transcript tells what is left of a limited component, so that the messages before it used
    what is missing. Between two such places all that is known is what a message uses at least; the last one has the
    rest.

    Args:
        transcript: as claimed.
        replies: where the model's messages are.
        budget: the attempt's limits.
        cost: as claimed.
    """

    def __init__(
        self, transcript: Sequence[Message], replies: Sequence[int], budget: Budget, cost: ClaimedCost
    ) -> None:
        self._transcript, self._replies, self._budget, self._cost = transcript, replies, budget, cost

    def of(self, component: str, least: Sequence[int]) -> list[int]:
        """What each message used.

        Args:
            component: of cost.
            least: what each used at least.

        Raises:
            Forged: some used less than they can have.
        """
        used: list[int] = []
        begun = 0  # the first message since the last place where it is told how much is left
        for position in range(len(self._replies)):
            total = self._told(component, position)
            if total is None and position < len(self._replies) - 1:
                continue
            reached = int(getattr(self._cost, component)) if total is None else total
            before = list(least[begun:position])
            rest = reached - sum(used) - sum(before)
            if rest < least[position]:
                raise Forged(
                    f"it claims {reached:,} {component} up to message {self._replies[position]}, and its texts have at "
                    f"least {reached - rest + least[position]:,}",
                    "counts",
                )
            used += [*before, rest]
            begun = position + 1
        if sum(used) != getattr(self._cost, component):
            raise Forged(f"its messages tell of {sum(used):,} {component}, and its cost of another number", "counts")
        return used

    def _told(self, component: str, position: int) -> int | None:
        """What was used up to a message by the result that comes next; None where none tells."""
        limit = getattr(self._budget, component)
        at = self._replies[position] + 1
        if limit is None or at >= len(self._transcript) or position == len(self._replies) - 1:
            return None
        left = self._transcript[at].get("remaining", {}).get(component)
        return None if left is None or left <= 0 else int(limit - left)
