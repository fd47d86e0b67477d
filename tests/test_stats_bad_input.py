"""Bad input to every public function of the statistics.

Never a silent NaN, never a 0 that reads as certainty: a clear error that names arm and task where they are known.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import testbed.stats
import testbed.stats.power as stats_power
from helpers.attack import NAN, Attack, arm
from helpers.attacks import ATTACKS
from helpers.nans import nans
from testbed.stats import ArmOutcomes, StatsError, align, compare_arms, energy, reach_curve, sequences


def attack_id(attack: Attack) -> str:
    return attack.call.__qualname__


CASES = [
    pytest.param(attack, name, value, id=f"{attack_id(attack)}-{name}-{i}")
    for attack in ATTACKS
    for name, values in attack.bad.items()
    for i, value in enumerate(values)
]


@pytest.mark.parametrize("attack", ATTACKS, ids=attack_id)
def test_the_call_that_is_attacked_works_without_a_nan(attack: Attack) -> None:
    assert nans(attack.call(**attack.valid)) == []


@pytest.mark.parametrize(("attack", "name", "value"), CASES)
def test_bad_input_is_refused_with_a_sentence(attack: Attack, name: str, value: Any) -> None:
    with pytest.raises(StatsError) as refused:
        attack.call(**{**attack.valid, name: value})
    assert len(str(refused.value)) > 10


def test_every_public_function_of_the_statistics_is_attacked() -> None:
    attacked = {attack.call.__qualname__ for attack in ATTACKS}
    exported = {name for name in testbed.stats.__all__ if inspect.isfunction(getattr(testbed.stats, name))}
    documented = {
        name
        for module in (energy, sequences, stats_power)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert (exported | documented) - attacked == set()


# ---- errors name the arm and the task --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: reach_curve(arm("python", 5), [6]), "arm 'python', task 'a'"),
        (lambda: compare_arms(arm(n=4), arm("python", 1), elicitation=2), "arm 'python', task 'a'"),
        (lambda: ArmOutcomes.from_counts("python", ["a", "b"], [3, 3], [1, 4]), "arm 'python', task 'b'"),
        (lambda: ArmOutcomes.from_rows("python", ["a", "b"], [1, "won"]), "arm 'python', task 'b'.*'won'"),
        (lambda: ArmOutcomes.from_rows("python", ["a", "b"], [1, 0], costs={"usd": [1, -1]}), "'python', task 'b'"),
        (lambda: ArmOutcomes.from_rows("python", ["a", "b"], [1, 0], costs={"usd": [1, NAN]}), "'python', task 'b'"),
        (lambda: ArmOutcomes.from_rows("python", ["a", "a"], [1, 0], samples=[7, 7]), "'python', task 'a': sample 7"),
        (lambda: ArmOutcomes.from_rows("python", [], []), "arm 'python' has no attempts"),
        (lambda: align(arm(), arm("python", tasks="xyz")), "'bare' and 'python' have no task in common.*'a' and 'x'"),
        (lambda: ArmOutcomes.from_counts("python", ["a", "b"], [3, 0], 0).mean_cost("usd"), "arm 'python' has no cost"),
        (
            lambda: ArmOutcomes.from_rows("python", ["a", "b"], [1, None], costs={"usd": [1, 1]}).mean_cost("usd"),
            "arm 'python', task 'b': no scored attempt",
        ),
    ],
)
def test_the_error_names_the_arm_and_the_task(call: Callable[[], object], words: str) -> None:
    with pytest.raises(StatsError, match=words):
        call()


def test_one_cluster_gives_estimates_without_intervals_never_with_a_width_of_zero() -> None:
    found = compare_arms(arm(), arm("tool"), elicitation=4, replicates=100, clusters={"a": 1, "b": 1, "c": 1}).figures
    for figure in (found.gain, found.creation, found.loss, found.nats, found.support.srr, found.bare_pass1):
        assert figure.value is not None
        assert (figure.low, figure.high) == (None, None)
    assert not found.equivalent.interval


def test_an_arm_that_never_succeeds_is_not_certain_to_fail() -> None:
    never = ArmOutcomes.from_counts("bare", [str(i) for i in range(20)], 8, 0)
    found = compare_arms(never, never, elicitation=4, replicates=200).figures
    assert found.bare_pass1.value == 0
    assert (found.bare_pass1.high or 0) > 0.1
    assert (found.gain.low or 0) < 0 < (found.gain.high or 0)
    assert found.support.srr.value is None  # nothing was solved, so nothing was retained
    assert found.verdicts.counts["undetermined"] == 20
