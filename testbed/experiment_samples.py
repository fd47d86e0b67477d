"""How many attempts each arm of an experiment file makes, and whether they can do what they are for.

A largest number must be able to settle a verdict, and a yoked arm must find an attempt to replay for each of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from testbed.errors import UnknownName
from testbed.experiment import STOPS, ArmSpec, Measure
from testbed.experiment_tables import Tables
from testbed.places import Key
from testbed.types import Control

SAMPLES_KEYS = ("min", "max", "stop")


class SampleTables(Tables):
    """The tables of an experiment file that say how many attempts are made."""

    def _samples(self, value: Any, name: str, at: Key) -> tuple[int, int, str]:
        """Attempts per task in any case (0: all of them) and at most, and what stops them: a number or a table."""
        if not isinstance(value, dict):
            return 0, self._whole(value, name, at, least=1), "verdict"
        self._keys(value, SAMPLES_KEYS, f"key of {name}", at)
        if missing := [key for key in ("min", "max") if key not in value]:
            self._fail(f'{name} needs {missing[0]}, as in {{ min = 32, max = 256, stop = "verdict" }}', at)
        stop = str(value.get("stop", "verdict"))
        if stop not in STOPS:
            self._fail(str(UnknownName(f"stop of {name}", stop, STOPS)), (*at, "stop"))
        least = self._whole(value["min"], f"min of {name}", (*at, "min"), least=1)
        most = self._whole(value["max"], f"max of {name}", (*at, "max"), least=1)
        if least > most:
            self._fail(f"{name}: min = {least} is more than max = {most}", (*at, "min"))
        return least if least < most else 0, most, stop

    def _check_stopping(self, arms: Sequence[ArmSpec], measure: Measure) -> None:
        """Refuses a largest number of attempts that can never settle a verdict, and says how many would."""
        for n, arm in enumerate(arms):
            if not arm.adaptive:
                continue
            from testbed.stats.stopping import StoppingRule  # scipy is loaded only where it is needed

            level = measure.alpha * STOPS[arm.stop]
            rule = StoppingRule(arm.fixed, arm.samples, measure.elicitation, measure.rho, level)
            out, within = rule.least_to_settle()
            if (wanted := max(out, within)) > arm.samples:
                what, straight = ("out of", "failures") if out >= within else ("within", "successes")
                self._fail(
                    f"samples of arm {arm.name!r}: max = {arm.samples} attempts can never show that a task is {what} "
                    f"reach. At elicitation = {measure.elicitation}, rho = {measure.rho:g}, alpha = {measure.alpha:g} "
                    f"([measure]) and stop = {arm.stop!r} that takes {wanted:,.0f} straight {straight}: set max to "
                    "at least that, or give a plain number of samples, which stops nowhere",
                    ("arm", n, "samples", "max"),
                    ("samples", "max"),
                )

    def _yoked(self, arm: ArmSpec, n: int, arms: Sequence[ArmSpec]) -> ArmSpec:
        at = ("arm", n, "name")
        if arm.control is not Control.YOKED:
            if arm.yoke:
                self._fail(f"arm {arm.name!r} has yoke = {arm.yoke!r} but is not yoked", ("arm", n, "yoke"))
            return arm
        live = [a for a in arms if a.control is Control.LIVE and a.lookahead is None]  # a search has no one order
        partner = arm.yoke or next((a.name for a in live if set(a.tools) == set(arm.tools)), "")
        found = [a for a in live if a.name == partner]
        if not found:
            wanted = str(UnknownName("live arm", partner, [a.name for a in live])) if partner else "none has its tools"
            self._fail(f"arm {arm.name!r} is yoked and needs a live arm to replay: {wanted}", at)
        self._replayable(arm, found[0], at)
        if found[0].fixed < 2:
            self._fail(f"arm {arm.name!r}: its live arm {partner!r} needs samples of at least 2", at)
        return replace(arm, yoke=partner)

    def _replayable(self, arm: ArmSpec, live: ArmSpec, at: Key) -> None:
        """Refuses a yoked arm with more attempts than its live arm is sure to have; where both stop early, it may."""
        for asked, there, which in (
            (arm.samples, live.samples, ""),
            (arm.fixed, live.fixed, " that are made in any case" if live.adaptive else ""),
        ):
            if asked > there:
                self._fail(
                    f"arm {arm.name!r}: {asked} yoked attempts would replay the {there} of its live arm "
                    f"{live.name!r}{which} more than once; give it at most as many samples",
                    at,
                )
