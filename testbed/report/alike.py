"""Which arms are of one model, and which offer one set of tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.report.arms import Arm
from testbed.scoring_alike import known


def same_model(one: Arm, other: Arm) -> bool:
    """Whether two arms are of one model, wherever it ran."""
    if isinstance(one.model, Mapping) and isinstance(other.model, Mapping):
        return known(one.model) == known(other.model)
    return bool(one.model == other.model)


def same_tools(one: Arm, other: Arm) -> bool:
    """Whether two arms offer the same tools with the same options and contents, whatever comes back under a control."""
    mine, theirs = (sorted(map(_tool, arm.offered), key=lambda tool: str(tool[0])) for arm in (one, other))
    if one.tools != other.tools or len(mine) != len(theirs):
        return False
    # Of a tool that is not ours, what it is made of is not known under every control.
    return all(a[0] == b[0] and (not a[1] or not b[1] or a[1] == b[1]) for a, b in zip(mine, theirs, strict=True))


def _tool(offered: Any) -> tuple[Any, Any]:
    """The face of a tool and its content, without the control that it is under."""
    if not isinstance(offered, Mapping):
        return offered, None
    content = offered.get("content")
    if isinstance(content, Mapping) and content.keys() == {"control", "of"}:
        content = content["of"]
    return offered.get("schema"), None if isinstance(content, Mapping) and "source" in content else content
