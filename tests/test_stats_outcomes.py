from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from testbed.stats import ArmOutcomes, StatsError, align, near_identical, reach_at_k


def test_rows_in_any_order_become_counts_and_keep_each_task_s_sequence() -> None:
    arm = ArmOutcomes.from_rows(
        "bare",
        ["b", "a", "b", "a", "b"],
        [True, False, None, True, False],
        costs={"tokens": [1, 2, np.nan, 4, 5]},
        samples=[0, 0, 1, 1, 2],
    )
    assert arm.tasks == ("b", "a")
    assert arm.n.tolist() == [2, 2]
    assert arm.c.tolist() == [1, 1]
    assert arm.missing.tolist() == [1, 0]
    assert arm.success.tolist() == [True, False, False, True]
    assert arm.costs["tokens"].tolist() == [1, 5, 2, 4]
    assert arm.mean_cost("tokens").tolist() == [3, 3]


def test_missing_attempts_are_never_failures() -> None:
    arm = ArmOutcomes.from_rows("bare", ["a"] * 4, [True, None, np.nan, True])
    assert (arm.n[0], arm.c[0], arm.missing[0]) == (2, 2, 2)
    assert arm.with_missing(succeed=False).c.tolist() == [2]
    assert arm.with_missing(succeed=True).c.tolist() == [4]
    assert arm.with_missing(succeed=False).n.tolist() == [4]


def test_missing_attempts_get_the_cost_that_bounds_them() -> None:
    arm = ArmOutcomes.from_rows("bare", ["a", "a", "a", "b"], [True, False, None, True], costs={"x": [2, 8, np.nan, 1]})
    assert arm.with_missing(succeed=True).costs["x"].tolist() == [2, 8, 2, 1]
    assert arm.with_missing(succeed=False).costs["x"].tolist() == [2, 8, 8, 1]


def test_counts_and_rows_agree() -> None:
    arm = ArmOutcomes.from_counts("bare", ["a", "b"], 4, [1, 3], missing=[0, 2])
    assert arm.success.tolist() == [True, False, False, False, True, True, True, False]
    assert arm.offsets.tolist() == [0, 4, 8]


def test_take_keeps_the_rows_of_the_tasks_taken() -> None:
    arm = ArmOutcomes.from_rows("bare", ["a", "b", "c", "b"], [1, 0, 1, 1], costs={"x": [1, 2, 3, 4]})
    part = arm.take([2, 1])
    assert part.tasks == ("c", "b")
    assert part.costs["x"].tolist() == [3, 2, 4]
    assert part.c.tolist() == [1, 1]


def test_halves_share_every_task_s_attempts_out_at_random() -> None:
    rng = np.random.default_rng(0)
    tasks = [f"t{i}" for i in range(300) for _ in range(9)]
    arm = ArmOutcomes.from_rows("bare", tasks, rng.random(2700) < 0.4, costs={"id": np.arange(2700)})
    first, second = arm.halves(seed=3)
    assert first.n.tolist() == second.n.tolist() == [4] * 300
    ids = [set(half.costs["id"][half.attempts_of(7)]) for half in (first, second)]
    assert ids[0] | ids[1] < set(range(63, 72))
    assert not ids[0] & ids[1]
    assert first.costs["id"].tolist() == arm.halves(seed=3)[0].costs["id"].tolist()
    assert first.costs["id"].tolist() != arm.halves(seed=4)[0].costs["id"].tolist()
    places = (first.costs["id"] - 9 * np.repeat(np.arange(300), 4)).astype(int)
    assert np.bincount(places, minlength=9).min() > 90  # each place lands in half 1 with chance 4/9: 133 of 300


def test_alignment_pairs_tasks_by_name_not_by_place() -> None:
    bare = ArmOutcomes.from_counts("bare", ["a", "b", "c"], 4, [1, 2, 3])
    tool = ArmOutcomes.from_counts("tool", ["c", "x", "a"], 4, [4, 0, 0])
    left, right = align(bare, tool)
    assert left.tasks == right.tasks == ("a", "c")
    assert right.c.tolist() == [0, 4]


def test_arms_without_common_tasks_are_refused_by_name() -> None:
    bare, tool = ArmOutcomes.from_counts("bare", ["a"], 4, [1]), ArmOutcomes.from_counts("tool", ["z"], 4, [1])
    with pytest.raises(StatsError, match=r"'bare' and 'tool' have no task in common.*'a' and 'z'"):
        align(bare, tool)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (dict(tasks=[], success=[]), "arm 'x' has no attempts"),
        (dict(tasks=["a"], success=[True, False]), "1 tasks for 2 outcomes"),
        (dict(tasks=["a", "b"], success=[True, 0.5]), "task 'b': success must be true, false or missing, not 0.5"),
        (dict(tasks=["a", "a"], success=[1, 0], samples=[3, 3]), "task 'a': sample 3 occurs twice"),
        (dict(tasks=["a", "b"], success=[1, 0], costs={"usd": [1.0, -0.5]}), "task 'b': cost 'usd'.*-0.5"),
        (dict(tasks=["a", "b"], success=[1, 0], costs={"usd": [np.nan, 1]}), "task 'a': cost 'usd'.*nan"),
        (dict(tasks=["a"], success=[1], costs={"usd": [1, 2]}), "2 costs on axis 'usd' for 1 attempts"),
    ],
)
def test_bad_rows_are_refused_naming_arm_and_task(rows: dict[str, object], words: str) -> None:
    with pytest.raises(StatsError, match=words):
        ArmOutcomes.from_rows("x", **rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tasks", "n", "c", "words"),
    [
        ([], 3, [], "arm 'x' has no tasks"),
        (["a", "b"], [3, 3], [1, 4], "arm 'x', task 'b': 4 successes among 3 attempts"),
        (["a", "a"], [3, 3], [1, 1], "task 'a' is listed twice"),
        (["a"], [3], [np.nan], "task 'a': successes must be a whole number"),
    ],
)
def test_bad_counts_are_refused_naming_arm_and_task(tasks: list[str], n: object, c: object, words: str) -> None:
    with pytest.raises(StatsError, match=words):
        ArmOutcomes.from_counts("x", tasks, n, c)  # type: ignore[arg-type]


# ---- repeats --------------------------------------------------------------------------------------------------------


def test_independent_attempts_are_not_flagged() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.3, 2, 200)
    arm = ArmOutcomes.from_counts("bare", [str(i) for i in range(200)], 20, rng.binomial(20, p))
    found = near_identical(arm)
    assert not found.flagged
    assert found.icc == pytest.approx(1 / (1 + 0.3 + 2), abs=0.1)  # the intraclass correlation of a beta-binomial


def test_copies_of_one_attempt_are_flagged_with_one_effective_attempt() -> None:
    arm = ArmOutcomes.from_counts("bare", [str(i) for i in range(30)], 5, [5] * 10 + [0] * 19 + [4])
    found = near_identical(arm)
    assert found.flagged
    assert found.effective_attempts == pytest.approx(1.1, abs=0.1)
    assert found.mixed_tasks == 1


def test_arms_that_always_fail_say_nothing_about_copies() -> None:
    found = near_identical(ArmOutcomes.from_counts("bare", ["a", "b"], 5, [0, 0]))
    assert (found.flagged, found.icc, found.effective_attempts) == (False, None, None)


@pytest.mark.parametrize("won", [0, 6])
def test_arms_that_always_end_alike_are_copies_where_the_costs_of_a_task_are_too(won: int) -> None:
    tasks, outcome = np.repeat(["a", "b", "c"], 6), np.full(18, won > 0)
    copied = ArmOutcomes.from_rows("x", tasks, outcome, costs={"tokens": np.repeat([7.0, 9.0, 9.0], 6)})
    assert near_identical(copied).flagged
    drawn = ArmOutcomes.from_rows("x", tasks, outcome, costs={"tokens": np.arange(18.0)})
    assert not near_identical(drawn).flagged
    uninformative = ArmOutcomes.from_rows("x", tasks, outcome, costs={"calls": np.ones(18)})
    assert not near_identical(uninformative).flagged


def test_few_tasks_that_are_each_certain_are_flagged() -> None:
    assert near_identical(ArmOutcomes.from_counts("x", list("abcde"), 200, [200, 200, 0, 0, 0])).flagged


def test_identical_costs_are_the_share_of_equal_pairs() -> None:
    arm = ArmOutcomes.from_rows(
        "bare", ["a", "a", "a", "b", "b"], [1, 0, 1, 1, 0], costs={"x": [1, 1, 2, 3, 3], "y": [5, 5, 5, 7, 8]}
    )
    assert near_identical(arm).identical_costs == pytest.approx(1 / 4)


def test_the_hotpot_trials_are_found_to_be_copies_and_keep_their_known_totals(data_dir: Path) -> None:
    with gzip.open(data_dir / "hotpot100_react_vs_cot" / "runs.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    arms = {}
    for mode in ("react_wiki_search", "cot_closed_book"):
        own = [row for row in rows if row["mode"] == mode]
        arms[mode] = ArmOutcomes.from_rows(
            mode,
            [row["question"] for row in own],
            [row["outcome"] == "correct" for row in own],
            costs={"chars": [float(row["chars"]) for row in own]},
            samples=[row["trial"] for row in own],
        )
        assert near_identical(arms[mode]).flagged
    bare, search = align(arms["cot_closed_book"], arms["react_wiki_search"])
    assert ((search.c > 0).sum(), (bare.c > 0).sum()) == (34, 33)
    assert (((search.c > 0) & (bare.c == 0)).sum(), ((search.c == 0) & (bare.c > 0)).sum()) == (15, 14)


def test_the_game24_samples_are_independent_and_keep_their_known_totals(data_dir: Path) -> None:
    known = {"standard": (0.073, 0.33), "cot": (0.040, 0.49)}
    for kind, (one, any_of_100) in known.items():
        logs = json.loads(
            (data_dir / "game24" / f"gpt-4_0.7_naive_{kind}_sample_100_start900_end1000.json").read_text()
        )
        success = [[bool(info["r"]) for info in log["infos"]] if "infos" in log else log["accs"] for log in logs]
        c = [sum(map(bool, row)) for row in success]
        arm = ArmOutcomes.from_counts(kind, [str(log["idx"]) for log in logs], [len(row) for row in success], c)
        assert reach_at_k(arm.n, arm.c, 1).mean() == pytest.approx(one, abs=6e-4)
        assert reach_at_k(arm.n, arm.c, 100).mean() == pytest.approx(any_of_100, abs=1e-12)
        assert not near_identical(arm).flagged
