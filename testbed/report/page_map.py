"""The map of tasks and arms as the page holds it: compact data, which its script lays out, sorts and filters."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np

from testbed.report.map_links import MOST, ORDER, group_filters, map_groups, row_group
from testbed.report.record import Analysis
from testbed.report.transcript_links import TranscriptLinks
from testbed.report.transcripts_inside import TranscriptsInside
from testbed.report.verdict_map import VerdictMap

ROOM = 6_000_000  # bytes of the page that the map may take; prompts are shortened to fit
MOST_BYTES = 6  # that a character takes in a script of the page
HASH = 16  # characters of a hash that stand for it: enough for `testbed show --task`


def map_data(analysis: Analysis, links: TranscriptLinks | TranscriptsInside | None) -> dict[str, Any] | None:
    """Rows of the map as JSON values; None without one.

    A row is [prompt, number of the group, hash, then three numbers for each arm: successes, attempts, place of the
    verdict in "verdicts" or -1]. "filters" are groups to choose by, each a name and the numbers of the rows' groups.
    "missing" has, by number of the row and of the arm, the missing attempts of cells that have some. With links into a
    folder, "folder" is where the tasks' transcripts are; with transcripts in the page, "inside" has, by number of the
    row, the numbers of the arms that have some.
    """
    found = analysis.map
    if found is None or not found.tasks or not found.arms:
        return None
    tasks = found.tasks[:MOST]
    fixed = 12 * len(found.arms) + HASH + 16
    room = max(0, ROOM // len(tasks) - fixed)
    groups = map_groups(found)
    words = {str(verdict): place for place, verdict in enumerate(ORDER)}
    columns = [
        (arm.successes.tolist(), arm.attempts.tolist(), [words.get(v, -1) for v in arm.verdicts]) for arm in found.arms
    ]
    rows = []
    for i, task in enumerate(tasks):
        row: list[str | int] = [_cut(task.prompt, room), groups[row_group(task)], task.hash[:HASH]]
        for column in columns:
            row += [values[i] for values in column]
        rows.append(row)
    return {
        "run": analysis.name,
        "bare": analysis.bare or "",
        "arms": [arm.arm for arm in found.arms],
        "groups": list(groups),
        "filters": group_filters(analysis),
        "verdicts": [str(verdict) for verdict in ORDER],
        "missing": _missing(found, len(tasks)),
        "left": len(found.tasks) - len(tasks),
        "folder": links.folder if isinstance(links, TranscriptLinks) else "",
        "inside": _inside(links, len(tasks)) if isinstance(links, TranscriptsInside) else {},
        "rows": rows,
    }


def _inside(links: TranscriptsInside, rows: int) -> dict[str, list[int]]:
    held: dict[str, list[int]] = {}
    for arm in links.arms:
        for cell in arm.cells:
            if cell.task < rows:
                held.setdefault(str(cell.task), []).append(arm.place)
    return held


def _missing(found: VerdictMap, rows: int) -> dict[str, dict[str, int]]:
    lost: dict[str, dict[str, int]] = {}
    for number, arm in enumerate(found.arms):
        for row in np.flatnonzero(arm.missing[:rows]).tolist():
            lost.setdefault(str(row), {})[str(number)] = int(arm.missing[row])
    return lost


def _cut(prompt: str, room: int) -> str:
    """The beginning of a prompt that takes at most so many bytes of the page, in which "<" takes six and "é" two."""
    if MOST_BYTES * len(prompt) <= room:
        return prompt
    most = prompt[:room]  # no character takes less than a byte
    return most[: bisect_right(range(len(most) + 1), room, key=lambda end: _bytes(most[:end])) - 1]


def _bytes(text: str) -> int:
    dear, escaped = (sum(map(text.count, signs)) for signs in ("<>&'", '"\\'))
    return len(text.encode("utf-8", "surrogatepass")) + (MOST_BYTES - 1) * dear + escaped
