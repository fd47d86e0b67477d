"""A board's ranking, and its other summaries: computed whenever an entry is added, read by the pages.

An entry stands with its best arm. Which arm that is was chosen with the outcomes in sight, and the limits allow for it:
they are of all arms of all entries together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from testbed.board.arm_rows import ArmRow, FloatArray, read_rows
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.faults import boundary, record
from testbed.board.mechanisms import groups_of, mechanisms
from testbed.board.pareto import pareto
from testbed.board.results import packed
from testbed.board.schema import board_summaries, rankings
from testbed.board.shown import RESULTS, collected
from testbed.report.unseen import visible
from testbed.stats.ranks import Ranks, rank_intervals
from testbed.types import digest

BY = ("reach", "gain")
MOST_RANKED = 8  # arms of an entry that are ranked, its bare one included; the order is the author's, not the outcome's
LONGEST_KEY = 100  # characters of a name in an address
NO_TOOLS = "none"  # in addresses, of an arm without tools


def recompute(db: BoardDatabase, board: Board) -> None:
    """Ranks a board's entries anew, and makes its Pareto view, its view by mechanism and the choices of its filters.

    Args:
        db: the board's database.
        board: the board.
    """
    with db.reading() as connection:
        rows = read_rows(connection, board.slug)
    ranked = _ranked_arms(rows)
    ranks, candidates = _reach_ranks(ranked, board)
    places = [*_places(ranks, candidates, "reach"), *_places(*_gain_ranks(ranked, board), "gain")]
    makers: dict[str, Callable[[], Any]] = {
        "facets": lambda: _facets(rows, places),
        "pareto": lambda: pareto(candidates, ranks),
        "mechanisms": lambda: mechanisms(rows, board),
        "tasks": lambda: _tasks(rows, board),
    }
    summaries = _made(makers, board)
    with db.writing() as connection:
        _replace(connection, rankings, board.slug, places)
        _replace(connection, board_summaries, board.slug, summaries)
    results = _made({RESULTS: lambda: collected(db, board.slug)}, board)  # which have the ranks in them
    if results:
        with db.writing() as connection:
            connection.execute(board_summaries.insert(), [{"board": board.slug, **row} for row in results])


def _made(makers: Mapping[str, Callable[[], Any]], board: Board) -> list[dict[str, Any]]:
    """Summaries as the database keeps them. One that cannot be made is left out: the ranks and the others stand."""
    made = []
    for key, make in makers.items():
        with boundary() as fault:
            made.append({"key": key, "data": packed(make())})
        if fault.error is not None:  # the server's own, over whatever somebody sent
            record(fault.error, "board %s: its summary %s could not be made", board.slug, key)
    return made


def _ranked_arms(rows: Iterable[ArmRow]) -> list[ArmRow]:
    """The bare arm of each entry, and the first of its others that compete: every pair of arms is a test to make."""
    kept, counts = [], Counter[str]()
    for row in rows:
        if row.competes and not row.bare:
            counts[row.entry] += 1
        if row.bare or (row.competes and counts[row.entry] < MOST_RANKED):
            kept.append(row)
    return kept


def _replace(connection: sa.Connection, table: sa.Table, slug: str, made: Sequence[Mapping[str, Any]]) -> None:
    connection.execute(table.delete().where(table.c.board == slug))
    if made:
        connection.execute(table.insert(), [{"board": slug, **row} for row in made])


def _reach_ranks(rows: Iterable[ArmRow], board: Board) -> tuple[Ranks | None, list[ArmRow]]:
    """Ranks by reach of all arms that compete."""
    candidates = [row for row in rows if row.competes]
    if not candidates:
        return None, []
    least, most = zip(*(row.reach_limits(board.measure.operating) for row in candidates), strict=True)
    return _ranked(least, most, board, span=1.0), candidates


def _gain_ranks(rows: Iterable[ArmRow], board: Board) -> tuple[Ranks | None, list[ArmRow]]:
    """Ranks by gain over the entry's own bare arm of all other arms that compete."""
    rows = list(rows)
    bare = {row.entry: row for row in rows if row.bare}
    candidates = [row for row in rows if row.competes and not row.bare and row.gain is not None and row.entry in bare]
    if not candidates:
        return None, []
    k, least, most = board.measure.operating, [], []
    for row in candidates:
        (low, high), (bare_low, bare_high) = row.reach_limits(k), bare[row.entry].reach_limits(k)
        least.append(low - bare_high)
        most.append(high - bare_low)
    return _ranked(least, most, board, span=2.0), candidates


def _ranked(least: Sequence[FloatArray], most: Sequence[FloatArray], board: Board, *, span: float) -> Ranks:
    labels, measure = [task.cluster or task.hash for task in board.tasks], board.measure
    return rank_intervals(
        np.stack(least), np.stack(most), span=span, clusters=labels, alpha=measure.alpha, seed=measure.seed
    )


def _places(ranks: Ranks | None, candidates: Sequence[ArmRow], by: str) -> list[dict[str, Any]]:
    """Each entry's best arm, with the ranks among these that the data allow."""
    if ranks is None:
        return []
    best: dict[str, int] = {}
    for i, row in enumerate(candidates):
        if row.entry not in best or getattr(row, by) > getattr(candidates[best[row.entry]], by):
            best[row.entry] = i
    chosen = list(best.values())
    limits = zip(chosen, *(limit.tolist() for limit in ranks.among(chosen)), strict=True)
    return [
        {
            "by": by,
            "entry": candidates[i].entry,
            "position": candidates[i].position,
            "value": getattr(candidates[i], by),
            "low": low,
            "high": high,
        }
        for i, low, high in limits
    ]


def _facets(rows: Sequence[ArmRow], places: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the filters of each ranking offer: models, and sets of tools, with how many of its arms have them."""
    at = {(row.entry, row.position): row for row in rows}
    found: dict[str, Any] = {"entries": len({row.entry for row in rows}), "usd": any(row.usd for row in rows)}
    found["mechanisms"] = len(groups_of(rows))
    for by in BY:
        ranked = [at[place["entry"], place["position"]] for place in places if place["by"] == by]
        for name, counts in (
            ("models", Counter(row.model for row in ranked)),
            ("tools", Counter(tools_key(row.tools) for row in ranked)),
        ):
            listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            found[f"{by}_{name}"] = [(address_key(value), value, count) for value, count in listed]
    return found


def _tasks(rows: Iterable[ArmRow], board: Board) -> dict[str, Any]:
    """Of each of the board's tasks: how many of the arms that compete solve it at all, and how often on average."""
    competing = [row for row in rows if row.competes]
    if not competing:
        return {"arms": 0}
    n, c = (np.stack([getattr(row, name) for row in competing]) for name in "nc")
    arms_with_any = (n > 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        share = (c / np.maximum(n, 1)).sum(axis=0) / arms_with_any
    return {
        "arms": len(competing),
        "solved": (c > 0).sum(axis=0).tolist(),
        "share": [round(value, 4) if np.isfinite(value) else None for value in share.tolist()],
    }


def address_key(name: str) -> str:
    """A name as it stands in addresses: itself, or a hash where it is long or holds what cannot be seen."""
    return name if len(name) <= LONGEST_KEY and visible(name) == name else f"~{digest(name)[:16]}"


def tools_key(tools: Sequence[str]) -> str:
    """A set of tools as it stands in addresses and filters."""
    return "+".join(tools) or NO_TOOLS
