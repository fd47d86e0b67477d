"""Which arms a plan compares, and how many attempts each makes at a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from testbed.bare import bare_among
from testbed.errors import UnknownName, UsageError
from testbed.experiment import Experiment, Measure
from testbed.planning.earlier import Earlier
from testbed.planning.record import Asked

DEFAULT_ATTEMPTS = 16  # of an arm that neither options nor an experiment nor a pilot describe


@dataclass(frozen=True)
class Design:
    """Arms with their attempts per task.

    Attributes:
        bare: name of the bare arm.
        arms: names of those compared with it.
        fixed: attempts made whatever their outcomes, by arm.
        most: attempts made at most; of a pilot that stopped early, on average.
    """

    bare: str
    arms: tuple[str, ...]
    fixed: Mapping[str, int]
    most: Mapping[str, int]


def design_of(asked: Asked, measure: Measure, experiment: Experiment | None, earlier: Earlier | None) -> Design:
    """The arms and attempts of an experiment, else of a pilot, else two unnamed arms; options replace the numbers.

    Raises:
        UnknownName: there is no such arm.
        UsageError: there is nothing to compare.
    """
    bare, fixed, most = _arms(asked, measure, experiment, earlier)
    others = [name for name in fixed if name != bare]
    if asked.arm:
        if asked.arm not in others:
            raise UnknownName("arm", asked.arm, others, hint=f"It is to be compared with {bare!r}.")
        others = [asked.arm]
    if not others:
        raise UsageError(f"there is only one arm, {bare!r}: a plan needs another one to compare it with.")
    given = {name: asked.attempts for name in others if asked.attempts}
    if attempts := asked.bare_attempts or asked.attempts:
        given[bare] = attempts
    return Design(bare, tuple(others), {**fixed, **given}, {**most, **given})


def _arms(
    asked: Asked, measure: Measure, experiment: Experiment | None, earlier: Earlier | None
) -> tuple[str, dict[str, int], dict[str, int]]:
    """The bare arm's name, and by arm the attempts per task made in any case and at most."""
    if experiment:
        specs = experiment.arms
        found = bare_among(specs, measure.bare)
        if found is None:
            listed = ", ".join(repr(arm.name) for arm in specs)
            raise UsageError(f"no arm is known to be bare: name one with --bare: {listed}.")
        bare = found.name
        return bare, {arm.name: arm.fixed for arm in specs}, {arm.name: arm.samples for arm in specs}
    if earlier:
        names = list(earlier.arms)
        bare = measure.bare or earlier.default_bare
        if not bare:
            listed = ", ".join(map(repr, names))
            raise UsageError(
                f"no arm of the pilot {earlier.name!r} is known to be bare: name one with --bare: {listed}."
            )
        earlier.arm(bare)  # refuses a name it has not
        return bare, {name: earlier.attempts(name) for name in names}, {name: earlier.spent(name) for name in names}
    bare, arm = measure.bare or "bare", asked.arm or "tool"
    assumed = {bare: DEFAULT_ATTEMPTS, arm: DEFAULT_ATTEMPTS}
    return bare, assumed, assumed
