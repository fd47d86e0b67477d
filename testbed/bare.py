"""Which arm the others are compared with: one rule for runs, plans and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from testbed.errors import UnknownName


class _MayBeBare(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def bare(self) -> bool: ...


A = TypeVar("A", bound=_MayBeBare)


def bare_among(arms: Sequence[A], wanted: str, hint: str = "") -> A | None:
    """The arm that the others are compared with; None where no arm is known to be bare.

    Args:
        arms: all arms.
        wanted: its name; if empty, it is the first one without tools and search, else the one named "bare".
        hint: what to add where there is none of that name.

    Raises:
        UnknownName: there is no arm of the name `wanted`.
    """
    named = {arm.name: arm for arm in arms}
    if wanted and wanted not in named:
        raise UnknownName("arm", wanted, named, hint=f"Give the name of the bare arm.{hint}")
    if wanted:
        return named[wanted]
    return next((arm for arm in arms if arm.bare), named.get("bare"))
