"""Analyses of runs in a store: unfinished, imported, and of other people's logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.outcomes import record, tasks_of
from testbed.errors import UnknownName
from testbed.report.analyse import analyse_run
from testbed.store import Run, Store
from testbed.transfer import Columns, import_outcomes
from testbed.types import Attempt, Cost, Status, attempt_id


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
