from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from testbed.threads import DaemonThreads, LoopThread


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """What hung functions wait for; set at the end, so that their threads leave."""
    event = threading.Event()
    yield event
    event.set()


async def test_returns_results_and_passes_exceptions_on() -> None:
    threads = DaemonThreads(2)
    assert await threads.run(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    threads.close()


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
async def test_exceptions_that_asyncio_would_take_for_its_own_become_runtime_errors(kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("x")

    threads = DaemonThreads(1)
    with pytest.raises(RuntimeError, match=kind.__name__):
        await threads.run(fail)
    assert await threads.run(lambda: "still there") == "still there"
    threads.close()


def test_callers_on_several_event_loops_hand_their_places_to_one_another() -> None:
    threads, loops = DaemonThreads(1), [LoopThread() for _ in range(2)]
    begun, opened = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert opened.wait(20)

    first = loops[0].submit(threads.run(work))
    assert begun.wait(20)
    second = loops[1].submit(threads.run(lambda: 3))
    while not threads._line:  # the other loop has nothing else to do then
        time.sleep(0.001)
    time.sleep(0.05)
    opened.set()
    assert (first.result(20), second.result(20)) == (None, 3)
    threads.close()
    for loop in loops:
        loop.close()


def test_a_place_whose_caller_has_gone_with_its_event_loop_goes_to_the_next() -> None:
    threads, here, gone = DaemonThreads(1), LoopThread(), asyncio.new_event_loop()
    begun, opened = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert opened.wait(20)

    first = here.submit(threads.run(work))
    assert begun.wait(20)
    lost = gone.create_task(threads.run(lambda: 1))
    gone.run_until_complete(asyncio.sleep(0))
    gone.close()
    opened.set()
    first.result(20)
    assert here.run(threads.run(lambda: 3)) == 3
    lost._log_destroy_pending = False  # type: ignore[attr-defined]
    threads.close()
    here.close()


async def test_never_more_calls_at_once_than_its_size_and_as_many() -> None:
    threads, lock, now, most = DaemonThreads(3), threading.Lock(), 0, 0
    three = threading.Barrier(3, timeout=20)

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        three.wait()
        time.sleep(0.005)
        with lock:
            now -= 1

    await asyncio.gather(*(threads.run(work) for _ in range(30)))
    assert most == 3
    threads.close()


async def test_calls_run_off_the_event_loop_one_after_another_in_one_thread_each() -> None:
    threads = DaemonThreads(4)
    idents = {await threads.run(threading.get_ident) for _ in range(20)}
    assert threading.get_ident() not in idents
    assert len(idents) == 1  # a free thread is used again
    threads.close()


async def test_a_hung_function_times_out_and_leaves_its_place_to_others(hang: threading.Event) -> None:
    threads = DaemonThreads(1)
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"took longer than 0\.02 s"):
            await threads.run(hang.wait, timeout=0.02)
    assert await asyncio.wait_for(threads.run(lambda: 5), 5) == 5
    threads.close()


async def test_many_hung_functions_do_not_use_the_threads_up(hang: threading.Event) -> None:
    threads = DaemonThreads(2)
    hung = [threads.run(hang.wait, timeout=0.02) for _ in range(10)]
    assert all(isinstance(r, TimeoutError) for r in await asyncio.gather(*hung, return_exceptions=True))
    assert await asyncio.wait_for(asyncio.gather(*(threads.run(lambda: 1) for _ in range(5))), 5) == [1] * 5
    threads.close()


async def test_waiting_for_a_free_thread_does_not_count_against_the_timeout() -> None:
    threads = DaemonThreads(1)
    results = await asyncio.gather(*(threads.run(lambda: time.sleep(0.03), timeout=0.4) for _ in range(20)))
    assert results == [None] * 20  # .6 s of work in all
    threads.close()


async def test_a_call_that_begins_late_still_times_out(hang: threading.Event) -> None:
    threads = DaemonThreads(1)
    first = asyncio.create_task(threads.run(lambda: time.sleep(0.1), timeout=5))
    late = asyncio.create_task(threads.run(hang.wait, timeout=0.1))
    await first
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        await late
    assert 0.05 < time.monotonic() - start < 2
    threads.close()


async def test_cancelling_a_running_call_frees_its_place(hang: threading.Event) -> None:
    threads = DaemonThreads(1)
    task = asyncio.create_task(threads.run(hang.wait))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.wait_for(threads.run(lambda: 5), 5) == 5
    threads.close()


async def test_a_call_that_is_cancelled_while_it_waits_is_never_made() -> None:
    threads, made = DaemonThreads(1), []
    first = asyncio.create_task(threads.run(lambda: time.sleep(0.05)))
    second = asyncio.create_task(threads.run(lambda: made.append("second")))
    await asyncio.sleep(0.01)
    second.cancel()
    await first
    await threads.run(lambda: made.append("third"))
    assert made == ["third"]
    threads.close()


async def test_abandoned_threads_leave_once_they_are_done(hang: threading.Event) -> None:
    before, threads = set(threading.enumerate()), DaemonThreads(2)  # earlier tests' threads may still be leaving

    def running() -> int:
        return sum(t.name == "testbed-tool" for t in set(threading.enumerate()) - before)

    for _ in range(6):
        with pytest.raises(TimeoutError):
            await threads.run(hang.wait, timeout=0.01)
    assert running() >= 6
    hang.set()
    threads.close()
    for _ in range(2000):
        if not running():
            break
        await asyncio.sleep(0.01)
    assert not running()


async def test_can_be_used_again_after_being_closed() -> None:
    threads = DaemonThreads(2)
    assert await threads.run(lambda: 1) == 1
    threads.close()
    assert await asyncio.wait_for(threads.run(lambda: 2), 5) == 2
    threads.close()


async def test_idle_threads_do_not_keep_results_alive() -> None:
    class Big:
        pass

    threads = DaemonThreads(1)
    kept = weakref.ref(await threads.run(Big))
    await threads.run(lambda: None)
    gc.collect()
    assert kept() is None
    threads.close()


def test_a_result_that_comes_after_its_loop_was_closed_is_dropped_in_silence(hang: threading.Event) -> None:
    threads = DaemonThreads(1)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(threads.run(lambda: hang.wait(5)), 0.01)

    asyncio.run(give_up())
    hang.set()
    time.sleep(0.05)  # an exception in the thread would be a warning, and warnings are errors


HANGS = """
import asyncio, threading
from testbed.threads import DaemonThreads, LoopThread

async def main():
    try:
        await DaemonThreads(2).run(threading.Event().wait, timeout=0.05)
    except TimeoutError:
        print("timed out")

asyncio.run(main())
LoopThread()  # never closed
"""


def test_a_hung_thread_does_not_keep_the_interpreter_from_exiting() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "timed out\n"
    assert done.stderr == ""


def test_loop_thread_runs_coroutines_for_synchronous_callers() -> None:
    loop = LoopThread()

    async def where() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    async def fail() -> None:
        raise KeyError("x")

    assert loop.run(where()) != threading.get_ident()
    with pytest.raises(KeyError):
        loop.run(fail())
    loop.close()


def test_closing_a_loop_thread_cancels_what_still_runs() -> None:
    loop, ended = LoopThread(), threading.Event()

    async def background() -> None:
        async def forever() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.set()

        asyncio.current_task().kept = asyncio.create_task(forever())  # type: ignore[union-attr]
        await asyncio.sleep(0.01)

    loop.run(background())
    loop.close()
    assert ended.is_set()


def test_closing_a_loop_thread_does_not_wait_for_what_refuses_to_end() -> None:
    loop, let_go = LoopThread(), threading.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                continue

    kept = []

    async def begin() -> None:
        kept.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0.01)

    loop.run(begin())
    start = time.monotonic()
    threading.Timer(2.5, let_go.set).start()
    loop.close()
    assert time.monotonic() - start < 2.4
    kept[0]._log_destroy_pending = False  # it is still pending, as it wanted to be
