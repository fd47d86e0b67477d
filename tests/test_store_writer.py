"""The writer: batches, durability, and what a kill or a full disk costs; in both databases."""

from __future__ import annotations

import asyncio
import random
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from helpers.processes import talking
from helpers.stored import ARMS, TASKS, make_attempt, make_run
from testbed.errors import StoreError
from testbed.store import Store
from testbed.store import schema as store_schema
from testbed.store.writer import AttemptWriter
from testbed.types import Attempt


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@contextmanager
def locked(where: str) -> Iterator[Callable[[], None]]:
    """Somebody else writes to the store, until the end or until what is given is called."""
    other = store_schema.Database(where, create=False)
    with ExitStack() as held:
        held.callback(other.close)
        held.enter_context(other.writing())
        yield held.close


async def test_every_attempt_is_reported_durable_once_on_the_event_loop(where: str) -> None:
    reported: list[str] = []
    threads = set()

    def note(batch: list[Attempt]) -> None:
        threads.add(threading.current_thread())
        with other.reading() as connection:  # which sees only what was committed
            assert set(connection.scalars(sa.select(store_schema.attempts.c.id))) >= {a.id for a in batch}
        reported.extend(a.id for a in batch)

    attempts = [make_attempt(sample=n) for n in range(1000)]
    with Store.open(where) as store:
        other = store_schema.Database(where, create=False)
        async with store.writer(batch=100) as writer:
            writer.on_durable(note)
            for attempt in attempts:
                await writer.add(attempt)
                await asyncio.sleep(0)
        other.close()
    assert reported == [a.id for a in attempts]
    assert threads == {threading.current_thread()}


async def test_a_lone_attempt_is_durable_soon_without_a_flush(where: str) -> None:
    with Store.open(where) as store:
        async with store.writer() as writer:
            durable = asyncio.Event()
            writer.on_durable(lambda _: durable.set())
            await writer.add(make_attempt())
            await asyncio.wait_for(durable.wait(), 5)
            assert store.find(make_attempt().id) is not None


async def test_flush_waits_until_everything_is_stored(where: str) -> None:
    attempts = [make_attempt(sample=n) for n in range(50)]
    with Store.open(where) as store:
        async with store.writer() as writer:
            for attempt in attempts:
                await writer.add(attempt)
            await writer.flush()
            assert all(store.find(attempt.id) for attempt in attempts)


async def test_add_waits_while_the_database_is_far_behind_and_goes_on_after(where: str) -> None:
    with Store.open(where) as store, locked(where) as release:
        async with AttemptWriter(store._database, batch=10, backlog=30) as writer:
            for n in range(29):
                await asyncio.wait_for(writer.add(make_attempt(sample=n)), 1)
            late = asyncio.create_task(writer.add(make_attempt(sample=29)))
            await asyncio.sleep(0.3)
            assert not late.done()
            release()
            await asyncio.wait_for(late, 5)
        assert all(store.find(make_attempt(sample=n).id) for n in range(30))


async def test_an_attempt_whose_add_is_cancelled_while_it_waits_is_stored(where: str) -> None:
    with Store.open(where) as store, locked(where) as release:
        async with AttemptWriter(store._database, batch=1, backlog=1) as writer:
            waiting = asyncio.create_task(writer.add(make_attempt()))
            await asyncio.sleep(0.1)
            waiting.cancel()
            release()
        assert store.find(make_attempt().id) is not None


async def test_what_was_added_before_an_error_is_stored(where: str) -> None:
    async def add_and_fail(store: Store) -> None:
        async with store.writer() as writer:
            await writer.add(make_attempt())
            raise ZeroDivisionError

    with Store.open(where) as store:
        with pytest.raises(ZeroDivisionError):
            await add_and_fail(store)
        assert store.find(make_attempt().id) is not None


async def test_what_was_added_is_stored_however_often_the_end_is_cancelled(where: str) -> None:
    with Store.open(where) as store:

        async def work() -> None:
            async with store.writer(batch=100) as writer:
                for n in range(150):  # the first hundred are being written, the others wait
                    await writer.add(make_attempt(sample=n))

        with locked(where):
            working = asyncio.create_task(work())
            for _ in range(3):
                await asyncio.sleep(0.01)
                working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        store.add_run(make_run(samples=150), TASKS)
        assert len(store.finished("r")) == 150


async def test_a_database_that_another_process_keeps_locked_is_an_error_that_says_so(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add_for_ever(store: Store) -> None:
        async with store.writer(batch=1) as writer:
            while True:  # the error reaches a later add, since the first returns at once
                await writer.add(make_attempt())
                await asyncio.sleep(0.01)

    monkeypatch.setattr(store_schema, "BUSY_SECONDS", 0.2)
    with Store.open(where) as store, locked(where):
        with pytest.raises(StoreError, match="another process"):
            await asyncio.wait_for(add_for_ever(store), 10)
        with pytest.raises(StoreError, match="another process"):
            store.add_run(make_run(), TASKS)


FILL = """
import asyncio, resource, sys
sys.path.insert(0, sys.argv[2])
from helpers.stored import make_attempt
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
from helpers.stored import TASKS, make_attempt, make_run
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


def kill_and_resume(where: str, seed: int, samples: int) -> None:
    """Kills a writing process at a random moment, checks what it reported, and lets another finish the work."""
    rng = random.Random(seed)
    with talking(script(WRITE, where, 0, samples)) as (process, first):  # now it writes
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        whole_lines = (first + process.communicate()[0]).rpartition("\n")[0].splitlines()
    with Store.open(where, create=False) as store:
        assert all(store.find(make_attempt(sample=int(n)).id) for n in whole_lines)
    subprocess.run(script(WRITE, where, 0, samples), check=True, stdout=subprocess.DEVNULL)
    with Store.open(where, create=False) as store:
        assert list(store.attempts("r")) == [make_attempt(sample=n) for n in range(samples)]
    if "://" not in where:
        with sqlite3.connect(where) as plain:
            assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        plain.close()


def test_a_killed_writer_loses_nothing_that_it_reported_and_resumes_without_duplicates(where: str) -> None:
    kill_and_resume(where, seed=0, samples=2000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_writer_killed_at_any_of_20_moments_loses_nothing_that_it_reported(where: str, seed: int) -> None:
    kill_and_resume(where, seed, samples=4000)


def test_processes_that_make_and_fill_one_store_at_once_lose_nothing(where: str) -> None:
    others = [subprocess.Popen(script(WRITE, where, 0, 1500), stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [other.wait(60) for other in others] == [0, 0, 0, 0]
    with Store.open(where) as store:
        assert list(store.attempts("r")) == [make_attempt(sample=n) for n in range(1500)]


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
