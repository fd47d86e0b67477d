"""Whether the value that a test compares with occurs at all: a misspelt one is met by no record, and says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.errors import did_you_mean
from testbed.transfer.values import Test

_KEPT = 1000  # values remembered, and shown of them
_SHOWN = 6


@dataclass
class Watched:
    """A test that remembers which values it saw until one equals that with which it compares.

    Attributes:
        test: the test.
    """

    test: Test
    _met: bool = False
    _values: dict[str, None] = field(default_factory=dict)

    def holds(self, where: str, record: Mapping[str, Any], element: int = 0) -> bool:
        """As `Test.holds`."""
        holds = self.test.holds(where, record, element)
        if not self._met and self.test.sign in ("=", "!="):
            self._met = holds is (self.test.sign == "=")
            if not self._met and len(self._values) < _KEPT:
                self._values[str(self.test.path.read(where, record, element)).strip()] = None
        return holds

    @property
    def unmet(self) -> str:
        """What there is in place of a value that no record has: "outcome is never 'won'; it is …", else ""."""
        if self._met or not self._values:
            return ""
        values = [repr(value[:40]) for value in self._values]
        shown = ", ".join(values[:_SHOWN]) + (", …" if len(values) > _SHOWN else "")
        if 1 < len(values) <= _SHOWN:
            shown = f"{', '.join(values[:-1])} or {values[-1]}"
        found = f"{self.test.path.text} is never {self.test.value!r}; it is {shown}."
        near = did_you_mean(self.test.value, self._values)
        return found + near if "mean" in near else found
