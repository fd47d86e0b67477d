from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from testbed.errors import UnknownName, UsageError
from testbed.report.analyse import analyse, analyse_run
from testbed.report.record import Analysis, Effect, GroupEffect
from testbed.stats import Verdict, cluster_bootstrap, compare_arms, reach_at_k
from testbed.store import ArmRecord, Outcomes, Run, Store
from testbed.transfer import Columns, import_outcomes
from testbed.types import COST_COMPONENTS, Attempt, Cost, Status, Task, attempt_id

TOOLS = {"bare": (), "inert": ("python", "search"), "yoked": ("python", "search"), "all": ("python", "search")}
CONTROLS = {"bare": "absent", "inert": "inert", "yoked": "yoked"}


def record(name: str, **spec: object) -> ArmRecord:
    tools = [{"schema": {"function": {"name": tool}}} for tool in TOOLS.get(name, (name,))]
    control = CONTROLS.get(name, "live")
    whole = {"control": control, "tools": tools, "model": {"id": "m"}, "sampling": {"temperature": 1.0}, **spec}
    return ArmRecord(f"hash of {name}", name, whole)


def tasks_of(groups: Sequence[tuple[str, str, int]]) -> tuple[Task, ...]:
    return tuple(
        Task(environment, f"{environment} {family} {i}", i, meta={"family": family} if family else {})
        for environment, family, size in groups
        for i in range(size)
    )


def outcomes(
    tasks: Sequence[Task],
    counts: Mapping[str, Sequence[tuple[int, int]]],
    *,
    records: Mapping[str, ArmRecord] | None = None,
    missing: Mapping[str, int] | None = None,
    cost: Mapping[str, Mapping[str, float]] | None = None,
    faults: Mapping[str, int] | None = None,
) -> Outcomes:
    """Outcomes with (attempts, successes) per task and arm; successes are spread over the attempts."""
    rows: list[tuple[int, int, int, int]] = []
    for position, (arm, per_task) in enumerate(counts.items()):
        for task, (n, c) in enumerate(per_task):
            solved = set(np.linspace(0, n - 1, c).round().astype(int).tolist()) if c else set()
            rows += [(task, position, i, int(i in solved)) for i in range(n)]
        rows += [(0, position, per_task[0][0] + i, -1) for i in range((missing or {}).get(arm, 0))]
    task, arm_, sample, success = (np.array(column) for column in zip(*rows, strict=True))
    amounts = np.zeros((len(rows), len(COST_COMPONENTS)))
    wrong = np.zeros(len(rows), np.int32)
    for position, name in enumerate(counts):
        for component, amount in (cost or {}).get(name, {}).items():
            amounts[arm_ == position, COST_COMPONENTS.index(component)] = amount
        wrong[np.flatnonzero(arm_ == position)[: (faults or {}).get(name, 0)]] = 1
    return Outcomes(
        tasks=tuple(tasks),
        arms=tuple((records or {}).get(name, record(name)) for name in counts),
        task=task.astype(np.int32),
        arm=arm_.astype(np.int32),
        sample=sample.astype(np.int32),
        success=success.astype(np.int8),
        cost=amounts,
        ended=np.where(success < 0, "missing:sandbox_died", "answered"),
        faults=wrong,
        redrawn=np.zeros(len(rows), np.bool_),
    )


ARITHMETIC = (("Multiplication-v0", "4 digits", 20), ("Addition-v0", "2 digits", 20), ("Facts-v0", "document", 20))


def demo() -> Outcomes:
    """Python creates long products and elicits sums, search creates facts and breaks sums, inert changes nothing."""
    zero, low, half, high = [(256, 0)] * 20, [(256, 64)] * 20, [(16, 4)] * 20, [(16, 16)] * 20
    none = [(16, 0)] * 20
    return outcomes(
        tasks_of(ARITHMETIC),
        {
            "bare": [*zero, *low, *zero],
            "inert": [*none, *half, *none],
            "python": [*high, *high, *none],
            "search": [*none, *none, *high],
        },
    )


def effect(analysis: Analysis, label: str, arm: str) -> GroupEffect:
    group = next(g for g in analysis.groups if g.label == label)
    return next(e for e in group.effects if e.arm == arm)


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


def test_costs_are_means_per_attempt_and_totals_per_success() -> None:
    tasks = tasks_of((("A-v0", "x", 2),))
    cost = {"bare": {"generated_tokens": 10}, "python": {"generated_tokens": 30, "tool_calls": 2}}
    data = outcomes(tasks, {"bare": [(4, 0)] * 2, "python": [(4, 1)] * 2}, cost=cost, faults={"bare": 3})
    found = analyse(data)
    bare, python = found.arm("bare"), found.arm("python")
    assert python.cost == {"generated_tokens": 30, "tool_calls": 2}
    assert python.cost_per_success == {"generated_tokens": 120, "tool_calls": 8}
    assert bare.cost["tool_calls"] == 0
    assert bare.cost_per_success["generated_tokens"] is None  # no success to divide by
    assert (bare.faults, bare.faulty, python.faults) == (3, 3, 0)


def test_reach_curves_run_on_attempts_tokens_and_calls_and_end_where_a_task_ran_out() -> None:
    tasks = tasks_of((("A-v0", "x", 12),))
    cost = {"generated_tokens": 10.0, "model_calls": 2.0}
    data = outcomes(
        tasks, {"bare": [(40, 0)] * 6 + [(20, 10)] * 6, "python": [(8, 8)] * 12}, cost={"bare": cost, "python": cost}
    )
    found = {(curve.arm, curve.axis): curve for curve in analyse(data).curves}
    assert {axis for _, axis in found} == {"attempts", "generated_tokens", "model_calls"}
    assert found["bare", "attempts"].spend[-1] == 20
    for axis, one in cost.items():
        curve = found["bare", axis]
        assert curve.spend[-1] == pytest.approx(20 * one)
        # equal costs: reach on a cost axis is reach@k
        assert curve.reach[-1] == pytest.approx(0.5 * float(reach_at_k(20, 10, 20)))
        assert curve.reach[0] == pytest.approx(0.25)
        assert curve.low is not None
        assert curve.high is not None
        assert all(low <= r <= high for low, r, high in zip(curve.low, curve.reach, curve.high, strict=True))


def test_the_curves_of_an_axis_share_a_grid_and_one_band_around_all_of_them() -> None:
    tasks = tasks_of((("A-v0", "x", 30),))
    solved = np.random.default_rng(0).binomial(20, np.random.default_rng(1).beta(0.5, 2, 30)).tolist()
    data = outcomes(tasks, {"bare": [(20, c) for c in solved], "python": [(8, c // 3) for c in solved]})
    bare, python = analyse(data).curves
    assert set(python.spend) == {spend for spend in bare.spend if spend <= 8}
    pointwise = cluster_bootstrap(
        reach_at_k(20, np.array(solved)[:, None], np.array(bare.spend).astype(int)), clusters=[t.hash for t in tasks]
    ).intervals()
    assert bare.low is not None
    assert bare.high is not None
    assert pointwise.high is not None
    assert (np.array(bare.high) > pointwise.high + 0.005).mean() > 0.8
    assert list(bare.low) == sorted(bare.low)
    assert list(bare.high) == sorted(bare.high)


def test_an_axis_that_costs_nothing_has_no_curve() -> None:
    tasks = tasks_of((("A-v0", "x", 3),))
    data = outcomes(tasks, {"bare": [(4, 1)] * 3, "python": [(4, 2)] * 3}, cost={"python": {"model_calls": 1.0}})
    assert {(c.arm, c.axis) for c in analyse(data).curves} == {
        ("bare", "attempts"),
        ("python", "attempts"),
        ("python", "model_calls"),
    }


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


def test_there_is_no_ladder_without_a_placebo_of_the_same_tools() -> None:
    tasks = tasks_of((("A-v0", "x", 2),))
    counts = {"bare": [(4, 0)] * 2, "inert": [(4, 0)] * 2, "python": [(4, 4)] * 2}
    assert analyse(outcomes(tasks, counts)).ladder == ()


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


def test_costs_that_are_recorded_of_some_attempts_only_make_no_figure_and_are_named() -> None:
    counts = {"bare": [(4, 2)] * 12, "python": [(4, 3)] * 12}
    found = outcomes(tasks_of([("A-v0", "", 12)]), counts, cost={"bare": {"usd": 3.0}, "python": {"usd": 3.0}})
    usd = COST_COMPONENTS.index("usd")
    found.cost[(found.arm == 0) & (found.sample == 1), usd] = np.nan
    report = analyse(found, replicates=100)
    assert "usd" not in report.arm("bare").cost
    assert report.arm("python").cost["usd"] == 3.0
    assert any("'bare': usd are recorded of 36 of its 48 attempts" in warning for warning in report.warnings)


def test_costs_that_missing_attempts_lack_are_no_loss() -> None:
    counts = {"bare": [(4, 2)] * 12, "python": [(4, 3)] * 12}
    found = outcomes(tasks_of([("A-v0", "", 12)]), counts, cost={"bare": {"usd": 3.0}}, missing={"bare": 2})
    found.cost[found.success < 0] = np.nan
    report = analyse(found, replicates=100)
    assert report.arm("bare").cost["usd"] == 3.0
    assert not any("recorded of" in warning for warning in report.warnings)


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


def test_one_task_has_no_interval_rather_than_one_of_width_zero() -> None:
    found = analyse(outcomes(tasks_of((("A-v0", "x", 1),)), {"bare": [(8, 4)], "python": [(8, 8)]}))
    assert found.arm("bare").pass_1.value == 0.5
    assert found.arm("bare").pass_1.low is None


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


async def test_an_unfinished_run_is_analysed_with_its_experiments_settings_and_says_how_far_it_came(
    tmp_path: Path,
) -> None:
    tasks = tasks_of((("A-v0", "x", 3),))
    arms = (record("bare"), record("python"))
    experiment = {"measure": {"elicitation": 3, "alpha": 0.1, "bare": "python"}}
    run = Run("mine", experiment, 5, arms, "2026-01-01T00:00:00+00:00", {"bare": 8, "python": 8})
    with Store.open(tmp_path / "s.sqlite") as store:
        store.add_run(run, tasks)
        async with store.writer() as writer:
            for task in tasks:
                for arm in arms:
                    for sample in range(6):
                        id_ = attempt_id(task.hash, arm.hash, sample, 5)
                        ended, solved = "answered", arm.name == "python"
                        await writer.add(
                            Attempt(
                                id_, task.hash, arm.hash, sample, 5, Status.COMPLETE, ended, solved, None, "1", Cost()
                            )
                        )
        found = analyse_run(store, "mine")
        assert (found.settings.elicitation, found.settings.alpha) == (3, 0.1)
        assert found.bare == "python"  # the experiment's choice …
        assert analyse_run(store, "mine", bare="bare").bare == "bare"  # … unless the caller makes another
        assert found.comparisons[0].gain.value == -1.0
        assert found.warnings[0] == "The run is not finished: 36 of 48 attempts were made."


def test_an_imported_run_is_analysed(tmp_path: Path) -> None:
    rows = ["task,arm,sample,ok"]
    rows += [f"t{t},{arm},{s},{int(arm == 'react')}" for t in range(12) for arm in ("cot", "react") for s in range(6)]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with Store.open(tmp_path / "s.sqlite") as store:
        columns = Columns.parse(task="task", arm="arm", sample="sample", success="ok")
        import_outcomes(store, tmp_path / "rows.csv", "mine", columns)
        found = analyse_run(store, "mine", bare="cot")
        assert (found.name, found.tasks, found.bare) == ("mine", 12, "cot")
        assert found.comparisons[0].gain.value == 1.0
        with pytest.raises(UnknownName):
            analyse_run(store, "yours")


def test_game24_logs_show_what_thinking_lost_and_reached(tmp_path: Path, data_dir: Path) -> None:
    logs = data_dir / "game24"
    with Store.open(tmp_path / "s.sqlite") as store:
        for kind, success, arm in (("standard", "accs[]", "IO"), ("cot", "infos[].r", "CoT")):
            file = logs / f"gpt-4_0.7_naive_{kind}_sample_100_start900_end1000.json"
            import_outcomes(store, file, "game24", Columns.parse(task="idx", success=success, arm=f"={arm}"))
        found = analyse_run(store, "game24", bare="IO")
    assert found.arm("IO").pass_1.value == pytest.approx(0.073, abs=5e-4)
    assert (found.arm("IO").solved, found.arm("CoT").solved) == (33, 49)
    (comparison,) = found.comparisons
    assert comparison.elicitation == 16
    assert comparison.gain.value == pytest.approx(0.040 - 0.073, abs=1e-3)


def test_hotpot_logs_give_15_against_14_and_a_warning_that_trials_repeat(tmp_path: Path, data_dir: Path) -> None:
    columns = Columns.parse(task="question", arm="mode", sample="trial", success="outcome=correct")
    with Store.open(tmp_path / "s.sqlite") as store:
        import_outcomes(store, data_dir / "hotpot100_react_vs_cot" / "runs.csv.gz", "hotpot", columns)
        found = analyse_run(store, "hotpot", bare="cot_closed_book")
    (comparison,) = found.comparisons
    assert (comparison.solved.only_arm, comparison.solved.only_bare) == (15, 14)
    assert not comparison.claims
    assert any("nearly identical" in warning for warning in found.warnings)


def test_intercode_logs_with_one_attempt_give_94_against_762_and_the_gain_only(tmp_path: Path, data_dir: Path) -> None:
    columns = Columns.parse(
        task="task_id", arm="config", success="max_reward>=1", where=["env=sql", "model=gpt-4"], cost=["turns=turns"]
    )
    with Store.open(tmp_path / "s.sqlite") as store:
        import_outcomes(store, data_dir / "intercode_runs" / "runs.csv.gz", "sql", columns)
        found = analyse_run(store, "sql", bare="ic_sql_multiturn_gpt-4_1_turns")
    (comparison,) = found.comparisons
    assert {arm.name: arm.solved for arm in found.arms} == {
        "ic_sql_multiturn_gpt-4_1_turns": 94,
        "ic_sql_multiturn_gpt-4_10_turns": 762,
    }
    assert comparison.full is None
    assert comparison.gain.value == pytest.approx((762 - 94) / 1034)


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
