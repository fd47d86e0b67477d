"""Policies and tools whose truth is known, put through the whole instrument: `testbed calibrate`."""

from __future__ import annotations

from testbed.calibration import cheaters, claims, nulls, tabular, tilts
from testbed.calibration.case import FULL, QUICK, Case, Check, Rate, Size
from testbed.calibration.instrument import Examination, examine, examine_closely
from testbed.calibration.mechanisms import MECHANISMS

__all__ = ["CASES", "FULL", "QUICK", "Case", "Check", "Examination", "Rate", "Size", "examine", "examine_closely"]

CASES: tuple[Case, ...] = (*tabular.CASES, *nulls.CASES, *tilts.CASES, *claims.CASES, *MECHANISMS, *cheaters.CASES)
