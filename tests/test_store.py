from __future__ import annotations

import asyncio
import glob
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from testbed.errors import StoreError, UnknownName
from testbed.store import ArmRecord, Run, Store
from testbed.store import schema as store_schema
from testbed.store.writer import AttemptWriter
from testbed.types import COST_COMPONENTS, Attempt, Cost, Status, Task, attempt_id, digest

TASKS = tuple(Task("Sums-v0", f"{n} + {n}?", 2 * n, cluster=f"c{n % 2}", meta={"size": n}) for n in range(4))
ARMS = tuple(ArmRecord(digest(name), name, {"model": "scripted", "tools": [name]}) for name in ("bare", "python"))
ODD = "nul \x00, half a pair \ud800, 🜁, line \u2028, quote \" and '"


def make_run(name: str = "r", samples: int = 3, seed: int = 7, arms: tuple[ArmRecord, ...] = ARMS) -> Run:
    counts = {arm.name: samples for arm in arms}
    return Run(name, {"seed": seed, "arms": [a.name for a in arms]}, seed, arms, "2026-01-01T00:00:00+00:00", counts)


def make_attempt(task: Task = TASKS[0], arm: ArmRecord = ARMS[0], sample: int = 0, seed: int = 7) -> Attempt:
    return Attempt(
        id=attempt_id(task.hash, arm.hash, sample, seed),
        task=task.hash,
        arm=arm.hash,
        sample=sample,
        seed=seed,
        status=Status.COMPLETE,
        ended="answered",
        success=sample % 2 == 0,
        score=0.1 * sample,
        answer=f"{sample}",
        cost=Cost(10 + sample, 2**40, 3, 2, 1, 2, 0.25, 1e-7),
        faults={"timeout": 1} if sample else {},
        transcript=({"role": "user", "content": task.prompt, "remaining": {"turns": 3}},),
    )


def missing(attempt: Attempt) -> Attempt:
    return replace(attempt, status=Status.MISSING, ended="missing:sandbox_died", success=None, score=None, answer=None)


def every_attempt(run: Run) -> list[Attempt]:
    return [make_attempt(task, arm, n, run.seed) for arm in run.arms for task in TASKS for n in range(3)]


async def put(store: Store, *attempts: Attempt) -> None:
    async with store.writer() as writer:
        for attempt in attempts:
            await writer.add(attempt)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a throw-away PostgreSQL server, where the machine has the programs and the driver."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    places = [*glob.glob("/usr/lib/postgresql/*/bin"), os.environ["PATH"]]  # Debian keeps them off the PATH
    initdb, pg_ctl = (shutil.which(name, path=os.pathsep.join(places)) for name in ("initdb", "pg_ctl"))
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed (Debian: postgresql)")
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="testbed-pg"))
    if user:
        shutil.chown(folder, user)
    options = {"check": True, "user": user, "cwd": folder, "stdout": subprocess.DEVNULL}
    subprocess.run([initdb, "-D", "data", "-U", "tester", "--auth=trust", "-E", "UTF8"], **options)
    serve = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run([pg_ctl, "-D", "data", "-w", "-l", "log", "-o", serve, "start"], **options)
    try:
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        subprocess.run([pg_ctl, "-D", "data", "-m", "immediate", "stop"], **options)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for a new store, in each database."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.sqlite")
        return
    url = request.getfixturevalue("postgres")
    yield url
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    store_schema.schema.drop_all(engine)
    engine.dispose()


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    with Store.open(where) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


# -- attempts


async def test_an_attempt_comes_back_as_it_was_stored(store: Store) -> None:
    attempt = make_attempt(sample=1)
    await put(store, attempt)
    assert store.find(attempt.id) == attempt


async def test_text_that_databases_refuse_comes_back_as_it_was_stored(store: Store) -> None:
    task = Task("Odd-v0", ODD.replace("\ud800", ""), {"answer": ODD}, cluster=ODD, meta={"note": ODD})
    odd = replace(make_attempt(task), answer=ODD, transcript=({"role": "assistant", "content": ODD},))
    store.add_run(make_run(), [task])
    await put(store, odd)
    assert store.find(odd.id) == odd
    assert store.tasks("r") == (task,)
    assert store.tasks("r")[0].meta == task.meta


async def test_a_complete_attempt_never_changes(store: Store) -> None:
    first = make_attempt()
    await put(store, first)
    await put(store, replace(first, success=False, transcript=()))
    await put(store, missing(first))
    assert store.find(first.id) == first


async def test_a_missing_attempt_gives_way_with_its_transcript(store: Store) -> None:
    second = make_attempt()
    await put(store, missing(replace(second, transcript=({"role": "system", "content": "the sandbox died"},))))
    await put(store, second)
    assert store.find(second.id) == second


async def test_within_one_batch_the_complete_attempt_wins(store: Store) -> None:
    early, late = make_attempt(sample=0), make_attempt(sample=1)
    await put(store, early, missing(early), missing(late), late)
    assert store.find(early.id) == early
    assert store.find(late.id) == late


async def test_finished_leaves_out_missing_attempts(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    await put(store, make_attempt(sample=0), missing(make_attempt(sample=1)))
    assert store.finished("r") == {make_attempt(sample=0).id}


async def test_an_attempt_is_found_by_the_first_characters_of_its_id(store: Store) -> None:
    attempts = [make_attempt(sample=n) for n in range(40)]
    await put(store, *attempts)
    assert store.attempt(attempts[3].id[:12]) == attempts[3]
    assert store.attempt(attempts[3].id) == attempts[3]
    common = next(c for c in "0123456789abcdef" if sum(a.id.startswith(c) for a in attempts) > 1)
    with pytest.raises(StoreError, match=r"several attempts .* Give more characters"):
        store.attempt(common)
    with pytest.raises(StoreError, match=r"no attempt in .* begins with"):
        store.attempt("0" * 32)
    with pytest.raises(StoreError, match="32 characters"):
        store.attempt("demo%")


# -- runs


def test_a_run_and_its_tasks_come_back_in_order(store: Store) -> None:
    run, backwards = make_run(), TASKS[::-1]
    store.add_run(run, backwards)
    assert store.run("r") == run
    assert store.tasks("r") == backwards
    assert [task.meta for task in store.tasks("r")] == [task.meta for task in backwards]


def test_adding_the_same_run_again_changes_nothing(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    later = replace(make_run(), created="2027-01-01T00:00:00+00:00")
    store.add_run(later, TASKS)
    assert store.run("r") == make_run()
    assert len(store.runs()) == 1


def test_a_changed_experiment_is_refused_with_what_changed(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    harder = ArmRecord(digest("other"), "python", {"model": "scripted", "tools": ["search"]})
    changed = replace(make_run(seed=8, arms=(ARMS[0], harder)), samples={"bare": 3, "python": 5})
    with pytest.raises(StoreError) as caught:
        store.add_run(changed, TASKS[:3])
    said = str(caught.value)
    for part in ("seed 7 → 8", 'tools[0] "python" → "search"', "samples of 'python' 3 → 5", "tasks: 1 removed"):
        assert part in said, said
    assert store.run("r") == make_run()


def test_a_task_keeps_its_newest_labels(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    relabelled = [replace(task, cluster="all", meta={"size": 0}) for task in TASKS]
    store.add_run(make_run(), relabelled)
    assert {task.cluster for task in store.tasks("r")} == {"all"}


async def test_runs_share_attempts_of_the_same_content(store: Store) -> None:
    store.add_run(make_run("first"), TASKS)
    await put(store, *every_attempt(make_run()))
    store.add_run(make_run("second", arms=ARMS[:1]), TASKS[:2])
    bare = {
        a.id for a in every_attempt(make_run()) if a.arm == ARMS[0].hash and a.task in (TASKS[0].hash, TASKS[1].hash)
    }
    assert store.finished("second") == bare


@pytest.mark.parametrize(
    ("samples", "seed", "stored"), [(3, 7, 24), (2, 7, 16), (5, 7, 24), (3, 8, 0)], ids=["all", "fewer", "more", "seed"]
)
async def test_a_run_has_only_attempts_of_its_seed_and_sample_count(
    store: Store, samples: int, seed: int, stored: int
) -> None:
    store.add_run(make_run(samples=samples, seed=seed), TASKS)
    await put(store, *every_attempt(make_run()))
    assert len(store.outcomes("r").task) == len(store.finished("r")) == store.runs()[0].attempts == stored


async def test_two_arms_of_equal_content_both_have_the_attempts(store: Store) -> None:
    twin = replace(ARMS[0], name="bare again")
    store.add_run(make_run(arms=(ARMS[0], twin)), TASKS)
    await put(store, *every_attempt(make_run()))
    assert np.bincount(store.outcomes("r").arm).tolist() == [12, 12]
    assert len(list(store.attempts("r", arm="bare again"))) == 12


async def test_runs_are_summed_up_oldest_first(store: Store) -> None:
    store.add_run(make_run("b"), TASKS)
    store.add_run(replace(make_run("a"), created="2026-02-01T00:00:00+00:00"), TASKS[:1])
    await put(store, make_attempt(), missing(make_attempt(TASKS[1])))
    assert [(s.name, s.tasks, s.arms, s.attempts, s.missing) for s in store.runs()] == [
        ("b", 4, 2, 2, 1),
        ("a", 1, 2, 1, 0),
    ]


@pytest.mark.parametrize("read", ["run", "tasks", "finished", "outcomes", "attempts"])
def test_an_unknown_run_is_named_with_the_nearest_one(store: Store, read: str) -> None:
    store.add_run(make_run("demonstration"), TASKS)
    with pytest.raises(UnknownName, match="Did you mean 'demonstration'"):
        list(getattr(store, read)("demonstratoin"))


@pytest.mark.parametrize("name", ["", " ", "a\nb"])
def test_a_run_needs_a_printable_name(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="printable"):
        store.add_run(make_run(name), TASKS)


# -- outcomes


async def test_outcomes_are_the_attempts_in_order_whatever_order_they_were_stored_in(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    attempts = every_attempt(make_run())
    attempts[5] = missing(attempts[5])
    shuffled = attempts.copy()
    random.Random(0).shuffle(shuffled)
    await put(store, *shuffled)

    got = store.outcomes("r")
    assert got.tasks == TASKS
    assert got.arms == ARMS
    hashes = [task.hash for task in TASKS]
    assert [hashes[t] for t in got.task] == [a.task for a in attempts]
    assert [ARMS[n].hash for n in got.arm] == [a.arm for a in attempts]
    assert got.sample.tolist() == [a.sample for a in attempts]
    assert got.success.tolist() == [-1 if a.success is None else int(a.success) for a in attempts]
    assert got.cost.tolist() == [list(map(float, a.cost.as_dict().values())) for a in attempts]
    assert got.ended.tolist() == [a.ended for a in attempts]
    assert got.faults.tolist() == [sum(a.faults.values()) for a in attempts]
    assert list(store.attempts("r")) == attempts


async def test_outcomes_keep_every_ending_and_sum_of_faults(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.store._BLOCK", 5)  # the 24 attempts come in several blocks
    store.add_run(make_run(), TASKS)
    endings = ("answered", "limit:turns", "limit:tool_calls", "answered")
    faults: tuple[dict[str, int], ...] = ({}, {"timeout": 2}, {"timeout": 1, "parse_error": 3})
    attempts = [
        replace(attempt, ended=endings[i % 4], faults=faults[i % 3])
        for i, attempt in enumerate(every_attempt(make_run()))
    ]
    await put(store, *reversed(attempts))
    got = store.outcomes("r")
    assert got.ended.tolist() == [attempt.ended for attempt in attempts]
    assert got.faults.tolist() == [sum(attempt.faults.values()) for attempt in attempts]
    assert got.cost.tolist() == [list(map(float, a.cost.as_dict().values())) for a in attempts]


async def test_outcomes_need_no_transcript(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    await put(store, *every_attempt(make_run()))
    whole = store.outcomes("r")
    with store._database.writing() as connection:
        connection.execute(sa.text("UPDATE transcripts SET data = :data"), {"data": b"damaged"})
    assert store.outcomes("r").success.tolist() == whole.success.tolist()
    with pytest.raises(StoreError, match="damaged"):
        store.find(every_attempt(make_run())[0].id)


def test_a_run_without_attempts_has_empty_arrays_of_the_right_shape(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    got = store.outcomes("r")
    assert got.cost.shape == (0, len(COST_COMPONENTS))
    assert [a.dtype for a in (got.task, got.arm, got.sample, got.success, got.cost, got.faults)] == [
        np.int32,
        np.int32,
        np.int32,
        np.int8,
        np.float64,
        np.int32,
    ]


async def test_attempts_are_selected_by_task_and_arm_and_come_without_texts_on_request(store: Store) -> None:
    store.add_run(make_run(), TASKS)
    await put(store, *every_attempt(make_run()))
    some = list(store.attempts("r", task=TASKS[1].hash, arm="python", texts=False))
    assert some == [replace(make_attempt(TASKS[1], ARMS[1], n), transcript=()) for n in range(3)]
    with pytest.raises(UnknownName, match="Did you mean 'python'"):
        list(store.attempts("r", arm="pythonn"))


# -- the writer


async def test_every_attempt_is_reported_durable_once_on_the_event_loop(file: Path) -> None:
    reported: list[str] = []
    threads = set()

    def note(batch: list[Attempt]) -> None:
        threads.add(threading.current_thread())
        with sqlite3.connect(file) as other:  # another connection sees only what was committed
            stored = {id for (id,) in other.execute("SELECT id FROM attempts")}
        other.close()
        assert stored >= {a.id for a in batch}
        reported.extend(a.id for a in batch)

    attempts = [make_attempt(sample=n) for n in range(1000)]
    with Store.open(file) as store:
        async with store.writer(batch=100) as writer:
            writer.on_durable(note)
            for attempt in attempts:
                await writer.add(attempt)
                await asyncio.sleep(0)
    assert reported == [a.id for a in attempts]
    assert threads == {threading.current_thread()}


async def test_a_lone_attempt_is_durable_soon_without_a_flush(file: Path) -> None:
    with Store.open(file) as store:
        async with store.writer() as writer:
            durable = asyncio.Event()
            writer.on_durable(lambda _: durable.set())
            await writer.add(make_attempt())
            await asyncio.wait_for(durable.wait(), 5)
            assert store.find(make_attempt().id) is not None


async def test_flush_waits_until_everything_is_stored(file: Path) -> None:
    attempts = [make_attempt(sample=n) for n in range(50)]
    with Store.open(file) as store:
        async with store.writer() as writer:
            for attempt in attempts:
                await writer.add(attempt)
            await writer.flush()
            assert all(store.find(attempt.id) for attempt in attempts)


async def test_add_waits_while_the_database_is_far_behind_and_goes_on_after(file: Path) -> None:
    with Store.open(file) as store:
        blocker = sqlite3.connect(file, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        async with AttemptWriter(store._database, batch=10, backlog=30) as writer:
            for n in range(29):
                await asyncio.wait_for(writer.add(make_attempt(sample=n)), 1)
            late = asyncio.create_task(writer.add(make_attempt(sample=29)))
            await asyncio.sleep(0.3)
            assert not late.done()
            blocker.execute("ROLLBACK")
            blocker.close()
            await asyncio.wait_for(late, 5)
        assert all(store.find(make_attempt(sample=n).id) for n in range(30))


async def test_an_attempt_whose_add_is_cancelled_while_it_waits_is_stored(file: Path) -> None:
    with Store.open(file) as store:
        blocker = sqlite3.connect(file, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        async with AttemptWriter(store._database, batch=1, backlog=1) as writer:
            waiting = asyncio.create_task(writer.add(make_attempt()))
            await asyncio.sleep(0.1)
            waiting.cancel()
            blocker.close()
        assert store.find(make_attempt().id) is not None


async def test_what_was_added_before_an_error_is_stored(file: Path) -> None:
    async def add_and_fail(store: Store) -> None:
        async with store.writer() as writer:
            await writer.add(make_attempt())
            raise ZeroDivisionError

    with Store.open(file) as store:
        with pytest.raises(ZeroDivisionError):
            await add_and_fail(store)
        assert store.find(make_attempt().id) is not None


async def test_a_database_that_another_process_keeps_locked_is_an_error_that_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add_for_ever(store: Store) -> None:
        async with store.writer(batch=1) as writer:
            while True:  # the error reaches a later add, since the first returns at once
                await writer.add(make_attempt())
                await asyncio.sleep(0.01)

    monkeypatch.setattr(store_schema, "BUSY_SECONDS", 0.2)
    with Store.open(file) as store:
        blocker = sqlite3.connect(file, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process"):
            await asyncio.wait_for(add_for_ever(store), 10)
        with pytest.raises(StoreError, match="another process"):
            store.add_run(make_run(), TASKS)
        blocker.close()


FILL = """
import asyncio, resource, sys
sys.path.insert(0, sys.argv[2])
from test_store import make_attempt
from testbed.errors import StoreError
from testbed.store import Store

async def main():
    with Store.open(sys.argv[1]) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # the disk is full from here on
        durable = []
        try:
            async with store.writer(batch=50) as writer:
                writer.on_durable(durable.extend)
                for n in range(100_000):
                    await writer.add(make_attempt(sample=n))
                    await asyncio.sleep(0)
        except StoreError as error:
            print(len(durable))
            print(error)

asyncio.run(main())
"""


def script(source: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", source, *map(str, arguments), str(Path(__file__).parent)]


def test_a_full_disk_ends_the_run_with_an_error_and_loses_nothing_that_was_reported(file: Path) -> None:
    done = subprocess.run(script(FILL, file), capture_output=True, text=True, timeout=60, check=True)
    count, message = done.stdout.strip().splitlines()
    assert "the disk" in message
    assert int(count) > 0
    with Store.open(file) as store:
        assert all(store.find(make_attempt(sample=n).id) for n in range(int(count)))


WRITE = """
import asyncio, sys
sys.path.insert(0, sys.argv[4])
from test_store import TASKS, make_attempt, make_run
from testbed.store import Store

async def main():
    start, end = int(sys.argv[2]), int(sys.argv[3])
    with Store.open(sys.argv[1]) as store:
        store.add_run(make_run(samples=end), TASKS)
        finished = store.finished("r")
        async with store.writer(batch=20) as writer:
            writer.on_durable(lambda batch: print(*(a.sample for a in batch), sep="\\n", flush=True))
            for n in range(start, end):
                if make_attempt(sample=n).id not in finished:
                    await writer.add(make_attempt(sample=n))
                    await asyncio.sleep(0)

asyncio.run(main())
"""


def kill_and_resume(file: Path, seed: int, samples: int) -> None:
    """Kills a writing process at a random moment, checks what it reported, and lets another finish the work."""
    rng = random.Random(seed)
    process = subprocess.Popen(script(WRITE, file, 0, samples), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()  # now it writes
    time.sleep(rng.uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    whole_lines = (first + process.stdout.read()).rpartition("\n")[0].splitlines()
    process.stdout.close()
    process.wait()
    with Store.open(file, create=False) as store:
        assert all(store.find(make_attempt(sample=int(n)).id) for n in whole_lines)
    subprocess.run(script(WRITE, file, 0, samples), check=True, stdout=subprocess.DEVNULL)
    with Store.open(file, create=False) as store:
        assert list(store.attempts("r")) == [make_attempt(sample=n) for n in range(samples)]
    with sqlite3.connect(file) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    plain.close()


def test_a_killed_writer_loses_nothing_that_it_reported_and_resumes_without_duplicates(file: Path) -> None:
    kill_and_resume(file, seed=0, samples=2000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_writer_killed_at_any_of_20_moments_loses_nothing_that_it_reported(file: Path, seed: int) -> None:
    kill_and_resume(file, seed, samples=4000)


def test_processes_that_make_and_fill_one_store_at_once_lose_nothing(file: Path) -> None:
    others = [subprocess.Popen(script(WRITE, file, 0, 1500), stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [other.wait(60) for other in others] == [0, 0, 0, 0]
    with Store.open(file) as store:
        assert list(store.attempts("r")) == [make_attempt(sample=n) for n in range(1500)]


# -- opening


@pytest.mark.parametrize("create", [True, False])
def test_a_store_of_a_newer_schema_is_refused_with_what_to_do(where: str, create: bool) -> None:
    Store.open(where).close()
    database = store_schema.Database(where, create=False)
    with database.writing() as connection:
        connection.execute(store_schema.meta.update().values(value="99"))
    database.close()
    with pytest.raises(StoreError, match=r"schema 99; .* knows schema 1\. Upgrade"):
        Store.open(where, create=create)


def test_opening_to_read_makes_no_file(file: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store .*store\.sqlite\. Make one with `testbed run`"):
        Store.open(file, create=False)
    assert list(file.parent.iterdir()) == []


def test_a_database_without_a_store_is_not_opened_to_read(where: str) -> None:
    if "://" not in where:
        Path(where).touch()
    with pytest.raises(StoreError, match="holds no testbed store"):
        Store.open(where, create=False)


def test_a_file_that_is_no_database_is_refused_and_left_alone(file: Path) -> None:
    file.write_text("task,success\n" * 100)
    for create in (True, False):
        with pytest.raises(StoreError, match="not an SQLite database"):
            Store.open(file, create=create)
    assert file.read_text() == "task,success\n" * 100


def test_a_database_of_something_else_is_refused_and_left_alone(file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"something else \(tables bookmarks\)"):
        Store.open(file)
    assert file.read_bytes() == before


def test_a_foreign_meta_table_is_not_taken_for_a_store(file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    other.close()
    with pytest.raises(StoreError, match="not a testbed store"):
        Store.open(file)


def test_a_damaged_store_says_so(file: Path) -> None:
    with Store.open(file) as store:
        store.add_run(make_run(), TASKS)
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreError, match="damaged"):
        Store.open(file, create=False).runs()


def test_a_changed_task_is_noticed(file: Path) -> None:
    with Store.open(file) as store:
        store.add_run(make_run(), TASKS)
    with sqlite3.connect(file) as other:
        other.execute("UPDATE tasks SET reference = '999' WHERE hash = ?", [TASKS[2].hash])
    other.close()
    with Store.open(file) as store, pytest.raises(StoreError, match=TASKS[2].hash):
        store.tasks("r")


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path} is a folder"):
        Store.open(tmp_path)


def test_a_store_in_a_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no folder .*/nowhere"):
        Store.open(tmp_path / "nowhere" / "store.sqlite")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which not even root may make files")
def test_a_folder_that_cannot_be_written_is_refused_by_name() -> None:
    with pytest.raises(StoreError, match=r"/proc/store\.sqlite.* cannot be opened"):
        Store.open("/proc/store.sqlite")


def test_a_read_only_store_can_be_read_and_says_why_it_is_not_written(file: Path) -> None:
    with Store.open(file) as store:
        store.add_run(make_run(), TASKS)
    file.chmod(0o400)
    if os.access(file, os.W_OK):
        pytest.skip("this user may write everything")
    with Store.open(file) as store:
        assert store.run("r") == make_run()
        with pytest.raises(StoreError, match="read-only"):
            store.add_run(make_run("other"), TASKS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u@h/d", "not in 'mysql'"),
        ("sqlite://", "must be a file"),
        ("nonsense://", "not in 'nonsense'"),
        ("://x", "cannot be read"),
        ("", "no path"),
    ],
)
def test_a_place_that_cannot_hold_a_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Store.open(url)


def test_a_password_is_not_repeated_in_errors() -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql://me:hush@localhost:1/nothing")
    assert "hush" not in str(caught.value)
    assert "me:***@localhost" in str(caught.value)


# -- speed


@pytest.mark.slow
async def test_100000_outcomes_load_in_about_a_second_and_stream_in_flat_memory(file: Path) -> None:
    samples = 12_500
    with Store.open(file) as store:
        store.add_run(make_run(samples=samples), TASKS)
        grown = []
        async with store.writer() as writer:
            for n in range(samples):
                for arm in ARMS:
                    for task in TASKS:
                        await writer.add(make_attempt(task, arm, n))
                if n in (samples // 4, samples - 1):
                    grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        assert grown[1] - grown[0] < 32 * 1024  # KiB
        began = time.process_time()
        assert len(store.outcomes("r").task) == 100_000
        assert time.process_time() - began < 2
