"""Which attempts to make next: a fixed part first, then, batch by batch, those of the task × arm that most needs them.

Whether a task × arm goes on is decided by its own attempts alone (and, where a yoked arm replays it, by that arm's at
the same task), in the order of their sample index (`testbed.stats.stopping`). So the attempts made in the end are the
same at any concurrency, in whatever order attempts end, and after any interruption. The order in which they are made
follows need: first the task whose verdict takes the fewest further attempts by projection, so that a run stopped by
hand has settled as many verdicts as it could.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from testbed.bare import bare_among
from testbed.experiment import STOPS, ArmSpec, Cell, Experiment, Measure
from testbed.stats.stopping import UNKNOWN, Outcomes, StoppingRule, blocks_with_replays, counted


def rule_of(experiment: Experiment, arm: ArmSpec) -> StoppingRule | None:
    """The rule by which an arm's sampling stops at each task; None where all its attempts are made."""
    if not arm.adaptive:
        return None
    measure = experiment.measure
    return StoppingRule(arm.fixed, arm.samples, measure.elicitation, measure.rho, measure.alpha * STOPS[arm.stop])


def recorded_rules(data: Mapping[str, Any]) -> dict[str, StoppingRule]:
    """The rules of the arms that stop early, by name, as an experiment's data has them; a store keeps these data.

    Args:
        data: what an experiment file holds; data of another kind have no rules.
    """
    found, arms = {}, data.get("arm", [])
    for arm in arms if isinstance(arms, list) else []:
        samples = arm.get("samples", data.get("samples"))
        if isinstance(samples, Mapping) and samples["min"] < samples["max"]:
            measure = Measure(**data.get("measure", {}))
            level = measure.alpha * STOPS[samples.get("stop", "verdict")]
            rule = StoppingRule(samples["min"], samples["max"], measure.elicitation, measure.rho, level)
            found[arm["name"]] = rule
    return found


class Allocation:
    """Hands out attempts, and learns how they ended. Arms that replay others come last: see `turn`.

    Args:
        experiment: what is run.
        tasks: how many tasks it has.
        finished: whether an attempt is in the store.
        outcomes: for arms that stop early, what the store has: by arm, int8[tasks, samples] with 1, 0 or `UNKNOWN`.
    """

    def __init__(
        self,
        experiment: Experiment,
        tasks: int,
        *,
        finished: Callable[[Cell], bool],
        outcomes: Mapping[int, Outcomes],
    ) -> None:
        self._arms, self._tasks = experiment.arms, tasks
        bare = bare_among(experiment.arms, experiment.measure.bare)
        self._bare = None if bare is None else _position(experiment, bare.name)
        rules = [rule_of(experiment, arm) for arm in experiment.arms]
        self._rules = {arm: rule for arm, rule in enumerate(rules) if rule is not None}
        self._live = {arm: _position(experiment, spec.yoke) for arm, spec in enumerate(experiment.arms) if spec.yoke}
        self._of = {(arm, task): _Sampling(outcomes[arm][task]) for arm in self._rules for task in range(tasks)}
        self._fixed: dict[bool, Iterator[Cell]] = {
            yoked: self._cells_of(experiment, yoked, finished) for yoked in (False, True)
        }
        self._waiting: dict[bool, list[tuple[float, int, int, int]]] = {False: [], True: []}
        self._turn = False
        self._batch: Iterator[Cell] = iter(())
        self.settled = 0  # task × arm that have stopped
        # Attempts that are made at most, as far as is known; falls whenever a task × arm stops early.
        self.planned = tasks * sum(spec.samples for spec in experiment.arms)
        for task in range(tasks):
            self._look(task)
        self.turn(yoked=False)

    @property
    def cells(self) -> int:
        """Number of task × arm whose sampling may stop early."""
        return len(self._of)

    @property
    def over(self) -> bool:
        """Whether nothing waits to be handed out in either turn, once what was handed out is learned."""
        return not any(sampling.waiting for sampling in self._of.values())

    @property
    def empty(self) -> bool:
        """Whether there is nothing to hand out in either turn; to be asked before a turn begins."""
        for yoked, cells in self._fixed.items():
            if (first := next(cells, None)) is not None:
                self._fixed[yoked] = chain([first], cells)
                return False
        return self.over

    def turn(self, *, yoked: bool) -> None:
        """From here on hands out attempts of yoked arms, or of all others.

        What yoked attempts replay must be there before; and where a yoked arm is not settled by what there is to
        replay, its live arm goes on in the next turn.
        """
        self._turn, self._batch = yoked, self._fixed[yoked]

    def next(self) -> Cell | None:
        """The next attempt to make; None where all that may be asked for now are under way or made."""
        waiting = self._waiting[self._turn]
        while True:
            if (cell := next(self._batch, None)) is not None:
                return cell
            if not waiting:
                return None
            _, task, arm, place = heapq.heappop(waiting)
            sampling = self._of[arm, task]
            if sampling.waiting and sampling.place == place:  # else its need changed and it stands elsewhere
                sampling.waiting = False
                self._batch = iter([Cell(arm, task, sample) for sample in sampling.unknown()])

    def learn(self, cell: Cell, success: bool | None) -> bool:
        """Takes in how an attempt ended (None: the infrastructure ended it); whether that brought further attempts."""
        sampling = self._of.get((cell.arm, cell.task))
        if sampling is None:
            return False
        sampling.outcomes[cell.sample] = -1 if success is None else int(success)
        if sampling.unknown():
            return False
        self._look(cell.task)
        return any(self._of[arm, cell.task].waiting for arm in self._rules if self._yoked(arm) is self._turn)

    def blocks(self, arm: int, task: int) -> tuple[int, ...]:
        """Ends of the blocks in which a task's attempts were asked for; one block where an arm does not stop early."""
        sampling = self._of.get((arm, task))
        return (self._arms[arm].samples,) if sampling is None else sampling.ends

    def _cells_of(self, experiment: Experiment, yoked: bool, finished: Callable[[Cell], bool]) -> Iterator[Cell]:
        for cell in experiment.cells(self._tasks):
            if self._yoked(cell.arm) is yoked and not finished(cell):
                yield cell

    def _yoked(self, arm: int) -> bool:
        return arm in self._live

    def _look(self, task: int) -> None:
        """Takes what the rules say of a task's complete blocks; a new block changes the need of the other arms."""
        changed = False
        for arm, ends in self._asked(task):
            sampling, most = self._of[arm, task], self._rules[arm].most
            self.settled -= sampling.stopped
            self.planned -= sampling.most_made(most)
            further = len(ends) > max(len(sampling.ends), 1)  # the first block is of the fixed part
            sampling.ends = ends
            sampling.stopped = not sampling.unknown()
            sampling.waiting = (sampling.waiting or further) and not sampling.stopped
            self.settled += sampling.stopped
            self.planned += sampling.most_made(most)
            changed = changed or sampling.waiting
        for arm in self._rules if changed else ():
            sampling = self._of[arm, task]
            if sampling.waiting:
                sampling.place += 1
                heapq.heappush(self._waiting[self._yoked(arm)], (self._need(arm, task), task, arm, sampling.place))

    def _asked(self, task: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The blocks that each arm's rule asks for."""
        for arm, rule in self._rules.items():
            if self._yoked(arm):
                if self._live[arm] not in self._rules:
                    yield arm, rule.blocks(self._of[arm, task].outcomes)
                continue
            replays = [other for other in self._rules if self._live.get(other) == arm]
            pairs = [(self._rules[other], self._of[other, task].outcomes) for other in replays]
            own, others = blocks_with_replays(rule, self._of[arm, task].outcomes, pairs)
            yield arm, own
            yield from zip(replays, others, strict=True)

    def _need(self, arm: int, task: int) -> float:
        """Attempts projected until the verdict is settled that is nearest to being so and waits for these."""

        def own(position: int | None) -> float:
            sampling = self._of.get((position, task)) if position is not None else None
            if sampling is None or sampling.stopped or position is None:
                return 0.0
            return self._rules[position].still_needed(sampling.start, *counted(sampling.outcomes[: sampling.start]))

        if arm != self._bare:
            return own(arm) + own(self._bare)
        return own(arm) + min((own(other) for other in range(len(self._arms)) if other != arm), default=0.0)


class _Sampling:
    """One task in one arm.

    Attributes:
        outcomes: by sample index.
        ends: ends of the blocks asked for so far; the first is made in any case.
        stopped: whether they are all made and no more are wanted.
        waiting: whether its last block is to be handed out.
        place: how often it was queued; only the newest place in the queue counts.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        self.outcomes = outcomes
        self.ends: tuple[int, ...] = ()
        self.stopped = self.waiting = False
        self.place = 0

    @property
    def made(self) -> int:
        """Attempts asked for so far."""
        return self.ends[-1]

    @property
    def start(self) -> int:
        """Attempts at the last look."""
        return self.ends[-2] if len(self.ends) > 1 else 0

    def most_made(self, most: int) -> int:
        """Attempts that there will be at most, as far as is known; those that another run made beyond the stop too."""
        return int(np.count_nonzero(self.outcomes != UNKNOWN)) if self.stopped else most

    def unknown(self) -> list[int]:
        """Sample indices of the last block whose outcome is not known."""
        return [self.start + int(i) for i in np.flatnonzero(self.outcomes[self.start : self.made] == UNKNOWN)]


def _position(experiment: Experiment, name: str) -> int:
    return next(n for n, arm in enumerate(experiment.arms) if arm.name == name)


def partner_of(sample: int, blocks: Sequence[int]) -> int:
    """The live sample that a yoked one replays.

    Args:
        sample: of the yoked attempt, below the last of `blocks`.
        blocks: ends of the blocks in which the live attempts were asked for.
    """
    end = next(end for end in blocks if sample < end)
    start = max((other for other in blocks if other < end), default=0)
    if end - start == 1:  # a last block of one has no other sample in it
        return max(sample - 1, 0)
    return start + (sample - start + 1) % (end - start)
