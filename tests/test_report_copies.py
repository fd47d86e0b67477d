"""Attempts of an agent that nearly repeat: what its author's word does, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from helpers import repeating_agents
from helpers.command import Done
from helpers.runs import SAY_AND_ECHO, registered
from testbed.errors import ExperimentError
from testbed.experiment_file import parse_experiment
from testbed.planning import Asked, Earlier, make_plan
from testbed.report.analyse import analyse, analyse_run
from testbed.report.compare_runs import compare_sides
from testbed.report.copies import Drawn, same_answers, stated_arms
from testbed.report.record import Analysis
from testbed.report.sides import read_side
from testbed.report.text import print_report
from testbed.runner import Runner
from testbed.stats import ArmOutcomes, near_identical
from testbed.store import ArmRecord, Outcomes, Run, Store
from testbed.types import COST_COMPONENTS, Task

TASKS, SAMPLES = 12, 6
NEARLY, WORD = "are nearly identical", "rests on that word"


@pytest.fixture(autouse=True)
def say_and_echo() -> Iterator[None]:
    repeating_agents.kept.clear()
    with registered(SAY_AND_ECHO):
        yield


async def run(store: Store, agent: str, *, name: str = "test", **model: Any) -> Runner:
    """Two arms of one agent, at tasks of which it is sure of half."""
    data = {
        "name": name,
        "samples": SAMPLES,
        "measure": {"elicitation": 2, "replicates": 100},
        "env": [{"id": "Say-v0", "tasks": TASKS}],
        "arm": [{"name": "bare"}, {"name": "echo", "tools": ["echo"]}],
        "model": {"id": f"agent:helpers.repeating_agents:{agent}", **model},
    }
    runner = Runner(parse_experiment(data), store)
    await runner.run()
    return runner


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s.sqlite") as opened:
        yield opened


def told(analysis: Analysis) -> list[str]:
    return [warning for warning in analysis.warnings if NEARLY in warning]


async def test_nothing_is_claimed_of_a_sure_agent_without_a_word_and_its_author_is_told_how_to_give_it(store) -> None:
    await run(store, "sure")
    found = analyse_run(store, "test")
    assert not found.comparisons[0].claims
    assert len(told(found)) == 2
    assert all("say so: sampled = true in [model], in an experiment of another name" in line for line in told(found))


async def test_the_authors_word_is_believed_and_shown_as_such(store) -> None:
    await run(store, "sure", sampled=True)
    found = analyse_run(store, "test")
    assert found.comparisons[0].claims
    assert len(told(found)) == 2
    assert all("Its author states" in line and WORD in line for line in told(found))
    with (console := Console(width=200)).capture() as shown:
        print_report(found, console)
    assert shown.get().count("6 attempts per task; sampled independently, states its author") == 2
    assert [(arm.sampled, arm.stated) for arm in found.arms] == [(False, True)] * 2


@pytest.mark.parametrize("agent", ["cached", "stamped", "greedy", "spaced"])
async def test_a_word_that_the_answers_belie_changes_nothing(store: Store, agent: str) -> None:
    await run(store, agent, sampled=True)
    found = analyse_run(store, "test")
    assert found.arms[0].same_answers == 1
    assert not found.comparisons[0].claims
    assert all("but its failures give the same answers again and again" in line for line in told(found))
    assert len(told(found)) == 2


@pytest.mark.parametrize("agent", ["stamped", "two", "learning"])
async def test_nothing_that_differs_stands_in_for_the_authors_word(store: Store, agent: str) -> None:
    await run(store, agent)
    found = analyse_run(store, "test")
    assert not found.comparisons[0].claims
    assert not any(WORD in line for line in told(found))
    assert len(told(found)) == 2


@pytest.mark.parametrize(("agent", "least", "most"), [("two", 0.2, 0.8), ("learning", 0, 0)])
async def test_a_false_word_that_no_answer_belies_stands_as_a_word(
    store: Store, agent: str, least: float, most: float
) -> None:
    await run(store, agent, sampled=True)
    found = analyse_run(store, "test")
    same = found.arms[0].same_answers
    assert same is not None
    assert least <= same <= most
    assert all(WORD in line for line in told(found))


async def test_a_word_makes_no_attempt_another_one(store: Store) -> None:
    await run(store, "sure")
    runner = await run(store, "sure", name="stated", sampled=True)
    assert {attempt.id for attempt in store.attempts("test")} == {attempt.id for attempt in store.attempts("stated")}
    assert runner.arms[0].hash == store.run("test").arms[0].hash
    assert (stated_arms(store.run("test")), stated_arms(store.run("stated"))) == (set(), {"bare", "echo"})
    assert not analyse_run(store, "test").comparisons[0].claims


async def test_a_comparison_of_runs_hears_the_word_of_each_run(store: Store) -> None:
    await run(store, "sure")
    await run(store, "sure", name="stated", sampled=True)

    def compared(first: str, second: str) -> Any:
        sides = (read_side(store, store.run(first), "bare", "A"), read_side(store, store.run(second), "echo", "B"))
        return compare_sides(*sides)

    assert compared("test", "stated").only_pass_1
    assert compared("stated", "test").only_pass_1
    both = compared("stated", "stated")
    assert not both.only_pass_1
    assert sum(WORD in warning for warning in both.warnings) == 2


async def test_a_plan_hears_it_too(store: Store) -> None:
    await run(store, "sure")
    await run(store, "sure", name="stated", sampled=True)
    plans = [make_plan(Asked(effect=0.3), earlier=Earlier.read(store, name)) for name in ("test", "stated")]
    assert [any("look like copies" in note for note in plan.notes) for plan in plans] == [True, False]


async def test_a_word_is_true_or_false(store: Store) -> None:
    with pytest.raises(ExperimentError, match="sampled must be true or false, not 'yes'"):
        await run(store, "sure", sampled="yes")


def test_the_same_answer_is_counted_by_pairs_and_averaged_over_tasks() -> None:
    failures = [("a", "1", 3), ("b", "1", 1), ("b", "2", 1), ("c", "x", 2), ("c", " X ", 1), ("c", "y", 1),
                ("d", "1", 2), ("d", "2", 2), ("e", "1", 1)]  # fmt: skip
    assert same_answers(failures) == pytest.approx((1 + 0 + 3 / 6 + 4 / 12) / 4)
    assert same_answers(failures[:6]) is None  # of three tasks only


@pytest.mark.parametrize(("tokens", "copies"), [(1.0, True), (0.0, False)])
def test_without_answers_costs_that_repeat_speak_against_a_word(tokens: float, copies: bool) -> None:
    tasks = [task for task in "abcd" for _ in range(4)]
    costs = {"generated_tokens": [ord(task) * 10 + (i if not tokens else 0) for i, task in enumerate(tasks)]}
    repeats = near_identical(ArmOutcomes.from_rows("arm", tasks, [task in "ab" for task in tasks], costs=costs))
    assert repeats.flagged
    assert Drawn(known=False, stated=True).look_like_copies(repeats) == copies
    assert not Drawn(known=False, stated=True, same_answers=0.2).look_like_copies(repeats)
    assert Drawn(known=False, same_answers=0.2).look_like_copies(repeats)  # the outcomes are what repeats
    assert not Drawn(known=True).look_like_copies(repeats)
    assert Drawn(known=False).look_like_copies(repeats)


@pytest.mark.parametrize(("same", "copies"), [(None, True), (0.95, True), (0.5, False)])
def test_answers_that_differ_say_more_of_the_texts_than_costs_that_repeat(same: float | None, copies: bool) -> None:
    tasks = [task for task in "abcd" for _ in range(4)]
    costs = {"turns": [ord(task) for task in tasks]}
    repeats = near_identical(ArmOutcomes.from_rows("arm", tasks, [i % 2 == 0 for i in range(16)], costs=costs))
    assert (repeats.flagged, repeats.outcomes_repeat, repeats.costs_repeat) == (True, False, True)
    assert Drawn(known=False, same_answers=same).look_like_copies(repeats) == copies


def outcomes_of(draw: Callable[[np.random.Generator, int], list[int]], seed: int) -> Outcomes:
    """Two arms of one policy at 40 tasks: 32 attempts of the one, 16 of the other; `draw` makes 32 at a task."""
    rng = np.random.default_rng(seed)
    tasks = tuple(Task("A-v0", f"q{i}", i) for i in range(40))
    arms = (ArmRecord("0", "bare", {"control": "absent"}), ArmRecord("1", "tool", {"control": "live"}))
    cells = [(arm, task, draw(rng, task)[:n]) for arm, n in ((0, 32), (1, 16)) for task in range(40)]
    rows = [(arm, task, i, one) for arm, task, drawn in cells for i, one in enumerate(drawn)]
    arm, task, sample, success = np.array(rows, np.int32).T
    none = np.zeros(len(rows), np.int32)
    costs, ended = np.zeros((len(rows), len(COST_COMPONENTS))), np.full(len(rows), "answered")
    return Outcomes(tasks, arms, task, arm, sample, success.astype(np.int8), costs, ended, none, none.astype(bool))


@pytest.mark.parametrize(
    ("draw", "least", "most"),
    [
        (lambda rng, task: [int(rng.random() < 0.5)] * 32, 9, 10),
        (lambda rng, task: (rng.random(32) < (0.99 if task % 2 else 0.01)).astype(int).tolist(), 0, 0),
    ],
    ids=["copies of one draw", "draws of a sure policy"],
)
def test_what_a_word_is_worth(draw: Any, least: int, most: int) -> None:
    """As docs/measurement.md has it, of fewer suites: a false word makes creation of nothing, a true one none."""
    word = {name: Drawn(known=False, stated=True) for name in ("bare", "tool")}
    found = [analyse(outcomes_of(draw, n), replicates=200, seed=n, drawn=word).comparisons[0] for n in range(10)]
    assert all(comparison.claims for comparison in found)
    created = sum((c.full.figures.creation.low or 0) > 0 for c in found if c.full)
    assert least <= created <= most


# -- imported outcomes


def imported(testbed: Callable[..., Done], folder: Path, wrong: Callable[[int], str], *more: str) -> dict[str, Any]:
    """The report of two arms that each solve half of the tasks, and at the others answer as `wrong` says."""
    rows = [
        {"task": f"t{task}", "arm": arm, "ok": ok, "said": "right" if ok else wrong(i)}
        for arm, half in (("bare", 0), ("tool", 1))
        for task in range(12)
        for i in range(5)
        for ok in [int(task % 2 == half)]
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = testbed("import", "log.jsonl", "--run", "log", "--task", "task", "--arm", "arm", "--success", "ok", *more)
    assert done.code == 0, done.err
    return testbed("report", "log", "--json").data


@pytest.mark.parametrize(
    ("wrong", "more", "claims", "says"),
    [
        (str, ["--answer", "said"], False, "import them with --sampled"),
        (str, ["--answer", "said", "--sampled"], True, WORD),
        (str, ["--sampled"], True, WORD),
        (lambda i: "no", ["--answer", "said", "--sampled"], False, "same answers again and again"),
    ],
    ids=["no word", "a word, and answers that differ", "a word alone", "a word, and answers that belie it"],
)
def test_who_imports_may_give_the_word(
    testbed: Callable[..., Done], tmp_path: Path, wrong: Any, more: list[str], claims: bool, says: str
) -> None:
    found = imported(testbed, tmp_path, wrong, *more)
    assert found["comparisons"][0]["claims"] == claims
    assert sum(NEARLY in line and says in line for line in found["warnings"]) == 2


def test_empty_cells_of_a_table_are_no_answers(testbed: Callable[..., Done], tmp_path: Path) -> None:
    rows = [f"t{n},{arm},{int(n < 6)}," for n in range(12) for arm in ("bare", "tool") for _ in range(5)]
    (tmp_path / "log.csv").write_text("\n".join(["task,arm,ok,said", *rows]) + "\n")
    columns = ("--task", "task", "--arm", "arm", "--success", "ok", "--answer", "said", "--sampled")
    assert testbed("import", "log.csv", "--run", "log", *columns).code == 0
    found = testbed("report", "log", "--json").data
    assert [arm["same_answers"] for arm in found["arms"]] == [None, None]
    assert found["comparisons"][0]["claims"]


def test_answers_cannot_be_added_to_what_was_imported_and_it_is_said_that_they_differ(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    imported(testbed, tmp_path, str)
    columns = ("--task", "task", "--arm", "arm", "--success", "ok", "--answer", "said")
    done = testbed("import", "log.jsonl", "--run", "log", *columns)
    assert done.code != 0
    assert "with another outcome, answer or cost" in " ".join(done.err.split())


def test_the_last_import_of_an_arm_says_whether_it_was_sampled(testbed: Callable[..., Done], tmp_path: Path) -> None:
    said = [imported(testbed, tmp_path, str, *more)["arms"][0]["stated"] for more in ([], ["--sampled"], [])]
    assert said == [False, True, False]


def test_no_experiment_gives_the_word_by_what_its_arms_are() -> None:
    """What a board is sent holds such arms, of its author's making."""
    arm = ArmRecord("h", "bare", {"imported": True, "sampled": True})
    made = Run("entry", {"model": {"id": "m", "sampled": True}, "arm": [{"name": "bare"}]}, 0, (arm,), "", {"bare": 1})
    assert stated_arms(made) == set()
