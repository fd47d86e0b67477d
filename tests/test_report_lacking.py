"""What an analysis says, and what it does not claim, where something is missing or cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from helpers.outcomes import effect, outcomes, record, tasks_of
from testbed.errors import UnknownName, UsageError
from testbed.report.analyse import analyse
from testbed.report.record import Effect
from testbed.store import ArmRecord
from testbed.types import Task


def test_missing_attempts_are_counted_bounded_and_never_scored() -> None:
    tasks = tasks_of((("A-v0", "x", 4),))
    counts = {"bare": [(8, 4)] * 4, "python": [(8, 8)] * 4}
    found = analyse(outcomes(tasks, counts, missing={"python": 2}))
    python = found.arm("python")
    assert (python.missing, python.attempts, python.pass_1.value) == (2, 32, 1.0)
    assert python.if_missing is not None
    assert (python.if_missing.low, python.if_missing.high) == (pytest.approx((0.8 + 3) / 4), 1.0)
    assert found.arm("bare").if_missing is None
    assert any("python 2 of 34" in warning for warning in found.warnings)


def test_an_arm_without_a_scored_attempt_is_named_and_left_out() -> None:
    tasks = tasks_of((("A-v0", "x", 2),))
    data = outcomes(tasks, {"bare": [(4, 1)] * 2, "python": [(0, 0)] * 2}, missing={"python": 3})
    found = analyse(data)
    assert [arm.name for arm in found.arms] == ["bare"]
    assert any("'python' has no scored attempt" in warning for warning in found.warnings)


def test_one_arm_is_reported_without_comparison_and_says_so() -> None:
    found = analyse(outcomes(tasks_of((("A-v0", "x", 3),)), {"python": [(4, 2)] * 3}))
    assert found.comparisons == ()
    assert found.bare is None
    assert any("only one arm" in warning for warning in found.warnings)


def test_arms_of_which_none_is_bare_are_not_compared_unless_one_is_named() -> None:
    data = outcomes(tasks_of((("A-v0", "x", 3),)), {"cot": [(8, 2)] * 3, "react": [(8, 4)] * 3})
    found = analyse(data)
    assert found.comparisons == ()
    assert any("--bare" in warning for warning in found.warnings)
    named = analyse(data, bare="cot")
    assert [(c.bare, c.arm) for c in named.comparisons] == [("cot", "react")]


def test_an_unknown_bare_arm_is_refused_with_the_nearest_name() -> None:
    data = outcomes(tasks_of((("A-v0", "x", 3),)), {"bare": [(4, 2)] * 3, "python": [(4, 2)] * 3})
    with pytest.raises(UnknownName, match="Did you mean 'python'"):
        analyse(data, bare="pyhton")


def test_outcomes_without_a_scored_attempt_are_refused() -> None:
    data = outcomes(tasks_of((("A-v0", "x", 1),)), {"bare": [(0, 0)]}, missing={"bare": 2})
    with pytest.raises(UsageError, match="no scored attempt"):
        analyse(data, name="empty")


def test_too_few_bare_attempts_lower_the_elicitation_spend_and_are_said() -> None:
    tasks = tasks_of((("A-v0", "x", 12),))
    found = analyse(outcomes(tasks, {"bare": [(5, 1)] * 12, "python": [(3, 3)] * 12}), operating=4)
    (comparison,) = found.comparisons
    assert (comparison.operating, comparison.elicitation) == (2, 2)  # half of 5: the folds balance
    assert any("elicitation up to 2 instead of 16" in note for note in comparison.notes)
    assert any("read at 2 instead of 4" in note for note in comparison.notes)


def test_one_attempt_per_task_gives_the_gain_and_no_split() -> None:
    tasks = tasks_of((("A-v0", "x", 40),))
    counts = {"bare": [(1, 0)] * 30 + [(1, 1)] * 10, "python": [(1, 1)] * 36 + [(1, 0)] * 4}
    (comparison,) = analyse(outcomes(tasks, counts)).comparisons
    assert comparison.full is None
    assert comparison.elicitation is None
    assert comparison.gain.value == pytest.approx(26 / 40)
    s = comparison.solved
    assert (s.both, s.only_bare, s.only_arm, s.neither) == (6, 4, 30, 0)
    assert any("one attempt per task" in note for note in comparison.notes)


def test_arms_without_a_common_task_are_not_compared_and_it_is_said() -> None:
    tasks = tasks_of((("A-v0", "x", 4),))
    counts = {"bare": [(4, 1), (4, 1), (0, 0), (0, 0)], "python": [(0, 0), (0, 0), (4, 1), (4, 1)]}
    (comparison,) = analyse(outcomes(tasks, counts)).comparisons
    assert comparison.tasks == 0
    assert comparison.gain.value is None
    assert "nothing is compared" in comparison.notes[0]


def test_only_common_tasks_are_compared() -> None:
    tasks = tasks_of((("A-v0", "x", 12),))
    counts = {"bare": [(8, 2)] * 12, "python": [(8, 8)] * 10 + [(0, 0)] * 2}
    (comparison,) = analyse(outcomes(tasks, counts)).comparisons
    assert comparison.tasks == 10
    assert any(note.startswith("2 tasks") for note in comparison.notes)


def test_near_identical_trials_of_unknown_origin_are_flagged_and_nothing_is_claimed() -> None:
    tasks = tasks_of((("A-v0", "", 30),))
    counts = {"bare": [(5, 5)] * 10 + [(5, 0)] * 20, "react": [(5, 0)] * 10 + [(5, 5)] * 20}
    foreign = {name: ArmRecord(name, name, {"imported": True}) for name in counts}
    found = analyse(outcomes(tasks, counts, records=foreign), bare="bare")
    assert sum("nearly identical" in warning for warning in found.warnings) == 2
    assert not found.comparisons[0].claims
    assert effect(found, "A", "react").effects == (Effect.UNDETERMINED,)


@pytest.mark.parametrize(("sizes", "warned"), [((1, 8, 8, 1, 1), True), ((4, 4, 4), False), ((1, 2) * 20, False)])
def test_few_clusters_of_unequal_size_are_warned_of(sizes: Sequence[int], warned: bool) -> None:
    tasks = tuple(
        Task("A-v0", f"{cluster}.{i}", i, cluster=f"c{cluster}")
        for cluster, size in enumerate(sizes)
        for i in range(size)
    )
    counts = {"bare": [(4, 2)] * len(tasks), "python": [(4, 3)] * len(tasks)}
    found = analyse(outcomes(tasks, counts), replicates=100)
    assert any("clusters of unequal size" in warning for warning in found.warnings) == warned


def test_alike_attempts_that_were_sampled_here_are_not_flagged() -> None:
    tasks = tasks_of((("A-v0", "", 30),))
    counts = {"bare": [(5, 5)] * 10 + [(5, 0)] * 20, "python": [(5, 0)] * 10 + [(5, 5)] * 20}
    found = analyse(outcomes(tasks, counts))
    assert found.warnings == tuple(w for w in found.warnings if "identical" not in w)
    assert found.comparisons[0].claims


def test_an_arm_that_runs_another_model_is_named() -> None:
    tasks = tasks_of((("A-v0", "", 3),))
    counts = {"bare": [(4, 1)] * 3, "python": [(4, 1)] * 3}
    found = analyse(outcomes(tasks, counts, records={"python": record("python", model={"id": "other"})}))
    assert any("another model" in warning for warning in found.warnings)


def test_one_task_has_no_interval_rather_than_one_of_width_zero() -> None:
    found = analyse(outcomes(tasks_of((("A-v0", "x", 1),)), {"bare": [(8, 4)], "python": [(8, 8)]}))
    assert found.arm("bare").pass_1.value == 0.5
    assert found.arm("bare").pass_1.low is None
