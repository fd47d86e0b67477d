"""Which arm the others are compared with is decided once, for runs, plans and reports."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from testbed.bare import bare_among
from testbed.errors import UnknownName


@dataclass(frozen=True)
class Named:
    name: str
    bare: bool = False


ARMS = [Named("bare"), Named("plain", bare=True), Named("second", bare=True), Named("tool")]


@pytest.mark.parametrize(
    ("arms", "wanted", "chosen"),
    [
        (ARMS, "", "plain"),  # the first without tools, not the one that is called so
        (ARMS, "tool", "tool"),  # whatever it is, if it is asked for
        (ARMS[:1] + ARMS[3:], "", "bare"),  # by its name where none is known to have no tools
        (ARMS[3:], "", None),
        ([], "", None),
    ],
)
def test_the_bare_arm_is_the_one_asked_for_else_one_without_tools_else_the_one_of_that_name(
    arms: list[Named], wanted: str, chosen: str | None
) -> None:
    found = bare_among(arms, wanted)
    assert (found.name if found else None) == chosen


def test_a_name_that_is_none_is_refused_with_the_hint() -> None:
    with pytest.raises(UnknownName, match=r"tool.*Give the name of the bare arm\. It went home\."):
        bare_among(ARMS, "tol", " It went home.")
