"""Addresses inside the page that show the map of tasks filtered: where pictures of groups and verdicts lead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from testbed.report.groups import environment_name
from testbed.report.record import Analysis, Group
from testbed.report.verdict_map import MappedTask, VerdictMap
from testbed.stats import Verdict

ORDER = (Verdict.EXPANDED, Verdict.LOST, Verdict.PRESERVED, Verdict.OUT_OF_REACH, Verdict.UNDETERMINED)
MOST = 50_000  # rows of the map: beyond, not even hashes fit


@dataclass(frozen=True)
class MapLinks:
    """Where the page shows the map filtered, by the places that names have in the map's filters.

    Attributes:
        groups: of groups of tasks, as the report names them.
        arms: of arms.
        verdicts: of verdicts.
    """

    groups: Mapping[str, int]
    arms: Mapping[str, int]
    verdicts: Mapping[str, int]

    def to(self, *, group: str = "", arm: str = "", verdict: str = "", instead: str = "#map-title") -> str:
        """The address of the map that keeps a group, or a verdict of an arm; of an arm alone it is sorted by that.

        Args:
            group: a group's name; empty for all.
            arm: an arm's name; empty for any.
            verdict: a verdict; empty for any.
            instead: the address where the map has no such group or arm.
        """
        asked = (("group", group, self.groups), ("arm", arm, self.arms), ("verdict", verdict, self.verdicts))
        if any(name and name not in places for _, name, places in asked):
            return instead
        return f"#map?{urlencode({key: places[name] for key, name, places in asked if name})}"


def map_links(analysis: Analysis) -> MapLinks | None:
    """The addresses of a page; None where it has no map."""
    found = analysis.map
    if found is None or not found.tasks or not found.arms:
        return None
    return MapLinks(
        {name: place for place, (name, _) in enumerate(group_filters(analysis))},
        {arm.arm: place for place, arm in enumerate(found.arms)},
        {str(verdict): place for place, verdict in enumerate(ORDER)},
    )


def map_groups(found: VerdictMap) -> dict[str, int]:
    """The number of each group of tasks that a row of the map names, in the order of the tasks."""
    names = dict.fromkeys(map(row_group, found.tasks[:MOST]))
    return {name: number for number, name in enumerate(names)}


def row_group(task: MappedTask) -> str:
    """A task's group, as its row names it."""
    return f"{task.environment}, {task.group}" if task.group else task.environment


def group_filters(analysis: Analysis) -> list[tuple[str, list[int]]]:
    """What the map may be filtered by: the report's groups, environments as a whole among them, by the rows' groups."""
    found = analysis.map
    assert found is not None
    numbers = map_groups(found)
    tasks = {row_group(task): task for task in found.tasks[:MOST]}  # one stands for all of its group
    filters = [
        (group.name, [numbers[name] for name, task in tasks.items() if _holds(group, task)])
        for group in analysis.groups
    ]
    filters = [(name, own) for name, own in filters if own]
    covered = {number for _, own in filters for number in own}
    return filters + [(name, [number]) for name, number in numbers.items() if number not in covered]


def _holds(group: Group, task: MappedTask) -> bool:
    environment = environment_name(task.environment)
    if group.within:
        return environment == group.within and (task.group or "other") == group.label
    return environment == group.label
