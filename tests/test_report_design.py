"""What the report makes of stopped sampling, of missing attempts, and of a second bare arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.report.analyse import analyse, analyse_run
from testbed.report.charts import charts
from testbed.report.design import asked_for
from testbed.report.record import Analysis
from testbed.report.tables import every_table
from testbed.report.words import null_note, reading
from testbed.stats import Verdict, p_star, reach_at_k
from testbed.stats.stopping import StoppingRule
from testbed.store import ArmRecord, Outcomes, Run, Store
from testbed.types import COST_COMPONENTS, Attempt, Cost, Status, Task, attempt_id

RULE = StoppingRule(16, 256, 16)


def record(name: str, control: str = "absent", **spec: Any) -> ArmRecord:
    tools = [] if control == "absent" else [{"schema": {"function": {"name": "python"}}}]
    whole = {"control": control, "tools": tools, "model": {"id": "m"}, "sampling": {"temperature": 1.0}, **spec}
    return ArmRecord(f"hash of {name}", name, whole)


def pairs(*arms: tuple[ArmRecord, Sequence[Sequence[int]]], cost: float = 0.0, ended: str = "answer") -> Outcomes:
    """Outcomes by arm, task and sample: 1, 0, or −1 for missing."""
    rows = [
        (task, arm, sample, value)
        for arm, (_, tasks) in enumerate(arms)
        for task, values in enumerate(tasks)
        for sample, value in enumerate(values)
    ]
    task, arm, sample, success = (np.array(column) for column in zip(*rows, strict=True))
    amounts = np.zeros((len(rows), len(COST_COMPONENTS)))
    amounts[:, 0] = cost * np.arange(1, len(rows) + 1)
    return Outcomes(
        tasks=tuple(Task("Say-v0", f"Say {i}", str(i)) for i in range(max(task) + 1)),
        arms=tuple(record for record, _ in arms),
        task=task.astype(np.int32),
        arm=arm.astype(np.int32),
        sample=sample.astype(np.int32),
        success=success.astype(np.int8),
        cost=amounts,
        ended=np.where(success < 0, "missing:sandbox_died", ended),
        faults=np.zeros(len(rows), np.int32),
        redrawn=np.zeros(len(rows), np.bool_),
    )


def stopped(chance: float | Sequence[float], tasks: int, rng: np.random.Generator) -> list[list[int]]:
    """Sequences of attempts that stop where the rule says."""
    found = []
    for p in np.broadcast_to(chance, tasks):
        values = (rng.random(RULE.most) < p).astype(int).tolist()
        found.append(values[: RULE.blocks(values)[-1]])
    return found


BARE, TOOL = record("bare"), record("python", "live")


def adaptive(tasks: int = 40, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    chances = np.resize([0.0, 0.06, 0.3, 1.0], tasks)
    return pairs((BARE, stopped(chances, tasks, rng)), (TOOL, stopped(1 - chances, tasks, rng)))


def test_after_stopping_early_means_are_of_the_attempts_fixed_in_advance_and_verdicts_of_all() -> None:
    data = adaptive()
    found = analyse(data, rules={"bare": RULE, "python": RULE}, replicates=100)
    first = replace_rows(data, data.sample < 16)
    fixed = analyse(first, replicates=100)
    (one,), (other,) = found.comparisons, fixed.comparisons
    assert one.full is not None
    assert other.full is not None
    for name in ("gain", "creation", "loss", "nats", "bare_pass1", "tool_elicitation"):
        assert getattr(one.full.figures, name) == getattr(other.full.figures, name)
    assert found.arm("bare").pass_1 == fixed.arm("bare").pass_1
    assert [c.reach for c in found.curves] == [c.reach for c in fixed.curves]
    assert found.arm("bare").attempts == int(np.count_nonzero(data.arm == 0))
    assert found.arm("bare").fixed == 16
    assert one.full.figures.verdicts.counts["expanded"] == 10  # bare p = 0, which 16 attempts cannot show
    assert other.full.figures.verdicts.counts["expanded"] == 0
    assert int(one.full.figures.verdicts.spent.sum()) == len(data.task)
    (group,) = found.groups
    assert group.effects[0].verdicts[Verdict.EXPANDED] == 10
    assert group.effects[0].never_bare == 10
    assert group.arms[0].attempts == found.arm("bare").attempts


def replace_rows(data: Outcomes, kept: np.ndarray) -> Outcomes:
    columns = ("task", "arm", "sample", "success", "cost", "ended", "faults", "redrawn")
    return replace(data, **{name: getattr(data, name)[kept] for name in columns})


def test_the_mean_of_all_attempts_would_be_biased_and_the_reported_one_is_not() -> None:
    rng = np.random.default_rng(5)
    tasks, p = 3000, 0.1
    data = pairs((BARE, stopped(p, tasks, rng)))
    found = analyse(data, rules={"bare": RULE}, replicates=100)
    n, c = (np.bincount(data.task, weights=w, minlength=tasks) for w in (np.ones(len(data.task)), data.success))
    naive, error = float((c / n).mean()), np.sqrt(p * (1 - p) / (16 * tasks))
    assert naive > p + 10 * error  # lucky tasks stop early and keep their luck
    assert found.arm("bare").pass_1.value == pytest.approx(p, abs=4 * error)


def test_the_report_says_which_attempts_its_figures_are_of() -> None:
    rule = replace(RULE, least=32)
    data = adaptive()
    found = analyse(data, rules={"bare": RULE, "python": RULE}, replicates=100)
    assert "the first 16 attempts of each task in bare and python, which were fixed in advance" in reading(found)
    assert "Verdicts are made from all attempts" in reading(found)
    assert ("16-256", "first 16 read") in [row.cells[0] for row in table(found, "arms").rows]
    different = analyse(data, rules={"bare": rule, "python": RULE}, replicates=100)
    assert "32 attempts of each task in bare; 16 attempts of each task in python" in reading(different)
    assert "fixed in advance" not in reading(analyse(data, replicates=100))
    alone = analyse(replace_rows(data, data.arm == 0), rules={"bare": RULE}, replicates=100)
    assert reading(alone).startswith("Sampling of a task stopped")


def test_verdicts_that_do_not_survive_e_bh_for_want_of_evidence_say_why() -> None:
    found = analyse(adaptive(), rules={"bare": RULE, "python": RULE}, replicates=100)
    (note,) = [note for note in table(found, "verdicts").notes if "e-BH" in note]
    assert "python 0 of 10 expanded" in note
    assert 'stop = "discovery"' in note


def table(analysis: Analysis, key: str) -> Any:
    return next(t for t in every_table(analysis) if t.key == key)


def test_the_null_row_takes_its_verdicts_from_halves_of_all_bare_attempts() -> None:
    found = analyse(adaptive(), rules={"bare": RULE, "python": RULE}, replicates=100)
    assert found.comparisons[0].full is not None
    null = found.comparisons[0].full.null
    assert null is not None
    assert null.elicitation == 7  # half of the 16 fixed ones, less one to choose with
    assert null.verdicts.spent.max() > 200
    assert null.verdicts.bare.p_out[0] == p_star(0.5, 16)  # verdicts are read at the spend asked for
    assert null.verdicts.counts["expanded"] == null.verdicts.counts["lost"] == 0


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "s.sqlite") as opened:
        yield opened


def kept(store: Store, data: Outcomes, experiment: Mapping[str, Any], samples: Mapping[str, int]) -> None:
    """Puts outcomes into a store as a run."""
    import asyncio

    run = Run("r", dict(experiment), 0, data.arms, "2026-01-01", dict(samples))
    store.add_run(run, data.tasks)

    async def write() -> None:
        async with store.writer() as writer:
            for task, arm, sample, success in zip(data.task, data.arm, data.sample, data.success, strict=True):
                hashes = data.tasks[task].hash, data.arms[arm].hash
                await writer.add(
                    Attempt(
                        id=attempt_id(*hashes, int(sample), 0), task=hashes[0], arm=hashes[1], sample=int(sample),
                        seed=0, status=Status.COMPLETE if success >= 0 else Status.MISSING,
                        ended="answer" if success >= 0 else "missing:sandbox_died",
                        success=None if success < 0 else bool(success), score=None, answer=None, cost=Cost(),
                        faults={}, transcript=[],
                    )
                )  # fmt: skip

    asyncio.run(write())


SAMPLES = {"min": 16, "max": 256, "stop": "verdict"}
EXPERIMENT = {"samples": SAMPLES, "arm": [{"name": "bare"}, {"name": "python", "tools": ["python"]}]}


def test_a_run_in_the_store_is_read_by_the_rule_that_it_stopped_by(store: Store) -> None:
    kept(store, adaptive(), EXPERIMENT, {"bare": 256, "python": 256})
    found = analyse_run(store, "r")
    assert found.arm("bare").fixed == 16
    assert not any("not finished" in warning for warning in found.warnings)


def test_a_run_stopped_by_hand_says_how_much_its_rule_still_wants(store: Store) -> None:
    data = adaptive()
    lacking = (data.arm == 1) & (data.task == 0) | (data.arm == 0) & (data.task == 0) & (data.sample >= 40)
    kept(store, replace_rows(data, ~lacking), EXPERIMENT, {"bare": 256, "python": 256})
    warning = next(w for w in analyse_run(store, "r").warnings if "not finished" in w)
    # The tool arm's first 16 at that task, and the bare arm's block of which eight were made.
    assert f"{np.count_nonzero(~lacking):,} attempts were made, and at least 24 further ones are wanted" in warning


def test_missing_attempts_that_the_rule_no_longer_asks_for_are_no_loss() -> None:
    cells = [[1] * 16 + [-1] * 16, [1] * 15 + [-1]]
    found = analyse(pairs((BARE, cells)), rules={"bare": RULE}, replicates=100)
    assert found.arm("bare").missing == 1


def test_attempts_that_another_run_made_beyond_the_rule_are_counted_and_told() -> None:
    settled = [[1] * 16, [0] * 144]
    told = "Attempts beyond what the stopping rule asks for"
    exact = analyse(pairs((BARE, settled), (TOOL, settled)), rules={"bare": RULE, "python": RULE}, replicates=100)
    assert not any(told in warning for warning in exact.warnings)
    more = [[1] * 16 + [0] * 8, [0] * 150]
    found = analyse(pairs((BARE, more), (TOOL, settled)), rules={"bare": RULE, "python": RULE}, replicates=100)
    assert [warning for warning in found.warnings if told in warning] == [
        f"{told} now, as another run in this store made them or missing ones were made up for: bare 14. Verdicts use "
        "them and keep their level; nothing else does."
    ]
    assert found.arm("bare").pass_1 == exact.arm("bare").pass_1
    assert found.arm("bare").attempts == exact.arm("bare").attempts + 14


def test_a_live_arm_is_asked_for_more_where_a_yoked_one_is_not_settled_by_what_it_can_replay() -> None:
    live = record("python", "live")
    yoked = record("yoked", "yoked", yoke=live.hash)
    rng = np.random.default_rng(0)
    cells = stopped([0.0, 1.0], 2, rng)
    data = pairs((yoked, [[0] * 16, [0] * 16]), (live, cells))
    asked = asked_for(data, {"python": RULE, "yoked": RULE})
    assert [len(own) for own in cells] == [144, 16]
    assert asked["python"].tolist() == [144, 32]  # settled at 16, but 16 failures settle nothing of the yoked arm
    assert asked["yoked"].tolist() == [32, 16]  # more of it once the live arm has more


def ragged(seed: int, tasks: int = 30) -> list[list[int]]:
    return (np.random.default_rng(seed).random((tasks, 24)) < 0.3).astype(int).tolist()


def test_a_second_bare_arm_makes_the_null_row() -> None:
    again = record("again", budget={"turns": 9})
    data = pairs((BARE, ragged(0)), (again, ragged(1)), (TOOL, ragged(2)), cost=1)
    found = analyse(data, replicates=100)
    full = found.comparisons[1].full
    assert full is not None
    assert full.null is not None
    assert full.null.tool == "again"
    assert full.null.elicitation == full.figures.elicitation == 12  # not halved once more
    assert full.null.tool_pass1.value == pytest.approx(np.mean(ragged(1)))
    assert "the bare arm and again, a second sample of it" in null_note(found)


@pytest.mark.parametrize("name", ["null row", " Null  ROW at 11"])
def test_an_arm_that_is_called_like_the_null_row_is_not_taken_for_it(name: str) -> None:
    data = pairs((BARE, ragged(0)), (record(name, "live"), [[1] * 24] * 30), cost=1)
    found = analyse(data, replicates=100)
    for key in ("gain", "verdicts", "support", "equivalents"):
        heads = [row.head for row in table(found, key).rows if row.kind == "null"]
        assert [head.split(" at ")[0] for head in heads] == ["null row (no arm)"], key
    for chart in charts(found):
        if chart.key in ("gain", "verdicts"):
            rows = [row["arm"] for rows in chart.spec["datasets"].values() for row in rows if "arm" in row]
            assert set(rows) == {name, "null row (no arm)"}
    assert "The null row (no arm) compares" in null_note(found)


@pytest.mark.parametrize(
    ("spec", "ended"),
    [({"model": {"id": "other"}}, "answer"), ({"sampling": {"temperature": 0.5}}, "answer"),
     ({"budget": {"turns": 9}}, "limit:turns")],
)  # fmt: skip
def test_a_bare_arm_that_differs_in_what_matters_is_no_null(spec: dict[str, Any], ended: str) -> None:
    data = pairs((BARE, ragged(0)), (record("again", **spec), ragged(1)), cost=1, ended=ended)
    full = analyse(data, replicates=100).comparisons[0].full
    assert full is not None
    assert full.null is not None
    assert full.null.tool == "bare (half 2)"


def test_a_bare_arm_that_repeats_the_other_attempt_by_attempt_is_no_null() -> None:
    data = pairs((BARE, ragged(0)), (record("again", budget={"turns": 9}), ragged(0)))
    found = analyse(data, replicates=100)
    full = found.comparisons[0].full
    assert full is not None
    assert full.null is not None
    assert full.null.tool == "bare (half 2)"
    assert any("repeats 'bare' attempt by attempt" in warning for warning in found.warnings)


def gappy() -> Outcomes:
    rng = np.random.default_rng(4)
    before, after = ragged(0), (rng.random((30, 24)) < 0.5).astype(int).tolist()
    for task in range(6):
        before[task][-2:] = [-1, -1]
        after[task][0] = -1
    after[29] = [-1] * 24  # no scored attempt at all
    live, inert = record("python", "live"), record("inert", "inert")
    return pairs((BARE, before), (live, after), (inert, ragged(7)))


def test_every_headline_figure_has_its_bounds_when_attempts_are_missing() -> None:
    data = gappy()
    found = analyse(data, replicates=100)
    comparison = next(c for c in found.comparisons if c.arm == "python")
    assert comparison.full is not None
    bounds = comparison.full.missing
    assert bounds is not None
    assert bounds.tasks == 30  # the task without a scored attempt counts here
    assert len(comparison.full.figures.tasks) == 29
    for name in ("gain", "creation", "loss", "bare_pass1", "tool_operating", "nats"):
        low, high = bounds.figures[name].low, bounds.figures[name].high
        assert low < high or name == "bare_pass1", name
    for name in ("srr", "ndr", "sds", "nscr"):
        assert bounds.figures[name].low < bounds.figures[name].high
    whole = filled(data, bare=1, tool=0)
    exact = analyse(whole, replicates=100).comparisons[0]
    assert bounds.figures["gain"].low == pytest.approx(exact.gain.value)
    assert comparison.gain_if_missing is not None
    assert comparison.gain_if_missing.low == pytest.approx(exact.gain.value)
    best = analyse(filled(data, bare=0, tool=1), replicates=100)
    arm = found.arm("python")
    assert arm.elicitation_if_missing is not None
    assert arm.elicitation_if_missing.high == pytest.approx(best.arm("python").elicitation.estimate.value)
    (group,) = found.groups
    effect = next(e for e in group.effects if e.arm == "python")
    assert effect.gain_if_missing == comparison.gain_if_missing
    assert group.arms[1].if_missing == arm.if_missing
    assert [rung.if_missing is not None for rung in found.ladder] == [True, True]
    assert found.ladder[1].if_missing != found.ladder[0].if_missing


def filled(data: Outcomes, *, bare: int, tool: int) -> Outcomes:
    success = data.success.copy()
    for arm, value in ((0, bare), (1, tool)):
        success[(data.arm == arm) & (success < 0)] = value
    return replace(data, success=success)


def test_the_bounds_are_shown_and_only_where_attempts_are_missing() -> None:
    found = analyse(gappy(), replicates=100)
    shown = table(found, "missing")
    assert [row.head for row in shown.rows] == ["python", "inert"]
    assert " to " in shown.rows[0].cells[0][0]
    assert "pass@1, missing either way" in table(found, "arms").columns
    assert "reach@16, either way" in table(found, "arms").columns
    assert "missing either way" in table(found, "ladder").columns
    whole = analyse(filled(gappy(), bare=0, tool=0), replicates=100)
    assert "missing" not in [t.key for t in every_table(whole)]


def test_bounds_of_one_attempt_per_task_cover_the_gain_too() -> None:
    before = [[1], [0], [-1], [0]]
    found = analyse(pairs((BARE, before), (TOOL, [[1], [1], [1], [-1]])), replicates=100)
    (comparison,) = found.comparisons
    assert comparison.full is None
    assert comparison.gain_if_missing is not None
    assert (comparison.gain_if_missing.low, comparison.gain_if_missing.high) == (0.25, 0.75)


def test_creation_is_told_against_what_the_bare_arm_may_spend() -> None:
    rng = np.random.default_rng(1)
    before = (rng.random((60, 64)) < 0.08).astype(int).tolist()
    after = (rng.random((60, 16)) < 0.8).astype(int).tolist()
    found = analyse(pairs((BARE, before), (TOOL, after)), replicates=200)
    full = found.comparisons[0].full
    assert full is not None
    curve = full.creation_by_spend
    assert curve is not None
    assert curve.spends == (1, 2, 4, 8, 16, 32)
    values = [creation.value for creation in curve.creation]
    assert values[curve.spends.index(16)] == pytest.approx(full.figures.creation.value)
    for spend, value in zip(curve.spends, values, strict=True):
        assert value == pytest.approx(max(0, 0.8 - (1 - 0.92**spend)), abs=0.06)
    assert table(found, "creation").columns[:2] == ("1 [95%]", "2 [95%]")
    assert found.as_dict()["comparisons"][0]["full"]["creation_by_spend"]["spends"][0] == 1


def test_reach_with_missing_attempts_is_bounded_by_the_two_extremes() -> None:
    found = analyse(pairs((BARE, [[1, 0, 0, -1]] * 3)), elicitation=2, replicates=100)
    bounds = found.arm("bare").elicitation_if_missing
    assert bounds is not None
    assert (bounds.low, bounds.high) == (reach_at_k(4, 1, 2), reach_at_k(4, 2, 2))
