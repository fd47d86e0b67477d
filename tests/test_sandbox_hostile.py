"""Hostile programs, one property each, on every backend and in both modes; the programs lie in `hostile/*.toml`.

After each attack the same session must serve an honest call, and nothing of the attack may be left: a script finds what
it found on the first day, a REPL does so after a reset, and a neighbouring session at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

from testbed.errors import SandboxFileError
from testbed.sandbox import Result, backends
from testbed.sandbox.base import Session

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOLDER = Path(__file__).with_name("hostile")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


arenas = _load("arena")
Arena, SMALL = arenas.Arena, arenas.SMALL


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call must come to. Its output is compared as a whole unless only a part is named."""

    status: str = "ok"
    exit_code: int | None = None
    stdout: str | None = None
    stdout_has: str | None = None
    stderr_has: str = ""
    reason_has: str = ""
    state: str | None = None
    within: float | None = None

    def check(self, result: Result, mode: str) -> None:
        assert (result.status, result.reason if self.status == "ok" else "") == (self.status, ""), result
        if self.exit_code is not None:
            assert result.exit_code == self.exit_code
        if self.stdout_has is not None:
            assert self.stdout_has in result.stdout
        else:
            default = "held\n" if self.status == "ok" else ""
            assert result.stdout == (default if self.stdout is None else self.stdout), result
        assert "BREACH" not in result.stdout
        assert self.stderr_has in result.stderr
        assert self.reason_has in result.reason
        if self.within is not None:
            assert result.milliseconds < 1000 * self.within
        if mode == "repl":
            lost = {"kept": False, "lost": True, None: self.status not in ("ok", "error")}[self.state]
            assert result.state_lost is lost, result
        result.stdout.encode()  # no lone surrogate may come out
        result.stderr.encode()


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A hostile program with what must become of it."""

    id: str
    property: str
    code: str
    modes: tuple[str, ...] = ("run", "repl")
    machine: str | None = None  # the only architecture that it means anything on
    timeout: float = SMALL.wall_seconds
    slack: float = 1.0  # seconds beyond it
    neighbour: str | None = None  # runs in another session meanwhile
    host: str | None = None  # "with_secrets": the session is one of a host that has some
    renews_worker: bool = False  # the worker may be replaced, if wiping what it left takes too long
    flat_memory: bool = False  # the host's memory must not grow
    outcome: dict[str, Outcome] = field(default_factory=dict)
    next: str = "works"  # "broken": a REPL that did this to itself needs a reset before it works again
    then: dict[str, Any] | None = None  # what the next call must come to


def read_attacks() -> list[Attack]:
    attacks = []
    for file in sorted(FOLDER.glob("*.toml")):
        table = tomllib.loads(file.read_text())
        for row in table.get("attack", []):
            attacks.append(attack_of(row, table.get("prelude", "")))
    return attacks


def attack_of(row: dict[str, Any], prelude: str) -> Attack:
    own = {name: row.pop(name) for name in list(row) if name not in Outcome.__dataclass_fields__ and name != "repl"}
    repl = row.pop("repl", {})
    own["next"] = repl.pop("next", "works")
    own["code"] = prelude + own["code"] + own.pop("append", "")
    outcome = {"run": Outcome(**row), "repl": Outcome(**row | repl)}
    return Attack(**own, outcome=outcome)


ATTACKS = read_attacks()
TRANSFERS = tomllib.loads((FOLDER / "transfers.toml").read_text())["transfer"]
EVERY = [pytest.param(attack, mode, id=f"{mode}-{attack.id}") for attack in ATTACKS for mode in attack.modes]


@pytest.fixture(scope="module", params=[*backends(), pytest.param("bwrap-each", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    if arenas.faults(request.param):
        pytest.skip(f"{request.param} does not work here: {arenas.faults(request.param)}")
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def arena(backend, tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    (folder / "private").write_text("private")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0testbed-hostile-{os.getpid()}")
        listener.listen()
        facts = arenas.facts_of(folder / "private", listener.getsockname().decode())
        arena = Arena(backend, facts, folder)
        try:
            await arena.open()
            yield arena
        finally:
            await arena.close()


# --- the attacks


@pytest.mark.parametrize(("attack", "mode"), EVERY)
async def test_attack(arena: Arena, attack: Attack, mode: str):
    if attack.machine not in (None, os.uname().machine):
        pytest.skip(f"an attack on {attack.machine} only")
    if attack.host == "with_secrets":
        await check_in_a_host_with_secrets(arena, attack, mode)
        return
    async with arena.blame():
        await make(arena, attack, mode)


async def make(arena: Arena, attack: Attack, mode: str) -> None:
    session, outcome = arena.sessions[mode], attack.outcome[mode]
    worker = session._link
    async with neighbour_of(attack, arena), flat_memory_of_the_host(attack):
        result = await launch(arena, attack, mode)
    outcome.check(result, mode)
    if outcome.status == "timeout":
        assert result.exit_code is None
        assert f"{attack.timeout:g} s" in result.reason
        assert 1000 * attack.timeout <= result.milliseconds < 1000 * (attack.timeout + attack.slack)
    if attack.then is not None:
        await check_next(arena, attack, mode)
    elif mode == "repl" and attack.next == "works":
        honest = await session.repl("canary if 'canary' in dir() else 'gone'", 2.0)
        assert (honest.status, honest.stdout) == ("ok", "'gone'\n" if result.state_lost else "5\n"), honest
    await arena.check_nothing_is_left(mode)
    await arena.check_nothing_is_left("neighbour")
    if not attack.renews_worker:
        assert session._link is worker, "the session has lost its worker"


async def launch(arena: Arena, attack: Attack, mode: str) -> Result:
    """Runs the attack, at most twice more where a machine that is short of time has spoilt it."""
    code = arena.program(attack.code, mode)
    for _ in range(3):
        if mode == "run":
            result = await arena.sessions["run"].run(code, timeout=attack.timeout)
        else:
            await arena.sessions["repl"].reset()
            await arena.sessions["repl"].repl("canary = 5")
            result = await arena.sessions["repl"].repl(code, attack.timeout)
        if not is_spoilt(result, attack.outcome[mode], arena.sessions[mode]):
            break
    return result


def is_spoilt(result: Result, expected: Outcome, session: Session) -> bool:
    """An interrupt may not have worked soon enough; or a cgroup was full of what the kernel frees late.

    The kernel keeps the memory of processes that have ended, and of forks that it refused, until every core has been
    heard. A core that stands still for a tenth of a second lets a bomb's pile up to the limit.
    """
    interrupted_late = result.state_lost and (expected.status, expected.state) == ("timeout", "kept")
    return interrupted_late or (expected.status == "timeout" and session._memory == "limit")


async def check_next(arena: Arena, attack: Attack, mode: str) -> None:
    step = dict(attack.then or {})
    arena.facts["idle_from"] = time.monotonic()  # the same clock inside as here
    await asyncio.sleep(step.pop("wait", 0))
    arena.facts["idle_until"] = time.monotonic()
    code, timeout = arena.program(step.pop("code"), mode), step.pop("timeout", None)
    Outcome(**step).check(await arena.call(mode, mode, code, timeout), mode)


@contextlib.asynccontextmanager
async def neighbour_of(attack: Attack, arena: Arena):
    """Keeps the neighbour's program running meanwhile; ending it in mid-call costs that session its worker."""
    if attack.neighbour is None:
        yield
        return
    task = asyncio.create_task(arena.call("neighbour", "run", attack.neighbour))
    await asyncio.sleep(0.5)
    try:
        yield
        assert not task.done(), task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def flat_memory_of_the_host(attack: Attack):
    if not attack.flat_memory:
        yield
        return
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    before = memory_of_the_host("VmRSS")
    yield
    assert memory_of_the_host("VmHWM") - before < 32 << 10


def memory_of_the_host(name: str) -> int:
    """KiB of memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


async def check_in_a_host_with_secrets(arena: Arena, attack: Attack, mode: str) -> None:
    cases = [(one, way) for one in ATTACKS if one.host == "with_secrets" for way in one.modes]
    calls = [(way, arena.program(one.code, way), one.timeout) for one, way in cases]
    results = await arena.of_a_host_with_secrets(calls)
    attack.outcome[mode].check(results[cases.index((attack, mode))], mode)


async def test_the_search_for_secrets_finds_those_that_are_there(arena: Arena):
    session = arena.sessions["repl"]
    await session.reset()
    await session.put("REFERENCE-ANSWER-00000000", b"REFERENCE-ANSWER-11111111")
    await session.repl("import os; os.environ['LEFT'] = 'REFERENCE-ANSWER-' + '2' * 8; kept = bytes(9) + b'REFERENCE-'")
    await session.repl("kept += b'ANSWER-' + b'3' * 8")
    (attack,) = (attack for attack in ATTACKS if attack.id == "secrets_of_the_host")
    result = await session.repl(arena.program(attack.code, "repl"))
    assert result.stdout.count("BREACH /tmp/REFERENCE-ANSWER-00000000") == 2, result  # its name and its contents
    assert "BREACH environment" in result.stdout
    assert " rw-p " in result.stdout  # memory
    await session.reset()


# --- files


@pytest.mark.parametrize("row", TRANSFERS, ids=[row["id"] for row in TRANSFERS])
async def test_transfer(arena: Arena, row: dict[str, Any]):
    async with arena.blame():
        session = arena.sessions["repl"]
        worker = session._link
        await session.reset()
        trap = await session.repl(row["code"])
        assert (trap.status, trap.stdout) == ("ok", ""), trap
        async with asyncio.timeout(5):
            await check_transfer(session, row)
        await arena.check_nothing_is_left("repl")
        assert session._link is worker, "the session has lost its worker"


async def check_transfer(session: Session, row: dict[str, Any]) -> None:
    path, data = path_of(row), b"from the host" * (row["size"] // 13 + 1 if "size" in row else 1)
    work = session.get(path) if row["transfer"] == "get" else session.put(path, data[: row.get("size", 13)])
    if "refused" in row:
        with pytest.raises(SandboxFileError) as error:
            await work
        assert row["refused"] in str(error.value)
    elif "contents_or_refused" in row:
        with contextlib.suppress(SandboxFileError):
            assert row["contents_or_refused"].startswith((await work).decode())
    elif row["transfer"] == "get":
        assert len(await work) == row["length"]
    else:
        await work
        assert await session.get(path) == data
        if "check" in row:
            assert (await session.repl(row["check"])).stdout == row["check_stdout"]


def path_of(row: dict[str, Any]) -> str:
    if "path_escaped" in row:
        return row["path_escaped"].encode("ascii").decode("unicode_escape")
    if "path_repeated" in row:
        part, times = row["path_repeated"]
        return part * times + "x"
    return row["path"]


# --- the table itself


async def test_table_has_fifty_distinct_programs_with_a_sentence_each():
    rows = [(attack.id, attack.property, attack.code) for attack in ATTACKS]
    rows += [(row["id"], row["property"], row["transfer"] + path_of(row) + row["code"]) for row in TRANSFERS]
    assert len(ATTACKS) >= 60
    for column in zip(*rows, strict=True):
        assert len(set(column)) == len(rows)
    for _, sentence, _ in rows:
        assert sentence.endswith(".")
        assert ". " not in sentence
        assert len(sentence.split()) >= 4


async def test_every_program_is_python():
    for attack in ATTACKS:
        if attack.id != "source_with_nul":
            compile(attack.code, attack.id, "exec")
