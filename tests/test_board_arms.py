"""Arms that boards do not take, as the page on leaderboards says, and in its words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from testbed.board.board_file import Rules
from testbed.board.bundle_lines import ClaimedArm
from testbed.board.verify.arms import Asked, read_arms
from testbed.board.verify.findings import Findings
from testbed.budget import Budget
from testbed.models.base import Sampling
from testbed.types import digest

TEXT = (Path(__file__).parents[1] / "docs" / "board.md").read_text(encoding="utf-8")
ASKED = Asked(0, {"bare": 1, "tools": 1}, Budget(), Rules(), {})


def found(**spec: Any) -> str:
    """What is wrong with an arm called 'planner', described like this."""
    usual = {"model": {"kind": "chat"}, "sampling": Sampling().as_dict(), "tools": [], "control": "absent"}
    identity = {**usual, "budget": Budget().as_dict(), "protocol": "1", **spec}
    claimed = ClaimedArm(hash=digest(identity), name="planner", samples=1, spec=identity)
    findings = Findings()
    read_arms([claimed], ASKED, findings)
    return " ".join(reason.text for reason in findings.reasons() if reason.level == "wrong")


@pytest.mark.parametrize("spec", [{"lookahead": {"method": "tree"}}, {"control": "imagined"}])
def test_arms_that_look_ahead_or_imagine_results_are_refused_as_the_page_says(spec: dict[str, Any]) -> None:
    (said,) = re.findall(r'"(arm \'planner\' looks ahead [^"]+)"', TEXT)
    assert said in found(**spec)


def test_an_arm_that_asks_the_oracle_is_refused() -> None:
    assert "asks the oracle" in found(model={"kind": "oracle"})
