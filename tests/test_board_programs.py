"""Programs of entries, run again in the sandbox: what they always print must be what the entry says they printed."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import pytest

from helpers.boards import SUMS, a_board, an_experiment
from helpers.bundles import Lines, bundle_of, examine
from testbed.board import boards
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.experiment_file import parse_experiment
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.runner import Runner
from testbed.store import Store

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
PROGRAMS = ("print(6 * 7)", "import random; print(random.random())", "import time; print(time.time())", "1 / 0")


def programs(request: Request, rng: np.random.Generator) -> str:
    """Runs a program, whichever, and answers what it printed."""
    if request.tools and request.messages[-1]["role"] != "tool":
        return write_call("python", {"code": PROGRAMS[int(rng.integers(len(PROGRAMS)))]})
    return write_answer(request.messages[-1]["content"].strip())


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return a_board(
        tmp_path_factory.mktemp("board"), SUMS.replace("calculator", "python").replace("tasks = 6", "tasks = 3")
    )


@pytest.fixture(scope="module")
def honest(board: Board, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    where = tmp_path_factory.mktemp("run") / "store.sqlite"
    arms = [{"name": "bare"}, {"name": "python", "tools": ["python"]}]
    experiment = parse_experiment(an_experiment(board, arms=arms).source)
    with Store.open(where) as store:
        asyncio.run(Runner(experiment, store, models={"scripted": Scripted(programs)}).run())
    return bundle_of(where, "mine", board)


@pytest.fixture
def sums_db(db: BoardDatabase, board: Board) -> BoardDatabase:
    boards.create(db, board)
    return db


def test_programs_that_draw_numbers_and_tell_the_time_are_no_forgery(sums_db: BoardDatabase, honest: bytes) -> None:
    assert {PROGRAMS[0], PROGRAMS[1]} <= {
        program for program in PROGRAMS for a in Lines.of(honest).attempts if program in a["transcript"][1]["content"]
    }
    found = examine(sums_db, "sums", honest)
    assert found.wrong == ""
    assert "tool results of 12 of 12 attempts" in "\n".join(found.of("ok"))


def test_an_edited_output_of_a_program_that_always_prints_the_same(sums_db: BoardDatabase, honest: bytes) -> None:
    lines = Lines.of(honest)
    attempt = next(a for a in lines.of_arm("python") if PROGRAMS[0] in a["transcript"][1]["content"])
    attempt["transcript"][2]["content"] = attempt["transcript"][2]["content"].replace("42", "43")
    attempt["transcript"][3]["content"] = write_answer("43")
    attempt["answer"] = "43"
    found = examine(sums_db, "sums", lines.sealed())
    assert found.state == "rejected"
    assert "tools: attempt" in found.wrong
    assert "and here it is '42" in found.wrong
