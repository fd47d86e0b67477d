"""Hosts of sandboxes, to see what becomes of these when something happens to them, and where something is missing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path

from helpers.processes import talking


def start_host(backend: type, tells: str, *, busy: bool) -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """A host, and what `tells` says of its `session`, once that has a bomb to run or nothing to do; it waits."""
    host = f"""
    import asyncio
    from testbed.sandbox.base import Limits
    from {backend.__module__} import {backend.__name__}
    async def main():
        session = await {backend.__name__}().open(Limits(wall_seconds=60))
        bomb = "import os\\nfor _ in range(3): os.fork()\\nwhile True: pass"
        call = asyncio.create_task(session.run(bomb)) if {busy} else None
        await asyncio.sleep(.5)
        print({tells}, flush=True)
        await asyncio.sleep(60)
    asyncio.run(main())
    """
    return talking([sys.executable, "-c", textwrap.dedent(host)])


async def status_of_a_call_during_ctrl_c(backend: type) -> str:
    """How a call ends whose host is interrupted with all of its process group, and goes on."""
    host = f"""
    import asyncio, signal
    from testbed.sandbox.base import Limits
    from {backend.__module__} import {backend.__name__}
    async def main():
        session = await {backend.__name__}().open(Limits())
        call = asyncio.create_task(session.run("import time; time.sleep(1); print('done')"))
        await asyncio.sleep(.3)
        print("ready", flush=True)
        print((await call).status, flush=True)
        await session.close()
    signal.signal(signal.SIGINT, lambda *_: None)
    asyncio.run(main())
    """
    with talking([sys.executable, "-c", textwrap.dedent(host)], start_new_session=True) as (process, line):
        assert line == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        return (await asyncio.to_thread(process.communicate))[0].strip()  # it closes its session, and ends by itself


def bwrap_that_cannot_mount_proc(folder: Path) -> str:
    """Path of a bubblewrap that meets what it meets in many containers."""
    refusing = folder / "bwrap"
    refusing.write_text(
        f"""#!/bin/sh
        case " $* " in
            *" --proc "*) echo "bwrap: Can't mount proc on /newroot/proc: Operation not permitted" >&2; exit 1;;
        esac
        exec {shutil.which("bwrap")} "$@"
        """
    )
    refusing.chmod(0o755)
    return str(refusing)
