"""Every command of docs/compare.md, on runs that are called as they are there."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done
from helpers.two_runs import LIVE, SPEC, add, tool
from testbed.store import Store
from testbed.types import Task

PAGE = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("testbed ")]
TASKS = tuple(Task("Multiplication-v0", f"What is {n}*2756?", str(n * 2756)) for n in range(6630, 6640))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores of the page."""
    folder = tmp_path_factory.mktemp("stores")
    rows = [[True, False, True, False]] * len(TASKS)
    arms = {"bare": SPEC, "inert": {**LIVE, "control": "inert"}, "python": LIVE}
    cooler, search = {**LIVE, "sampling": {"temperature": 0.5}}, {**LIVE, "tools": [tool("search")]}
    add(folder / "testbed.sqlite", "demo", TASKS, dict.fromkeys(arms, rows), specs=arms)
    add(folder / "testbed.sqlite", "cooler", TASKS, {"python": rows}, specs={"python": cooler})
    add(folder / "spring.sqlite", "spring", TASKS, {"python": rows}, specs={"python": LIVE})
    add(folder / "autumn.sqlite", "autumn", TASKS, {"search": rows}, specs={"search": search}, seed=2)
    return folder


@pytest.fixture(scope="module")
def ids(stores: Path) -> dict[str, str]:
    """The page's ids → those of attempts of the same arms."""
    arms = {"5f5aee": "python", "d6d49d": "inert"}
    with Store.open(stores / "testbed.sqlite") as store:
        task = store.tasks("demo")[0].hash
        return {id_: next(iter(store.attempts("demo", task, arm))).id[:12] for id_, arm in arms.items()}


def test_the_page_has_the_commands_that_it_is_about() -> None:
    assert sum(line.startswith("testbed compare") for line in COMMANDS) >= 3
    assert sum(line.startswith("testbed show") for line in COMMANDS) >= 5


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_works_as_it_stands(
    stores: Path, tmp_path: Path, ids: dict[str, str], testbed: Callable[..., Done], line: str
) -> None:
    for file in stores.iterdir():
        shutil.copy(file, tmp_path)
    for named, id_ in ids.items():
        line = re.sub(rf"\b{named}\b", id_, line)
    done = testbed(*shlex.split(line, comments=True)[1:])
    assert done.code == 0, done.err
    assert done.out.strip()
