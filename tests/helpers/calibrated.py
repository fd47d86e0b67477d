"""Attempts of calibration cases that several tests read are made once."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from testbed.calibration import instrument

_parse = instrument.parse_experiment


def keep_runs(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A case's run goes on where another test has left it in this folder: for what breaks nothing before the analysis.

    Each case that has policies of its own wants a folder of its own: runs are known by their experiments alone.
    """
    place = folder

    def parsed(experiment: Any) -> Any:
        nonlocal place
        place = folder / hashlib.sha256(json.dumps(experiment, sort_keys=True).encode()).hexdigest()
        place.mkdir(parents=True, exist_ok=True)
        return _parse(experiment)

    patch.setattr(instrument, "parse_experiment", parsed)
    patch.setattr(instrument, "TemporaryDirectory", lambda prefix: nullcontext(place))
