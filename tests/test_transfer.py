from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import DataError, StoreError, UnknownName, UsageError
from testbed.store import ArmRecord, Outcomes, Run, Store
from testbed.transfer import Columns, Imported, export, import_outcomes
from testbed.transfer.values import Path as Place
from testbed.transfer.values import Test as Condition
from testbed.types import COST_COMPONENTS, Attempt, Cost, Status, Task, attempt_id, digest

PLAIN = Columns.parse(task="question", arm="mode", sample="trial", success="won")
HEADER = "question,mode,trial,won\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


def load(store: Store, folder: Path, text: str | bytes, columns: Columns = PLAIN, name: str = "log.csv") -> Imported:
    data = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return import_outcomes(store, folder / name, "r", columns)


def cells(outcomes: Outcomes) -> dict[tuple[str, str, int], int]:
    """Success by task, arm and sample."""
    rows = zip(outcomes.task, outcomes.arm, outcomes.sample, outcomes.success, strict=True)
    return {(outcomes.tasks[t].prompt, outcomes.arms[a].name, int(s)): int(won) for t, a, s, won in rows}


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


# -- bad files


BAD = {
    "unknown task": ("task,mode,trial,won\nq1,bare,0,1\n", r"log\.csv:2: there is no column 'question'"),
    "near column": ("question,mood,trial,won\nq1,bare,0,1\n", r"no column 'mode'\. Did you mean 'mood'"),
    "success": (HEADER + "q1,bare,0,1\nq2,bare,0,maybe\n", r"log\.csv:3: 'won' is 'maybe'"),
    "duplicate": (
        HEADER + "q1,bare,0,1\nq2,bare,0,1\nq1,bare,0,1\n",
        r"log\.csv:4: a second attempt of arm 'bare' at task 'q1' with sample 0; the first is at .*log\.csv:2",
    ),
    "negative sample": (HEADER + "q1,bare,-1,1\n", r"log\.csv:2: 'trial' is '-1'"),
    "huge sample": (HEADER + "q1,bare,3000000000,1\n", r"log\.csv:2: 'trial' is '3000000000'"),
    "fraction": (HEADER + "q1,bare,.5,1\n", r"a whole number up to"),
    "no task": (HEADER + " ,bare,0,1\n", r"'question' is ' ', but a name is needed"),
    "short row": (HEADER + "q1,bare,0\n", r"log\.csv:2: 3 fields, but the header has 4"),
    "long row": (HEADER + "q1,bare,0,1,x\n", r"log\.csv:2: 5 fields"),
    "quote": (HEADER + '"q1\n', r"log\.csv:2: not a CSV record"),
    "double column": ("question,mode,won,won\nq1,bare,0,1\n", r"two columns are called 'won'"),
    "not UTF-8": (HEADER.encode() + b"q1,bare,0,1\nq\xe9,bare,0,1\n", r"log\.csv:3: not UTF-8 text \(byte 2 .* 0xe9\)"),
    "empty": ("", "has no records"),
    "header only": (HEADER, "has no records"),
    "arm name": (HEADER + '"q1","a\nb",0,1\n', "an arm's name must be printable"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_refused_by_line_and_nothing_is_stored(store: Store, folder: Path, case: str) -> None:
    text, message = BAD[case]
    with pytest.raises((DataError, StoreError), match=message):
        load(store, folder, text)
    assert store.runs() == []


BAD_JSON = {
    "line": ("log.jsonl", '{"question": "q1"}\n{"question": \n', r"log\.jsonl:1: there is no column 'mode'"),
    "broken line": ("log.jsonl", '\n{"question": \n', r"log\.jsonl:2: not a JSON line"),
    "list line": ("log.jsonl", "[1]\n", r"log\.jsonl:1: a list where a JSON object"),
    "array": ("log.json", '[\n{"a": 1},\n{"a" 2}\n]', r"log\.json:3: not JSON"),
    "item": ("log.json", '[{"question": "q1", "mode": "m", "trial": 0, "won": 1}, 7]', r"item 2: a int where"),
    "half a pair": ("log.jsonl", '{"question": "\\ud800", "mode": "m", "trial": 0, "won": 1}', r":1: 'question' is"),
    "null task": ("log.jsonl", '{"question": null, "mode": "m", "trial": 0, "won": 1}', r":1: 'question' is None"),
    "empty array": ("log.json", " [ ]", "has no records"),
    "deep": ("log.jsonl", "[" * 100_000, r"log\.jsonl:1: not a JSON line"),
    "ending": ("log.xlsx", "x", "unknown file ending '.xlsx'"),
    "no ending": ("log", "x", "unknown file ending ''"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_refused_by_line_and_nothing_is_stored(store: Store, folder: Path, case: str) -> None:
    name, text, message = BAD_JSON[case]
    with pytest.raises(UsageError, match=message):
        load(store, folder, text, name=name)
    assert store.runs() == []


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1.5", "", "many"])
def test_a_cost_that_is_none_is_refused_by_line_and_column(store: Store, folder: Path, value: str) -> None:
    columns = replace(PLAIN, costs={"generated_tokens": Place("tokens")})
    with pytest.raises(DataError, match=rf"log\.csv:2: 'tokens' is '{value}'"):
        load(store, folder, HEADER.replace("\n", ",tokens\n") + f"q1,bare,0,1,{value}\n", columns)
    assert store.runs() == []


def test_a_task_in_two_clusters_is_refused(store: Store, folder: Path) -> None:
    text = HEADER.replace("\n", ",topic\n") + "q1,bare,0,1,sums\nq1,bare,1,1,products\n"
    with pytest.raises(DataError, match=r"log\.csv:3: task 'q1' is in cluster 'products', above in 'sums'"):
        load(store, folder, text, replace(PLAIN, cluster=Place("topic")))


def test_a_file_that_is_not_there_is_named(store: Store, folder: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*/none\.csv"):
        import_outcomes(store, folder / "none.csv", "r", PLAIN)


@pytest.mark.parametrize(
    "data", [gzip.compress((HEADER + "q1,bare,0,1\n").encode())[:-9], b"plain text"], ids=["cut", "not gzip"]
)
def test_broken_gzip_is_refused(store: Store, folder: Path, data: bytes) -> None:
    (folder / "log.csv.gz").write_bytes(data)
    with pytest.raises(DataError, match="not whole gzip data"):
        import_outcomes(store, folder / "log.csv.gz", "r", PLAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arm": ""}, "name the arm"),
        ({"arm": "="}, "name the arm"),
        ({"task": " "}, "names no column"),
        ({"success": "a[].b[].c"}, "names no column"),
        ({"cost": ["turn=n"]}, "unknown cost component 'turn'. Did you mean 'turns'"),
        ({"cost": ["turns"]}, "Write component=column"),
        ({"where": ["infos[].r=1"]}, "conditions are on whole records"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Columns.parse(**{"task": "q", "success": "won", "arm": "m", **options})  # type: ignore[arg-type]
    assert message in str(caught.value)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text(min_size=1), st.booleans(), st.integers(0, 10**12)), min_size=1, max_size=20))
def test_any_task_name_and_token_count_comes_through_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, bool, int]]
) -> None:
    named = [(name, won, tokens) for name, won, tokens in rows if name.strip()]
    if not named:
        return
    folder = tmp_path_factory.mktemp("any")
    lines = [json.dumps({"q": name, "won": won, "n": tokens}) for name, won, tokens in named]
    (folder / "log.jsonl").write_text("\n".join(lines))
    columns = Columns.parse(task="q", arm="=a", success="won", cost=["generated_tokens=n"])
    with Store.open(folder / "s.sqlite") as store:
        import_outcomes(store, folder / "log.jsonl", "r", columns)
        got = store.outcomes("r")
    want: dict[str, list[tuple[int, float]]] = {}
    for name, won, tokens in named:
        want.setdefault(name.strip(), []).append((int(won), float(tokens)))
    for number, task in enumerate(got.tasks):
        mine = got.task == number
        assert list(zip(got.success[mine].tolist(), got.cost[mine, 0].tolist(), strict=True)) == want[task.prompt]


# -- export


ODD = "nul \x00, 🜁,\nline"
LONE = "half a pair \ud800"


async def fill(store: Store) -> Run:
    """A run of two arms at two tasks with everything that an attempt can have."""
    tasks = [Task("Odd-v0", ODD, 1, cluster="c"), Task("Odd-v0", "plain", 2)]
    arms = tuple(ArmRecord(digest(name), name, {}) for name in ("bare", "python"))
    run = Run("r", {"env": "Odd-v0"}, 5, arms, "2026-01-01", {"bare": 2, "python": 2})
    store.add_run(run, tasks)
    async with store.writer() as writer:
        for task in tasks:
            for arm in arms:
                for n in range(2):
                    await writer.add(an_attempt(task, arm, n, lost=task is tasks[1] and n == 1))
    return run


def an_attempt(task: Task, arm: ArmRecord, n: int, *, lost: bool) -> Attempt:
    return Attempt(
        id=attempt_id(task.hash, arm.hash, n, 5),
        task=task.hash,
        arm=arm.hash,
        sample=n,
        seed=5,
        status=Status.MISSING if lost else Status.COMPLETE,
        ended="missing:transport_error" if lost else "limit:turns" if n else "answered",
        success=None if lost else n == 0,
        score=None if n else 0.25,
        answer=None if n else LONE,
        cost=Cost(1, 2, 3, 4, 5, 6, 0.5, 1e-6),
        faults={"timeout": 2} if arm.name == "python" else {},
        transcript=({"role": "user", "content": ODD}, {"role": "assistant", "content": LONE}),
    )


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
async def test_exported_lines_import_as_the_same_outcomes(store: Store, folder: Path, name: str) -> None:
    await fill(store)
    assert export(store, "r", folder / name) == 8
    import_outcomes(store, folder / name, "again", Columns.exported())
    was, now = store.outcomes("r"), store.outcomes("again")
    for part in ("task", "arm", "sample", "success", "cost", "ended", "faults"):
        np.testing.assert_array_equal(getattr(was, part), getattr(now, part), err_msg=part)
    assert [arm.name for arm in now.arms] == [arm.name for arm in was.arms]
    assert [task.cluster for task in now.tasks] == [task.cluster for task in was.tasks]


async def test_exported_lines_hold_whole_attempts(store: Store, folder: Path) -> None:
    await fill(store)
    export(store, "r", folder / "out.jsonl")
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    for row, attempt in zip(rows, store.attempts("r"), strict=True):
        assert (row["id"], row["answer"], row["seed"], row["score"]) == (attempt.id, attempt.answer, 5, attempt.score)
        assert tuple(row["transcript"]) == attempt.transcript
        assert row["faults"] == attempt.faults
    assert {row["prompt"] for row in rows} == {ODD, "plain"}


async def test_parquet_holds_a_typed_row_an_attempt(store: Store, folder: Path) -> None:
    run = await fill(store)
    export(store, "r", folder / "out.parquet")
    table = pq.read_table(folder / "out.parquet")
    attempts = list(store.attempts("r"))
    assert table["id"].to_pylist() == [a.id for a in attempts]
    assert table["success"].to_pylist() == [a.success for a in attempts]
    assert table["arm"].to_pylist() == [arm.name for arm in run.arms for _ in range(4)]
    for component in COST_COMPONENTS:
        assert table[component].to_pylist() == [getattr(a.cost, component) for a in attempts]
    assert [json.loads(text) for text in table["faults"].to_pylist()] == [a.faults for a in attempts]
    assert json.loads(table["transcript"][0].as_py())[0]["content"] == ODD
    assert str(table.schema.field("success").type) == "bool"
    assert str(table.schema.field("generated_tokens").type) == "int64"


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
async def test_transcripts_are_left_out_on_request(store: Store, folder: Path, name: str) -> None:
    await fill(store)
    export(store, "r", folder / name, transcripts=False)
    path = folder / name
    columns = (
        pq.read_table(path).column_names if name.endswith("parquet") else json.loads(path.read_text().splitlines()[0])
    )
    assert "transcript" not in columns
    assert "faults" in columns


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
def test_a_run_without_attempts_exports_as_an_empty_table(store: Store, folder: Path, name: str) -> None:
    store.add_run(Run("r", {}, 0, (), "2026-01-01", {}), [])
    assert export(store, "r", folder / name) == 0
    if name.endswith("parquet"):
        assert pq.read_table(folder / name).num_rows == 0


async def test_a_file_that_exists_is_replaced_only_by_force(store: Store, folder: Path) -> None:
    await fill(store)
    (folder / "out.jsonl").write_text("mine")
    with pytest.raises(UsageError, match=r"exists\. Give another name, or replace it with --force"):
        export(store, "r", folder / "out.jsonl")
    assert (folder / "out.jsonl").read_text() == "mine"
    assert export(store, "r", folder / "out.jsonl", force=True) == 8


async def test_an_export_that_fails_leaves_nothing_and_keeps_the_old_file(store: Store, folder: Path) -> None:
    await fill(store)
    (folder / "out.parquet").write_text("mine")
    with store._database.writing() as connection:
        connection.exec_driver_sql("UPDATE transcripts SET data = x'00' WHERE attempt = (SELECT max(id) FROM attempts)")
    with pytest.raises(StoreError, match=r"transcript of attempt \w{32} is damaged"):
        export(store, "r", folder / "out.parquet", force=True)
    assert (folder / "out.parquet").read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["out.parquet"]


def test_an_unknown_run_or_format_or_folder_is_named(store: Store, folder: Path) -> None:
    store.add_run(Run("demo", {}, 0, (), "2026-01-01", {}), [])
    with pytest.raises(UnknownName, match=r"unknown export format '\.xlsx'"):
        export(store, "demo", folder / "out.xlsx")
    with pytest.raises(UnknownName, match="Did you mean 'demo'"):
        export(store, "dmo", folder / "out.jsonl")
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        export(store, "demo", folder / "none" / "out.jsonl")
