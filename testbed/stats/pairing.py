"""Two arms on the tasks that they share: every comparison here is paired over these."""

from __future__ import annotations

from testbed.stats.checks import StatsError
from testbed.stats.outcomes import ArmOutcomes


def align(bare: ArmOutcomes, tool: ArmOutcomes) -> tuple[ArmOutcomes, ArmOutcomes]:
    """Return both arms on the tasks they have in common, in the bare arm's order.

    Raises:
        StatsError: The arms have no task in common.
    """
    position = {name: i for i, name in enumerate(tool.tasks)}
    pairs = [(i, position[name]) for i, name in enumerate(bare.tasks) if name in position]
    if not pairs:
        raise StatsError(
            f"arms {bare.arm!r} and {tool.arm!r} have no task in common "
            f"(for example {bare.tasks[0]!r} and {tool.tasks[0]!r}): a paired comparison needs the same tasks in both"
        )
    left, right = zip(*pairs, strict=True)
    return bare.take(left), tool.take(right)
