"""What a command came to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Of what was printed as JSON."""
        return json.loads(self.out, parse_constant=pytest.fail)
