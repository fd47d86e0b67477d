"""Programs that take all they can get, in the docker backend on a real engine."""

from __future__ import annotations

import asyncio
import textwrap
from dataclasses import replace

import pytest

from helpers.docker_engine import SMALL, facts, gone
from testbed.sandbox.docker import Docker
from testbed.sandbox.docker_engine import Engine

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_program_may_use_the_cpu_time_of_all_cores_that_it_has_and_leaves_no_core(engine):
    code = """
    import json, resource
    print(json.dumps([resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_CORE)]))
    """
    session = await Docker().open(replace(SMALL, cpus=2.0))
    try:
        cpu, core = await facts(session, code)
    finally:
        await session.close()
    seconds = SMALL.wall_seconds * (min(2, engine.cores) if engine.limits_cpu else engine.cores) + 1
    assert cpu == [seconds, seconds + 1]
    assert core == [1, 1]  # at 0, and only there, the kernel would feed one to a `core_pattern` that is a program


async def test_kernel_memory_counts_and_the_engine_knows_who_ran_out_of_it(engine):
    filling = """
    import os, socket
    for _ in range(20):
        if os.fork() == 0: break
    pairs = []
    while True:
        try: pair = socket.socketpair()
        except OSError: break
        pairs.append(pair)
        pair[0].setblocking(False)
        try:
            while True: pair[0].send(bytes(1 << 16))
        except OSError: pass
    import time; time.sleep(60)
    """
    hungry, modest = [await Docker().open(SMALL) for _ in range(2)]
    try:
        links = hungry._link, modest._link
        result = await hungry.run(textwrap.dedent(filling))
        assert result.status != "ok", result
        assert [engine.ran_out_of_memory(link.name) for link in links] == [True, False]
    finally:
        await hungry.close()
        await modest.close()


async def test_a_bomb_is_ended_with_all_cores_and_the_limit_stands_again_afterwards(engine, monkeypatch):
    asked, real = [], Engine.set_cpus

    def set_cpus(self, name, cpus):
        asked.append(cpus)
        real(self, name, cpus)

    monkeypatch.setattr(Engine, "set_cpus", set_cpus)
    session = await Docker().open(replace(SMALL, processes=64))
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"

    def quota() -> int:
        return engine.api.inspect_container(session._link.name)["HostConfig"]["CpuQuota"]

    try:
        before = await asyncio.to_thread(quota)
        for _ in range(3):
            assert (await session.repl(bomb, timeout=0.3)).status == "timeout"
        assert (await session.run("print(1)")).stdout == "1\n"
        if session._link._pace is not None:  # a machine may be quick enough without
            await session._link._pace  # the engine is asked beside the calls
            assert asked == [None, SMALL.cpus] * (len(asked) // 2)
        assert await gone(lambda: quota() != before)
    finally:
        await session.close()
