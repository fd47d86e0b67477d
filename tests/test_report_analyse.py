"""What an analysis says of arms, groups of tasks and the ladder of controls."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.outcomes import demo, effect, outcomes, record, tasks_of
from testbed.errors import UsageError
from testbed.report.analyse import analyse
from testbed.report.record import Analysis, Effect
from testbed.stats import Verdict, compare_arms, reach_at_k
from testbed.store import ArmRecord
from testbed.types import Task


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(demo(), name="demo")


def test_an_arm_that_solves_what_bare_never_does_creates_it(analysis: Analysis) -> None:
    found = effect(analysis, "Multiplication", "python")
    assert found.effects == (Effect.CREATED,)
    assert found.verdicts[Verdict.EXPANDED] == 20
    assert (found.never_bare, found.bare_attempts) == (20, 256)


def test_an_arm_that_solves_at_once_what_bare_resamples_elicits_it(analysis: Analysis) -> None:
    found = effect(analysis, "Addition", "python")
    assert found.effects == (Effect.ELICITED,)
    assert found.elicitation is not None
    assert found.elicitation.value == pytest.approx(0.75, abs=0.02)


def test_an_arm_that_fails_where_bare_succeeds_loses_it(analysis: Analysis) -> None:
    assert effect(analysis, "Addition", "search").effects == (Effect.LOST,)


@pytest.mark.parametrize("label", ["Multiplication", "Addition", "Facts"])
def test_an_arm_like_bare_is_seen_to_do_nothing(analysis: Analysis, label: str) -> None:
    assert effect(analysis, label, "inert").effects == (Effect.NOTHING,)


def test_the_figures_of_a_comparison_are_those_of_stats(analysis: Analysis) -> None:
    comparison = next(c for c in analysis.comparisons if c.arm == "python")
    assert comparison.full is not None
    figures = comparison.full.figures
    assert figures.gain.value == pytest.approx(1 / 3 + 0.75 / 3)
    assert figures.creation.value == pytest.approx(1 / 3, abs=0.02)
    assert figures.verdicts.counts["expanded"] == 20
    parts = (figures.elicitation_part.value or 0) + (figures.creation.value or 0) - (figures.loss.value or 0)
    assert figures.gain.value == pytest.approx(parts)


def test_every_comparison_has_a_null_row_that_shows_no_gain(analysis: Analysis) -> None:
    for comparison in analysis.comparisons:
        assert comparison.full is not None
        null = comparison.full.null
        assert null is not None
        assert null.gain.low is not None
        assert null.gain.high is not None
        assert null.gain.low <= 0 <= null.gain.high


def test_pass_1_and_reach_of_an_arm_are_means_over_tasks(analysis: Analysis) -> None:
    bare = analysis.arm("bare")
    assert bare.pass_1.value == pytest.approx(0.25 / 3)
    assert bare.elicitation.k == 16
    assert bare.elicitation.estimate.value == pytest.approx(float(reach_at_k(256, 64, 16)) / 3)
    assert (bare.tasks, bare.attempts, bare.solved) == (60, 60 * 256, 20)


def test_an_environment_with_one_group_is_listed_once_and_one_with_several_with_its_groups() -> None:
    tasks = tasks_of((("A-v0", "x", 2), ("A-v0", "y", 3), ("B-v1", "z", 2), ("C-v0", "", 1)))
    found = analyse(outcomes(tasks, {"bare": [(4, 1)] * 8, "python": [(4, 3)] * 8}))
    listed = [(g.within, g.label, g.tasks) for g in found.groups]
    assert listed == [("", "A", 5), ("A", "x", 2), ("A", "y", 3), ("", "B", 2), ("", "C", 1)]


def test_groups_may_be_labelled_by_the_caller() -> None:
    tasks = tasks_of((("A-v0", "x", 4),))
    found = analyse(outcomes(tasks, {"bare": [(4, 1)] * 4}), groups=lambda task: f"even {task.reference % 2 == 0}")
    assert [g.label for g in found.groups] == ["A", "even True", "even False"]


def test_the_ladder_steps_through_every_control_of_one_tool_set() -> None:
    tasks = tasks_of((("A-v0", "x", 10),))
    counts = {"bare": [(8, 0)] * 10, "inert": [(8, 2)] * 10, "yoked": [(8, 4)] * 10, "all": [(8, 8)] * 10}
    found = analyse(outcomes(tasks, counts)).ladder
    assert [(r.lower, r.upper, r.meaning) for r in found] == [
        ("bare", "inert", "scaffold"),
        ("inert", "yoked", "information"),
        ("yoked", "all", "interaction"),
    ]
    assert [r.difference.value for r in found] == [pytest.approx(x) for x in (0.25, 0.25, 0.5)]


def test_a_ladder_never_steps_between_models_or_contents_of_tools() -> None:
    """A step says what it adds, so nothing else may change on it."""
    tasks = tasks_of((("A-v0", "x", 10),))
    counts = {name: [(8, 4)] * 10 for name in ("bare", "inert", "yoked", "all")}

    def steps(**changed: ArmRecord) -> list[tuple[str, str]]:
        records = {name: changed.get(name, ladder_arm(name)) for name in counts}
        return [(r.lower, r.upper) for r in analyse(outcomes(tasks, counts, records=records), replicates=100).ladder]

    assert steps() == [("bare", "inert"), ("inert", "yoked"), ("yoked", "all")]
    assert steps(inert=ladder_arm("inert", model="rl")) == [("bare", "yoked"), ("yoked", "all")]
    assert steps(yoked=ladder_arm("yoked", corpus="new")) == [("bare", "inert"), ("inert", "all")]
    assert steps(bare=ladder_arm("bare", model="base")) == [("inert", "yoked"), ("yoked", "all")]


def ladder_arm(name: str, *, model: str = "sft", corpus: str = "old") -> ArmRecord:
    content: dict[str, object] = {"index": corpus}
    if name in ("inert", "yoked"):
        content = {"control": name, "of": content}
    tools = [{"schema": {"function": {"name": "search"}}, "content": content}] if name != "bare" else []
    return record(name, model={"weights": model}, tools=tools)


def test_there_is_no_ladder_without_a_placebo_of_the_same_tools() -> None:
    tasks = tasks_of((("A-v0", "x", 2),))
    counts = {"bare": [(4, 0)] * 2, "inert": [(4, 0)] * 2, "python": [(4, 4)] * 2}
    assert analyse(outcomes(tasks, counts)).ladder == ()


def test_support_is_read_at_the_same_attempts_in_both_arms() -> None:
    """A policy that is the bare one, with 4 attempts beside 160, retains what equal samples of one policy do."""
    rng = np.random.default_rng(5)
    chances = rng.beta(0.4, 2, 60)
    counts = {name: [(n, int(rng.binomial(n, p))) for p in chances] for name, n in (("bare", 160), ("python", 4))}
    found = analyse(outcomes(tasks_of([("A-v0", "", 60)]), counts), replicates=200)
    full = found.comparisons[0].full
    assert full is not None
    assert full.null is not None
    assert full.figures.support.spend == 4
    reach = 1 - (1 - chances) ** 4
    truth = (reach**2).sum() / reach.sum()
    nscr = full.figures.support.nscr
    assert full.figures.support.srr.low < truth < full.figures.support.srr.high
    assert nscr.low < 0 < nscr.high
    assert any("the two are not comparable" in note for note in found.comparisons[0].notes)


def test_intervals_resample_clusters_not_tasks() -> None:
    tasks = tuple(Task("A-v0", f"{i}", i, cluster=str(i % 2)) for i in range(20))
    counts = {"bare": [(4, 4 * (i % 2)) for i in range(20)]}
    clustered = analyse(outcomes(tasks, counts)).arm("bare").pass_1
    free = analyse(outcomes(tuple(Task("A-v0", f"{i}", i) for i in range(20)), counts)).arm("bare").pass_1
    assert clustered.low is not None
    assert clustered.high is not None
    assert free.low is not None
    assert free.high is not None
    assert clustered.high - clustered.low > 2 * (free.high - free.low)


def test_settings_as_json_hold_the_six_that_the_figures_depend_on(analysis: Analysis) -> None:
    assert list(analysis.as_dict()["settings"]) == ["operating", "elicitation", "rho", "alpha", "replicates", "seed"]
    assert analysis.as_dict()["bare"] == "bare"


def test_the_same_outcomes_give_the_same_analysis(analysis: Analysis) -> None:
    assert analyse(demo(), name="demo").as_dict() == analysis.as_dict()


def test_the_analysis_is_plain_json_without_nan(analysis: Analysis) -> None:
    text = json.dumps(analysis.as_dict(), allow_nan=False)
    back = json.loads(text)
    assert back["bare"] == "bare"
    assert back["comparisons"][1]["full"]["figures"]["gain"]["value"] == pytest.approx(1 / 3 + 0.75 / 3)


def test_the_settings_reach_the_verdicts(analysis: Analysis) -> None:
    strict = analyse(demo(), rho=0.99, alpha=0.001)
    comparison = next(c for c in strict.comparisons if c.arm == "python")
    assert comparison.full is not None
    assert comparison.full.rho == 0.99
    assert comparison.full.alpha == 0.001
    assert strict.settings.level == "99.9%"
    with pytest.raises(UsageError, match="alpha"):
        analyse(demo(), alpha=0)


def test_the_parts_of_a_group_are_those_that_stats_gives_for_its_tasks() -> None:
    """A group is a slice of the whole comparison: the same figures as comparing its tasks alone."""
    from testbed.report.analyse import scored_arms
    from testbed.report.arms import Arm

    data = demo()
    analysis = analyse(data)
    arms: dict[str, Arm] = {arm.name: arm for arm in scored_arms(data)}
    tasks = [task.hash for task in data.tasks if task.environment == "Addition-v0"]
    alone = compare_arms(arms["bare"].on(tasks), arms["search"].on(tasks), elicitation=16)
    found = effect(analysis, "Addition", "search")
    assert found.loss is not None
    assert found.loss.value == pytest.approx(alone.figures.loss.value)
    assert found.gain.low == pytest.approx(alone.figures.gain.low)
    assert found.verdicts == {v: alone.figures.verdicts.counts[v.value] for v in Verdict}
