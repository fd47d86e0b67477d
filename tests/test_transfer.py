"""Importing other people's outcomes: every format, what a success is, and imports that meet."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.logs import HEADER, PLAIN, cells, load
from testbed.errors import DataError, StoreError, UsageError
from testbed.store import Run, Store
from testbed.transfer import Columns, import_outcomes
from testbed.transfer.values import Path as Place
from testbed.transfer.values import Test as Condition
from testbed.types import COST_COMPONENTS

QUICK_IN_POSTGRESQL = (
    "test_any_task_name_and_token_count_comes_through_as_it_is",
    "test_a_second_file_adds_arms_tasks_and_samples_to_the_run",
    "test_another_outcome_of_the_same_attempt_is_refused_and_nothing_of_the_file_stored",
    "test_importing_a_file_again_changes_nothing",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


THREE = {("q1", "bare", 0): 1, ("q1", "tool", 0): 0, ("q2", "bare", 1): -1}
ROWS = [
    {"question": "q1", "mode": "bare", "trial": 0, "won": True, "state": "ok"},
    {"question": "q1", "mode": "tool", "trial": 0, "won": False, "state": "ok"},
    {"question": "q2", "mode": "bare", "trial": 1, "won": None, "state": "crash"},
]


def as_csv(rows: list[dict[str, object]], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", as_csv(ROWS)),
        ("log.csv", "\ufeff" + as_csv(ROWS)),
        ("log.tsv", as_csv(ROWS, "\t")),
        ("log.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("log.json", json.dumps(ROWS, indent=2)),
        ("log.json", "\n\n".join(map(json.dumps, ROWS))),
        ("log.csv.gz", as_csv(ROWS)),
        ("log.jsonl.gz", "\n".join(map(json.dumps, ROWS))),
        ("log.json.gz", json.dumps(ROWS)),
    ],
)
def test_every_format_gives_the_same_outcomes(store: Store, folder: Path, name: str, text: str) -> None:
    columns = replace(PLAIN, missing=Condition.parse("state=crash"))
    found = load(store, folder, text, columns, name)
    assert cells(store.outcomes("r")) == THREE
    assert (found.attempts, found.tasks, found.arms, found.new) == (3, 2, 2, 3)
    assert [(a.name, a.attempts, a.tasks, a.successes, a.missing) for a in found.by_arm] == [
        ("bare", 2, 2, 1, 1),
        ("tool", 1, 1, 0, 0),
    ]


# -- what a success is


@pytest.mark.parametrize(
    ("test", "value", "truth"),
    [
        ("won", "1", True),
        ("won", " TRUE ", True),
        ("won", "0", False),
        ("won", "False", False),
        ("won", 1.0, True),
        ("won", False, False),
        ("won=correct", "correct", True),
        ("won=correct", "incorrect", False),
        ("won == correct", "correct", True),
        ("won!=halted", "correct", True),
        ("won=1", "1.0", True),
        ("won=1", "0.99", False),
        ("won=true", True, True),
        ("won=True", True, True),
        ("won=", "", True),
        ("won=", None, True),
        ("won>=1", "1.0", True),
        ("won>=1", 0.99, False),
        ("won>0.5", ".5", False),
        ("won<=-1", "-1", True),
        ("won<3", 2, True),
        ("won=a=b", "a=b", True),
    ],
)
def test_a_condition_holds_as_written(test: str, value: object, truth: bool) -> None:
    assert Condition.parse(test).holds("here", {"won": value}) is truth


@pytest.mark.parametrize(
    ("test", "value", "message"),
    [
        ("won", "correct", "neither true/false nor 1/0. Say what counts, such as won=correct"),
        ("won", "", "neither true/false"),
        ("won", None, "neither true/false"),
        ("won", 2, "neither true/false"),
        ("won", float("nan"), "neither true/false"),
        ("won>=1", "", "is '', which is no number"),
        ("won>=1", "nan", "no number"),
        ("won>=1", [1], "no number"),
        ("wonn", "1", "no column 'wonn'. Did you mean 'won'?"),
        ("won.r", "1", "no column 'won.r'"),
        ("won[].r", "1", "'won' is no list"),
    ],
)
def test_a_success_that_cannot_be_read_is_refused_by_place_and_column(test: str, value: object, message: str) -> None:
    with pytest.raises(DataError, match=r"^log\.csv:9: ") as caught:
        Condition.parse(test).holds("log.csv:9", {"won": value})
    assert message in str(caught.value)


def test_an_order_against_a_word_is_refused_when_it_is_written() -> None:
    with pytest.raises(UsageError, match="'high', which is no number"):
        Condition.parse("reward>=high")


def test_a_column_whose_name_has_a_dot_is_preferred_to_a_nested_value() -> None:
    record = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}}}
    assert Place("a.b").read("", record) == 1
    assert Place("a.c.d").read("", record) == 3


# -- lists


def test_each_element_of_a_list_is_an_attempt_with_its_index_as_sample(store: Store, folder: Path) -> None:
    rows = [{"id": 1, "infos": [{"r": 0, "n": 5}, {"r": 1, "n": 7}]}, {"id": 2, "infos": [{"r": 1, "n": 9}]}]
    columns = Columns.parse(task="id", success="infos[].r", arm="=CoT", cost=["turns=infos[].n"])
    load(store, folder, json.dumps(rows), columns, "log.json")
    outcomes = store.outcomes("r")
    assert cells(outcomes) == {("1", "CoT", 0): 0, ("1", "CoT", 1): 1, ("2", "CoT", 0): 1}
    assert outcomes.cost[:, COST_COMPONENTS.index("turns")].tolist() == [5, 7, 9]


def test_lists_of_different_lengths_are_refused(store: Store, folder: Path) -> None:
    columns = Columns.parse(task="id", success="accs[]", arm="=a", cost=["turns=n[]"])
    with pytest.raises(DataError, match=r"item 1: lists of different lengths"):
        load(store, folder, '[{"id": 1, "accs": [0, 1], "n": [1]}]', columns, "log.json")


def test_a_file_of_empty_lists_is_refused(store: Store, folder: Path) -> None:
    columns = Columns.parse(task="id", success="accs[]", arm="=a")
    with pytest.raises(DataError, match="lists are empty"):
        load(store, folder, '[{"id": 1, "accs": []}]', columns, "log.json")


# -- runs of imports


def test_without_a_sample_column_attempts_are_counted_within_task_and_arm(store: Store, folder: Path) -> None:
    columns = Columns.parse(task="q", arm="m", success="won")
    load(store, folder, "q,m,won\n" + "x,a,0\nx,b,1\ny,a,0\nx,a,1\n", columns)
    assert cells(store.outcomes("r")) == {("x", "a", 0): 0, ("x", "b", 0): 1, ("y", "a", 0): 0, ("x", "a", 1): 1}


def test_importing_a_file_again_changes_nothing(store: Store, folder: Path) -> None:
    text = HEADER + "q1,bare,0,1\nq1,tool,0,0\n"
    load(store, folder, text)
    before, run = cells(store.outcomes("r")), store.run("r")
    assert load(store, folder, text).new == 0
    assert cells(store.outcomes("r")) == before
    assert store.run("r") == run


def test_a_second_file_adds_arms_tasks_and_samples_to_the_run(store: Store, folder: Path) -> None:
    load(store, folder, HEADER + "q1,bare,0,1\n")
    load(store, folder, HEADER + "q1,tool,0,0\nq2,bare,3,1\n")
    outcomes = store.outcomes("r")
    assert cells(outcomes) == {("q1", "bare", 0): 1, ("q1", "tool", 0): 0, ("q2", "bare", 3): 1}
    assert [task.prompt for task in outcomes.tasks] == ["q1", "q2"]
    assert store.run("r").samples == {"bare": 4, "tool": 1}
    assert [(s.name, s.tasks, s.arms, s.attempts) for s in store.runs()] == [("r", 2, 2, 3)]


def test_another_outcome_of_the_same_attempt_is_refused_and_nothing_of_the_file_stored(
    store: Store, folder: Path
) -> None:
    load(store, folder, HEADER + "q1,bare,0,1\n")
    with pytest.raises(StoreError, match="another outcome"):
        load(store, folder, HEADER + "q9,bare,0,1\nq1,bare,0,0\n")
    assert cells(store.outcomes("r")) == {("q1", "bare", 0): 1}


def test_equal_names_in_two_runs_do_not_meet(store: Store, folder: Path) -> None:
    load(store, folder, HEADER + "q1,bare,0,1\n")
    (folder / "other.csv").write_text(HEADER + "q1,bare,0,0\n")
    import_outcomes(store, folder / "other.csv", "other", PLAIN)
    assert list(cells(store.outcomes("r")).values()) == [1]
    assert list(cells(store.outcomes("other")).values()) == [0]


def test_outcomes_are_not_imported_into_a_run_of_an_experiment(store: Store, folder: Path) -> None:
    store.add_run(Run("r", {"env": "Sums-v0"}, 0, (), "2026-01-01", {}), [])
    with pytest.raises(StoreError, match="Import under another name"):
        load(store, folder, HEADER + "q1,bare,0,1\n")


def test_a_missing_attempt_needs_neither_success_nor_cost_and_a_later_import_fills_it(
    store: Store, folder: Path
) -> None:
    columns = Columns.parse(
        task="q", arm="=a", sample="n", success="won", missing="state=crash", cost=["turns=t", "usd=usd"]
    )
    load(store, folder, "q,n,won,state,t,usd\nx,0,,crash,,\nx,1,1,ok,3,.5\n", columns)
    outcomes = store.outcomes("r")
    assert outcomes.success.tolist() == [-1, 1]
    assert outcomes.ended.tolist() == ["missing:imported", "answered"]
    assert outcomes.cost[:, [COST_COMPONENTS.index("turns"), COST_COMPONENTS.index("usd")]].tolist() == [
        [0, 0],
        [3, 0.5],
    ]
    load(store, folder, "q,n,won,state,t,usd\nx,0,0,ok,2,.1\n", columns)
    assert store.outcomes("r").success.tolist() == [0, 1]


def test_conditions_select_records_and_the_rest_is_counted(store: Store, folder: Path) -> None:
    columns = replace(PLAIN, where=(Condition.parse("mode=bare"), Condition.parse("trial<2")))
    found = load(store, folder, HEADER + "q1,bare,0,1\nq1,tool,0,oops\nq1,bare,2,1\n", columns)
    assert (found.attempts, found.skipped) == (1, 2)


def test_a_condition_that_no_record_meets_is_refused(store: Store, folder: Path) -> None:
    with pytest.raises(DataError, match="no record has mode=none"):
        load(store, folder, HEADER + "q1,bare,0,1\n", replace(PLAIN, where=(Condition.parse("mode=none"),)))


def test_clusters_reach_the_tasks(store: Store, folder: Path) -> None:
    load(store, folder, HEADER.replace("\n", ",topic\n") + "q1,bare,0,1,sums\n", replace(PLAIN, cluster=Place("topic")))
    assert store.tasks("r")[0].cluster == "sums"


def test_a_run_says_which_components_of_cost_were_given(store: Store, folder: Path) -> None:
    load(store, folder, HEADER + "q1,bare,0,1\n", replace(PLAIN, costs={"turns": Place("trial")}))
    assert store.run("r").arms[0].spec == {"imported": True, "costs": ["turns"]}


# -- what any task and cost may be


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text(min_size=1), st.booleans(), st.integers(0, 10**12)), min_size=1, max_size=20))
def test_any_task_name_and_token_count_comes_through_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, where_shared: str, rows: list[tuple[str, bool, int]]
) -> None:
    named = [(name, won, tokens) for name, won, tokens in rows if name.strip()]
    if not named:
        return
    folder = tmp_path_factory.mktemp("any")
    lines = [json.dumps({"q": name, "won": won, "n": tokens}) for name, won, tokens in named]
    (folder / "log.jsonl").write_text("\n".join(lines))
    columns = Columns.parse(task="q", arm="=a", success="won", cost=["generated_tokens=n"])
    with Store.open(where_shared) as store:
        import_outcomes(store, folder / "log.jsonl", folder.name, columns)
        got = store.outcomes(folder.name)
    want: dict[str, list[tuple[int, float]]] = {}
    for name, won, tokens in named:
        want.setdefault(name.strip(), []).append((int(won), float(tokens)))
    for number, task in enumerate(got.tasks):
        mine = got.task == number
        assert list(zip(got.success[mine].tolist(), got.cost[mine, 0].tolist(), strict=True)) == want[task.prompt]
