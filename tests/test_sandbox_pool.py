"""The pool of warm sandboxes, over the real backend."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import time

import pytest

from helpers.processes import programs_of
from testbed.errors import SandboxDied, UnknownName, UsageError
from testbed.sandbox import Bwrap, Limits, Pool

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed (apt install bubblewrap)"
)

SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16)


@pytest.fixture
async def pool():
    pool = Pool(Bwrap(), SMALL, size=2)
    yield pool
    await pool.close()


async def warm(pool: Pool) -> None:
    await pool.start()
    while len(pool._warm) < 2:
        await asyncio.sleep(0.01)


async def test_warm_session_is_taken_in_under_a_millisecond(pool):
    await warm(pool)
    gc.collect()  # now, and not in the moment that is measured
    ready, began = set(pool._warm), time.thread_time()
    with pytest.raises(StopIteration) as taken:  # it waits for nothing, so that only what it computes takes time
        pool.acquire().send(None)
    took = time.thread_time() - began
    session = taken.value.value
    assert session in ready
    assert (await session.run("print(1)")).stdout == "1\n"
    assert took < 1e-3


async def test_every_attempt_gets_a_sandbox_that_nobody_used(pool):
    workers = set()
    for _ in range(5):
        async with pool.session() as session:
            workers.add(session._link.worker_pid)
            assert (
                await session.run("import os; print(os.listdir('/tmp')); open('left', 'w')")
            ).stdout == "['main.py']\n"
    assert len(workers) == 5


async def test_never_more_sandboxes_than_its_size(pool):
    most = held = 0

    async def attempt() -> None:
        nonlocal most, held
        async with pool.session() as session:
            held += 1
            most = max(most, held, pool._alive)
            assert (await session.run("print(1)")).status == "ok"
            held -= 1

    await asyncio.gather(*(attempt() for _ in range(12)))
    assert most == 2


async def test_a_sandbox_that_dies_costs_its_own_call_only(pool):
    async with pool.session() as victim, pool.session() as bystander:
        calls = [
            asyncio.create_task(session.run(f"import time; time.sleep({seconds}); print('done')"))
            for session, seconds in ((victim, 60), (bystander, 0.6))
        ]
        assert await programs_of(victim._link.worker_pid)
        os.kill(victim._link.worker_pid, signal.SIGKILL)
        dead, fine = await asyncio.gather(*calls)
        assert (dead.status, fine.status) == ("sandbox_died", "ok")
        assert (await victim.run("print('again')")).stdout == "again\n"
    async with pool.session() as session:
        assert (await session.run("print('next')")).stdout == "next\n"


async def test_waiting_for_a_sandbox_can_be_cancelled_without_losing_one(pool):
    first, second = await pool.acquire(), await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await pool.release(first)
    await pool.release(second)
    async with asyncio.timeout(5), pool.session() as one, pool.session() as two:
        assert one is not two


async def test_releasing_twice_is_harmless(pool):
    session = await pool.acquire()
    await pool.release(session)
    await pool.release(session)
    async with asyncio.timeout(5), pool.session(), pool.session():
        assert pool._alive == 2


async def test_close_ends_sandboxes_in_use_and_refuses_more():
    pool = Pool(Bwrap(), SMALL, size=2)
    session = await pool.acquire()
    pid = session._link.worker_pid
    await pool.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert pool._alive == 0
    with pytest.raises(SandboxDied, match="closed"):
        await pool.acquire()


async def test_close_tells_those_who_wait():
    pool = Pool(Bwrap(), SMALL, size=1)
    await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.05)
    await pool.close()
    with pytest.raises(SandboxDied, match="closed"):
        await waiting


async def test_everybody_hears_of_a_backend_that_cannot_start():
    pool = Pool(Bwrap("no-such-bwrap"), SMALL, size=2)
    async with asyncio.timeout(5):
        errors = await asyncio.gather(*(pool.acquire() for _ in range(5)), return_exceptions=True)
    assert all(isinstance(error, SandboxDied) for error in errors)
    assert "not installed" in str(errors[0])
    await pool.close()


async def test_a_backend_that_was_asked_for_too_much_says_so_and_keeps_nobody_waiting():
    pool = Pool(Bwrap(packages=("no-such-package",)), SMALL, size=2)
    async with asyncio.timeout(5):
        errors = await asyncio.gather(*(pool.acquire() for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [UnknownName] * 3
    await pool.close()


class Strange(Bwrap):
    """A backend of somebody else's: it fails in ways of its own, so often, and then does as it should."""

    name = "strange"

    def __init__(self, opening: BaseException | None = None, ending: Exception | None = None, times: int = 99) -> None:
        super().__init__()
        self.opening, self.ending, self.times = opening, ending, times

    async def open(self, limits: Limits):
        if self.opening is not None and self.times > 0:
            self.times -= 1
            raise self.opening
        session = await super().open(limits)
        return StrangeSession(session, self.ending) if self.ending is not None else session


class StrangeSession:
    """A session that ends, and then complains."""

    def __init__(self, session, ending: Exception) -> None:
        self.run, self._session, self._ending = session.run, session, ending

    async def close(self) -> None:
        await self._session.close()
        raise self._ending


@pytest.mark.parametrize(
    "error", [RuntimeError("no licence"), TimeoutError(), KeyError("x"), OSError(24, "full"), asyncio.CancelledError()]
)
async def test_whatever_a_backend_raises_everybody_who_waits_hears_of_it_as_of_a_sandbox_that_died(error):
    """Not as it is: a tool takes an error that it does not know for the program's, which would be scored."""
    pool = Pool(Strange(error), SMALL, size=2)
    async with asyncio.timeout(10):
        told = await asyncio.gather(*(pool.acquire() for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in told] == [SandboxDied] * 5
    assert f"'strange' could not open a sandbox: {type(error).__name__}" in str(told[0])
    assert told[0].__cause__ is error
    assert pool._alive == 0
    await pool.close()


async def test_a_backend_that_recovers_serves_the_next():
    pool = Pool(Strange(RuntimeError("busy"), times=2), SMALL, size=1)
    async with asyncio.timeout(20):
        for _ in range(2):
            with pytest.raises(SandboxDied, match="busy"):
                await pool.acquire()
        async with pool.session() as session:
            assert (await session.run("print(1)")).stdout == "1\n"
    await pool.close()


async def test_what_cannot_be_ended_keeps_no_place_and_is_told_once_all_are_gone():
    pool = Pool(Strange(ending=RuntimeError("stuck")), SMALL, size=1)
    async with asyncio.timeout(20):
        for _ in range(3):  # on one place
            session = await pool.acquire()
            await pool.release(session)
        await pool.acquire()
        with pytest.raises(RuntimeError, match="stuck"):
            await pool.close()
    assert pool._alive == 0
    assert not pool._tasks


def test_size_below_one_is_refused():
    with pytest.raises(UsageError, match="size"):
        Pool(Bwrap(), SMALL, size=0)


@pytest.mark.slow
async def test_soak_with_hostile_programs_leaks_nothing():
    programs = [
        ("print(1)", {"ok"}),
        ("1/0", {"error"}),
        ("import os\nfor _ in range(6): os.fork()", {"ok", "error"}),
        ("import os\nwhile True: os.write(1, b'x' * 4096)", {"timeout"}),
        ("import os\nif os.fork() == 0:\n  os.setsid()\n  while True: pass", {"ok"}),
        ("x = bytearray(1 << 30)", {"error"}),
        ("import ctypes; ctypes.string_at(0)", {"killed"}),
        ("for i in range(2000): open(f'f{i}', 'w').write('x')", {"ok"}),
    ]
    others = children()
    pool = Pool(Bwrap(), SMALL, size=4)

    async def attempt(number: int) -> None:
        async with pool.session() as session:
            for step in range(8):
                code, wanted = programs[(number + step) % len(programs)]
                result = await session.run(code, timeout=1.5 if wanted != {"timeout"} else 0.1)
                assert result.status in wanted, (code, result)

    async def round_of(attempts: int) -> int:
        await asyncio.gather(*(attempt(n) for n in range(attempts)))
        return len(os.listdir("/proc/self/fd"))

    before = await round_of(4)
    after = await round_of(40)
    await pool.close()
    assert after <= before + 4  # sandboxes that are just starting or ending
    assert pool._alive == 0
    assert children() <= others


def children() -> set[str]:
    return {pid for pid in os.listdir("/proc") if pid.isdecimal() and _parent(pid) == os.getpid()}


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0
