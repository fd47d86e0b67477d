from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from helpers.command import Done
from testbed.errors import DataError
from testbed.report.analyse import analyse_run
from testbed.report.comparison_tables import verdicts
from testbed.report.record import Effect
from testbed.store import Outcomes, Store
from testbed.transfer import Columns, import_outcomes
from testbed.types import COST_COMPONENTS

QUICK_IN_POSTGRESQL = ("test_hotpot_logs_give_search_34_closed_book_33_and_15_against_14",)


def solved(outcomes: Outcomes, arm: str) -> set[str]:
    """Tasks with at least one success of an arm."""
    position = [record.name for record in outcomes.arms].index(arm)
    return {outcomes.tasks[t].prompt for t in outcomes.task[(outcomes.arm == position) & (outcomes.success == 1)]}


def grid(outcomes: Outcomes, arm: int, samples: int) -> npt.NDArray[np.int8]:
    return outcomes.success[outcomes.arm == arm].reshape(len(outcomes.tasks), samples)


def test_game24_logs_with_100_samples_a_puzzle_have_their_known_pass_rates(store: Store, data_dir: Path) -> None:
    folder = data_dir / "game24"
    standard = Columns.parse(task="idx", success="accs[]", arm="=IO")
    thoughts = Columns.parse(task="idx", success="infos[].r", arm="=CoT")
    import_outcomes(store, folder / "gpt-4_0.7_naive_standard_sample_100_start900_end1000.json", "game24", standard)
    import_outcomes(store, folder / "gpt-4_0.7_naive_cot_sample_100_start900_end1000.json", "game24", thoughts)

    outcomes = store.outcomes("game24")
    assert [arm.name for arm in outcomes.arms] == ["IO", "CoT"]
    assert len(outcomes.tasks) == 100
    assert len(outcomes.task) == 20_000
    known = [(0.073, 0.33), (0.040, 0.49)]
    for arm, (pass_at_1, any_of_100) in enumerate(known):
        success = grid(outcomes, arm, 100)
        assert success.mean() == pytest.approx(pass_at_1, abs=5e-4)
        assert success.any(axis=1).mean() == any_of_100


def test_hotpot_logs_give_search_34_closed_book_33_and_15_against_14(store: Store, data_dir: Path) -> None:
    columns = Columns.parse(
        task="question",
        arm="mode",
        sample="trial",
        success="outcome=correct",
        cost=["tool_calls=n_search"],
    )
    found = import_outcomes(store, data_dir / "hotpot100_react_vs_cot" / "runs.csv.gz", "hotpot", columns)
    assert (found.attempts, found.tasks, found.arms, found.skipped) == (1000, 100, 2, 0)

    outcomes = store.outcomes("hotpot")
    search, closed_book = solved(outcomes, "react_wiki_search"), solved(outcomes, "cot_closed_book")
    assert (len(search), len(closed_book)) == (34, 33)
    assert (len(search - closed_book), len(closed_book - search)) == (15, 14)
    calls = outcomes.cost[:, COST_COMPONENTS.index("tool_calls")]
    searching = [arm.name for arm in outcomes.arms].index("react_wiki_search")
    assert calls[outcomes.arm != searching].sum() == 0
    assert calls[outcomes.arm == searching].mean() > 1


def test_hotpot_attempts_that_halted_can_be_taken_as_missing_data(store: Store, data_dir: Path) -> None:
    columns = Columns.parse(
        task="question", arm="mode", sample="trial", success="outcome=correct", missing="outcome=halted"
    )
    import_outcomes(store, data_dir / "hotpot100_react_vs_cot" / "runs.csv.gz", "hotpot", columns)
    outcomes = store.outcomes("hotpot")
    assert (outcomes.success == -1).sum() == 48  # 10, 9, 10, 9, 10 in the five trials
    assert set(outcomes.ended[outcomes.success == -1]) == {"missing:imported"}
    assert store.runs()[0].missing == 48


def test_intercode_sql_has_94_of_1034_solved_in_one_turn_and_762_in_ten(store: Store, data_dir: Path) -> None:
    columns = Columns.parse(
        task="task_id",
        arm="config",
        success="max_reward>=1",
        where=["env=sql", "model=gpt-4"],
        cost=["turns=turns"],
        cluster="hardness",
    )
    found = import_outcomes(store, data_dir / "intercode_runs" / "runs.csv.gz", "sql", columns)
    assert (found.tasks, found.arms, found.attempts) == (1034, 2, 2068)

    outcomes = store.outcomes("sql")
    assert len(solved(outcomes, "ic_sql_multiturn_gpt-4_1_turns")) == 94
    assert len(solved(outcomes, "ic_sql_multiturn_gpt-4_10_turns")) == 762
    turns = outcomes.cost[:, COST_COMPONENTS.index("turns")]
    one_turn = [arm.name for arm in outcomes.arms].index("ic_sql_multiturn_gpt-4_1_turns")
    assert turns[outcomes.arm == one_turn].max() == 1
    assert 1 < turns[outcomes.arm != one_turn].mean() < 10


def test_intercode_rows_without_a_task_are_refused_by_line_and_nothing_is_stored(store: Store, data_dir: Path) -> None:
    columns = Columns.parse(
        task="task_id", arm="config", success="max_reward>=1", where=["config=ic_sql_multiturn_human_10_turns"]
    )
    with pytest.raises(DataError, match=r"runs\.csv\.gz:\d+: 'task_id' is ''"):
        import_outcomes(store, data_dir / "intercode_runs" / "runs.csv.gz", "human", columns)
    assert store.runs() == []


# ---- what the instrument concludes, and what it refuses to -----------------------------------------------------------


def test_game24_shows_no_creation_though_26_puzzles_were_solved_with_chain_of_thought_only(
    store: Store, data_dir: Path
) -> None:
    folder = data_dir / "game24"
    for arm, success in (("IO", "accs[]"), ("CoT", "infos[].r")):
        kind = "standard" if arm == "IO" else "cot"
        columns = Columns.parse(task="idx", success=success, arm=f"={arm}")
        import_outcomes(store, folder / f"gpt-4_0.7_naive_{kind}_sample_100_start900_end1000.json", "game24", columns)
    found = analyse_run(store, "game24", bare="IO")
    comparison = found.comparisons[0]
    assert (comparison.solved.both, comparison.solved.only_bare, comparison.solved.only_arm) == (23, 10, 26)
    assert comparison.claims
    assert not any(arm.repeats.flagged for arm in found.arms)
    assert comparison.full is not None
    figures, null = comparison.full.figures, comparison.full.null
    assert figures.gain.value == pytest.approx((403 - 734) / 10_000)
    assert figures.creation.low == 0 < (figures.creation.high or 0)
    assert (figures.loss.low or 0) > 0
    assert figures.verdicts.counts["expanded"] == figures.verdicts.counts["lost"] == 0
    assert null is not None
    assert (null.gain.low or 0) < 0 < (null.gain.high or 0)
    assert (null.support.ndr.value or 0) > 0.05  # "new" puzzles where nothing differs


def test_hotpot_trials_are_called_copies_and_nothing_is_claimed_from_them(store: Store, data_dir: Path) -> None:
    columns = Columns.parse(task="question", arm="mode", sample="trial", success="outcome=correct")
    import_outcomes(store, data_dir / "hotpot100_react_vs_cot" / "runs.csv.gz", "hotpot", columns)
    found = analyse_run(store, "hotpot", bare="cot_closed_book")
    assert sum("nearly identical" in warning for warning in found.warnings) == 2
    assert [arm.repeats.flagged for arm in found.arms] == [True, True]
    comparison = found.comparisons[0]
    assert not comparison.claims
    assert {effect for group in found.groups for e in group.effects for effect in e.effects} == {Effect.UNDETERMINED}
    assert any("Nothing is claimed" in note for note in verdicts(found).notes)


def test_intercode_s_gain_is_not_split_from_one_attempt_per_task(store: Store, data_dir: Path) -> None:
    columns = Columns.parse(
        task="task_id", arm="config", success="max_reward>=1", where=["env=sql", "model=gpt-4"], cost=["turns=turns"]
    )
    import_outcomes(store, data_dir / "intercode_runs" / "runs.csv.gz", "sql", columns)
    comparison = analyse_run(store, "sql", bare="ic_sql_multiturn_gpt-4_1_turns").comparisons[0]
    assert comparison.gain.value == pytest.approx((762 - 94) / 1034)
    assert (comparison.solved.both, comparison.solved.only_bare, comparison.solved.only_arm) == (90, 4, 672)
    assert comparison.full is None
    assert any("no split into elicitation and creation" in note for note in comparison.notes)


PAGE = Path(__file__).parents[1] / "docs" / "real_logs.md"


def test_the_page_on_real_logs_shows_what_its_commands_print(
    testbed: Callable[..., Done], data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "data").symlink_to(data_dir.resolve())
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    commands = [part.split("\n", 1) for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    assert len(commands) > 12
    for command, shown in commands:
        done = testbed(*shlex.split(command)[1:])
        printed = [line.split() for line in (done.out + done.err).splitlines()]
        assert done.code == (2 if "error:" in shown else 0), command
        for line in filter(lambda line: line.strip() not in ("", "…"), shown.splitlines()):
            assert line.split() in printed, (command, line)
