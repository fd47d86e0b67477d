"""A real docker engine for tests, where there is one, and what they look at in it."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import textwrap
import time
from collections.abc import Callable

from testbed.errors import SandboxDied
from testbed.sandbox.base import Limits
from testbed.sandbox.docker_engine import Engine
from testbed.sandbox.docker_owner import OWNER, Owner
from testbed.sandbox.root import python_root

SMALL = Limits(wall_seconds=3.0, memory_mib=128, processes=32, scratch_mib=16, output_kib=16, file_mib=8, cpus=0.5)
GONE_SECONDS = 10.0  # two on a quiet machine


@functools.cache
def fault() -> str:
    """Why no engine can be used here; empty if one can."""
    if "TESTBED_NO_ENGINE" in os.environ:
        return os.environ["TESTBED_NO_ENGINE"]
    try:
        Engine(python_root()).connect()
    except SandboxDied as error:
        return f"{error} (scripts/with-engine starts one for a command)"
    return ""


async def output(session, code: str) -> str:
    result = await session.run(textwrap.dedent(code))
    assert result.status == "ok", result
    return result.stdout


async def facts(session, code: str):
    return json.loads(await output(session, code))


def containers(engine: Engine, pid: int) -> list[str]:
    """Names of the containers that a process on this machine started."""
    found = engine.api.containers(all=True, filters={"label": OWNER})
    owned = [(one, Owner.read(one["Labels"][OWNER])) for one in found]
    return [one["Names"][0] for one, owner in owned if owner is not None and owner.pid == pid]


async def gone(check: Callable[[], object]) -> bool:
    """Whether what `check` sees goes away in time."""
    end = time.monotonic() + GONE_SECONDS
    while seen := await asyncio.to_thread(check):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.05)
    return not seen
