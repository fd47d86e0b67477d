"""The board's one boundary: what nobody foresaw is kept and told of there, and nowhere else."""

from __future__ import annotations

import ast
import asyncio
import logging
from pathlib import Path

import pytest

from testbed.board import faults
from testbed.board.faults import boundary, own, record
from testbed.board.refusals import Conflict, Overloaded
from testbed.errors import DataError, InfrastructureError, StoreError, UsageError

BOARD = Path(faults.__file__).parent


def test_what_a_block_raises_is_kept_and_what_it_came_to_stays() -> None:
    done = []
    with boundary() as fault:
        done.append(1)
        raise StopIteration("of the block's own")
    assert (done, str(fault.error)) == ([1], "of the block's own")
    with boundary() as fault:
        done.append(2)
    assert (done, fault.error) == ([1, 2], None)


def test_errors_that_somebody_further_out_knows_pass() -> None:
    with pytest.raises(InfrastructureError, match="lost"), boundary(KeyError, InfrastructureError):
        raise InfrastructureError("lost")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_nobody_who_ends_or_cancels_it_is_held_up(error: type[BaseException]) -> None:
    with pytest.raises(error), boundary():
        raise error


async def test_a_task_under_it_is_cancelled() -> None:
    async def waits() -> None:
        with boundary():
            await asyncio.sleep(60)

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (ValueError("a bug"), True),
        (InfrastructureError("a sandbox died"), True),
        (Overloaded("come again"), False),  # said by the board on purpose
        (Conflict("it is there"), False),
        (UsageError("no such board"), False),
        (StoreError("no such run"), False),
        (DataError("a document is broken"), False),
    ],
)
def test_only_its_own_errors_belong_in_its_log(error: Exception, ours: bool) -> None:
    assert own(error) is ours


def test_the_log_says_what_was_under_way_with_the_error(caplog: pytest.LogCaptureFixture) -> None:
    with boundary() as fault:
        raise ValueError("odd")
    assert fault.error is not None
    record(fault.error, "entry %s: the server could not %s", "17", "check it")
    (line,) = caplog.records
    assert (line.name, line.levelno) == ("testbed.board", logging.ERROR)
    assert line.getMessage() == "entry 17: the server could not check it"
    assert "ValueError: odd" in caplog.text
    assert Path(__file__).name in caplog.text  # from where it came


def test_there_is_one_broad_handler_in_the_board() -> None:
    broad = []
    for path in BOARD.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                names = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {""}
                broad += [path.name] if names & {"", "Exception", "BaseException"} else []
    assert broad == ["faults.py"]
