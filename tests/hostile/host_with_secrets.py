"""A host that has a reference answer in its memory, environment, folder, arguments and open files, and runs programs.

Standard input is a JSON object: `backend`, `limits`, and `calls`, a list of [mode, code, timeout]. Standard output is
the list of their results, each followed by that of an honest call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict

from testbed.sandbox import Bwrap, Limits, backends

SECRET = sys.argv[1]
TASK = {"prompt": "6 * 7", "answer": "".join(reversed(SECRET[::-1]))}


async def main() -> None:
    request = json.load(sys.stdin)
    leaked = os.open("secret", os.O_RDWR)
    os.dup2(leaked, 200, inheritable=True)
    kinds = backends() | {"bwrap-each": Bwrap(forks=False)}  # as in `arena.py`
    session = await kinds[request["backend"]].open(Limits(**request["limits"]))
    results = []
    for mode, code, timeout in request["calls"]:
        call = session.repl if mode == "repl" else session.run
        results += [await call(code, timeout=timeout), await call("print(6 * 7)")]
    await session.close()
    print(json.dumps([asdict(result) for result in results]))


asyncio.run(main())
assert TASK["answer"] == os.environ["TESTBED_HOSTILE_SECRET"] == SECRET
