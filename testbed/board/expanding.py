"""How many attempts it takes for a task to count as expanded, where a board asks for fewer.

A board's numbers of samples are frozen with it, and entries cannot have more: whoever makes it has to know.
"""

from __future__ import annotations

from testbed.board.board_file import MOST_SAMPLES
from testbed.board.boards import Board
from testbed.stats import accessibility

_SHOWN = {
    "bare": "without tools to show that a task is out of reach",
    "tools": "with them to show that it is within it",
}


def too_few_samples(board: Board) -> str:
    """Says so where no attempts of an entry could make a task count as expanded; "" where they are enough.

    That takes a task which is shown to be out of reach without tools, where all attempts fail, and within reach with
    them, where all succeed; by the thresholds with which the figures of entries are made.
    """
    measure, samples = board.measure, board.samples
    needed = accessibility([0], [0], measure.elicitation, rho=measure.rho, alpha=measure.alpha).needed
    least = {"bare": float(needed.if_all_fail[0]), "tools": float(needed.if_all_succeed[0])}
    few = [kind for kind in _SHOWN if samples[kind] < least[kind]]
    if not few:
        return ""
    takes = " and ".join(f"{least[kind]:,.0f} attempts {_SHOWN[kind]}" for kind in few)
    has = " and ".join(f"{kind} = {samples[kind]}" for kind in few)
    wanted = " and ".join(f"{kind} = {least[kind]:.0f}" for kind in few)
    if least["bare"] > MOST_SAMPLES:
        wanted = "a smaller elicitation in [measure]"
    elif "bare" in few:
        wanted += ", or a smaller elicitation in [measure]"
    return (
        f"no task of board {board.slug!r} can count as expanded: it takes {takes}, and the board has {has}. It is "
        f"frozen: for such verdicts, create one under another slug with {wanted}."
    )
