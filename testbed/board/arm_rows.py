"""The arms of a board's entries as the summaries over all entries read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from testbed.board.results import SHOWN_STATES, counts_of
from testbed.board.schema import entries, entry_arms
from testbed.stats import reach_at_k
from testbed.store.schema import unpack
from testbed.types import Control

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ArmRow:
    """One arm of an entry whose figures are shown; the fields are those of `entry_arms`, unpacked.

    Attributes:
        entry: its entry.
        position: its place in the entry.
        arm: its hash in the store.
        name: its name in the entry.
        model: the model's id.
        tools: sorted names.
        control: absent, inert, imagined, yoked or live.
        bare: whether the entry's other arms are compared with it.
        reach: at the operating spend, mean over tasks; None where not known.
        gain: over the bare arm; None where not known.
        tokens: generated, mean of an attempt.
        usd: mean of an attempt.
        n: scored attempts by the board's tasks.
        c: successes likewise.
        figures: every figure that the pages show of it.
    """

    entry: str
    position: int
    arm: str
    name: str
    model: str
    tools: tuple[str, ...]
    control: str
    bare: bool
    reach: float | None
    gain: float | None
    tokens: float | None
    usd: float | None
    n: IntArray
    c: IntArray
    figures: Mapping[str, Any]

    @property
    def competes(self) -> bool:
        """Whether it may stand in a ranking: placebos are there to explain an arm, not to win."""
        return self.reach is not None and self.control not in (Control.INERT, Control.IMAGINED, Control.YOKED)

    def reach_scored(self, k: int) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Its reach at k attempts at each task by those that were scored, and where there are as many; 0 elsewhere."""
        known = self.n >= k
        reach = np.zeros(self.n.shape)
        reach[known] = reach_at_k(self.n[known], self.c[known], k)
        return reach, known

    def reach_limits(self, k: int) -> tuple[FloatArray, FloatArray]:
        """The least and the most that its reach at k attempts can be at each task, however missing ones had ended.

        Equal where none is missing. That k were scored is not enough: which ones are missing may hang on how they went.
        """
        made = np.maximum(self.n, int(self.figures["samples"]))
        least, most = np.zeros(self.n.shape), np.ones(self.n.shape)
        enough = made >= k
        least[enough] = reach_at_k(made[enough], self.c[enough], k)
        most[enough] = reach_at_k(made[enough], (self.c + made - self.n)[enough], k)
        return least, most


def read_rows(connection: sa.Connection, board: str) -> list[ArmRow]:
    """Every arm of a board's entries whose figures are shown, by entry and position."""
    query = sa.select(entry_arms).join(entries, entries.c.id == entry_arms.c.entry)
    query = query.where(entries.c.board == board, entries.c.state.in_(SHOWN_STATES))
    found = connection.execute(query.order_by(entries.c.created, entries.c.id, entry_arms.c.position))
    return [arm_row(row) for row in found]


def arm_row(row: Any) -> ArmRow:
    """A row of `entry_arms`, unpacked."""
    return ArmRow(
        entry=row.entry,
        position=row.position,
        arm=row.arm,
        name=unpack(row.name),
        model=unpack(row.model),
        tools=tuple(unpack(row.tools)),
        control=row.control,
        bare=bool(row.bare),
        reach=row.reach,
        gain=row.gain,
        tokens=row.tokens,
        usd=row.usd,
        n=counts_of(row.n),
        c=counts_of(row.c),
        figures=json.loads(row.figures),
    )
