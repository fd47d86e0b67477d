"""The cases with tools whose effect is known: what each mechanism must read as."""

from __future__ import annotations

from testbed.calibration.case import Case
from testbed.calibration.mechanisms_compute import ComputeOnly
from testbed.calibration.mechanisms_games import FixedHint, TwentyQuestions
from testbed.calibration.mechanisms_harm import HarmfulTool
from testbed.calibration.mechanisms_leak import LeakedCorpus
from testbed.calibration.mechanisms_oracle import OracleBits

MECHANISMS: tuple[Case, ...] = (
    OracleBits(),
    ComputeOnly(),
    LeakedCorpus(),
    TwentyQuestions(),
    FixedHint(),
    HarmfulTool(),
)
