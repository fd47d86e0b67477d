"""What the report shows of groups of tasks and of the ladder, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from testbed.report.record_arms import Reach
from testbed.stats import Estimate, Range, Verdict


class Effect(StrEnum):
    """What an arm did to a group of tasks, as far as the intervals and verdicts support it."""

    CREATED = "created"
    EXPANDED = "expanded"
    ELICITED = "elicited"
    LOST = "lost"
    NOTHING = "nothing seen"
    UNDETERMINED = "undetermined"


#: An effect as large as this would have shown where nothing is said to be seen.
TELLING = 0.25


@dataclass(frozen=True)
class GroupArm:
    """One arm on one group: tasks with an attempt, scored attempts, pass@1, and reach at the operating spend.

    `if_missing` is the range of pass@1 over the ways in which missing attempts could have ended; None without any.
    """

    arm: str
    tasks: int
    attempts: int
    pass_1: Estimate
    operating: Reach
    if_missing: Range | None


@dataclass(frozen=True)
class GroupEffect:
    """What one arm did to one group of tasks.

    Attributes:
        arm: the arm.
        tasks: tasks compared.
        effects: what it did; several where it did several things to different tasks.
        gain: gain over the group's tasks, paired.
        elicitation: part of the gain that resampling reaches too; None where the gain cannot be split, as below.
        creation: part that it does not reach.
        loss: what was lost.
        verdicts: tasks by verdict; empty where the gain cannot be split.
        never_bare: expanded tasks that no bare attempt solved.
        bare_attempts: fewest bare attempts at a task of the group.
        spent: attempts of both arms at the group's tasks.
        open_as_missing: whether scored attempts alone support a claim, but not however the missing ones had ended.
        broken: attempts of both arms that an error of an agent's own ended: failures in the figures, open in claims.
        needed: further attempts, of both arms, until the undetermined tasks are settled at the rates seen so far; None
            where that is out of sight.
        gain_if_missing: range of the gain over the ways in which missing attempts could have ended; None without any.
    """

    arm: str
    tasks: int
    effects: tuple[Effect, ...]
    gain: Estimate
    elicitation: Estimate | None
    creation: Estimate | None
    loss: Estimate | None
    verdicts: Mapping[Verdict, int]
    never_bare: int
    bare_attempts: int
    spent: int
    needed: int | None
    gain_if_missing: Range | None
    open_as_missing: bool = False
    broken: int = 0

    @property
    def too_few(self) -> bool:
        """Whether nothing is seen, and by so few tasks that an effect of `TELLING` need not have shown."""
        low, high = self.gain.low, self.gain.high
        seen = self.effects == (Effect.NOTHING,)
        return seen and (low is None or high is None or low < -TELLING or high > TELLING)

    @property
    def foremost(self) -> Effect:
        """What it did most of: the claim whose part is largest; what an outsider would name the group after."""
        parts = {Effect.CREATED: self.creation, Effect.EXPANDED: self.creation, Effect.ELICITED: self.elicitation}
        parts[Effect.LOST] = self.loss

        def size(effect: Effect) -> float:
            part = parts.get(effect)
            return part.value or 0.0 if part is not None else 0.0

        return Effect.UNDETERMINED if self.too_few else max(self.effects, key=size)


@dataclass(frozen=True)
class Group:
    """Tasks that belong together.

    Attributes:
        label: what they are, such as "4 digits", or their environment.
        within: the environment that the group is part of; empty where the group is a whole environment.
        tasks: tasks of the run that are in it.
        arms: each arm on them.
        effects: what each arm but the bare one did to them.
    """

    label: str
    within: str
    tasks: int
    arms: tuple[GroupArm, ...]
    effects: tuple[GroupEffect, ...]

    @property
    def name(self) -> str:
        """What it is called where its environment does not stand above it."""
        return f"{self.within}, {self.label}" if self.within else self.label


@dataclass(frozen=True)
class Rung:
    """One step of the ladder bare → inert → imagined → yoked → live.

    Attributes:
        tools: the tools whose ladder it is.
        lower: the arm stepped from.
        upper: the arm stepped to.
        meaning: what separates them: scaffold, self-simulation, information, interaction.
        tasks: common tasks.
        difference: reach of `upper` less reach of `lower` at the operating spend, paired.
        if_missing: its range over the ways in which missing attempts could have ended; None without any.
    """

    tools: tuple[str, ...]
    lower: str
    upper: str
    meaning: str
    tasks: int
    difference: Estimate
    if_missing: Range | None
