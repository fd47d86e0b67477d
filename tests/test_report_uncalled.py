"""An arm whose server leaves calls in the text: the report says that they were not made, and what makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.answering import answer, called, served
from testbed.experiment_file import parse_experiment
from testbed.protocol import write_call
from testbed.report.analyse import analyse_run
from testbed.runner import Runner
from testbed.store import Store

ID = "chat:openai:x"
CALL = write_call("calculator", {"expression": "1 + 1"})
TEXT = {"role": "assistant", "content": f"I reckon.\n{CALL}"}
CUT = {"role": "assistant", "content": CALL[: len(CALL) // 2]}  # which no server finds
PROSE = {"role": "assistant", "content": "I would call &lt;b> a tool. <answer>4</answer>"}


async def warned(folder: Path, served_answer: Any, **options: Any) -> list[str]:
    experiment = {
        "name": "run",
        "samples": 2,
        "model": {"id": ID, **options},
        "budget": {"turns": 1},
        "env": [{"id": "Addition-v0", "tasks": 2}],
        "arm": [{"name": "bare"}, {"name": "sums", "tools": ["calculator"]}],
    }
    with Store.open(folder / "s.sqlite") as store:
        async with served(served_answer, **options) as model:
            await Runner(parse_experiment(experiment), store, models={ID: model}).run()
        return [line for line in analyse_run(store, "run").warnings if "as text" in line]


async def test_calls_that_a_server_leaves_in_the_text_are_told_with_what_makes_them(tmp_path: Path) -> None:
    (told,) = await warned(tmp_path, answer(TEXT))
    assert "In 4 of 4 attempts of arm 'sums' a message holds a call of a tool as text, which was not made" in told
    assert "--tool-call-parser" in told
    assert "native = false" in told


def called_once() -> Callable[[dict[str, Any]], tuple[int, Any]]:
    """Calls the tool the first time that it is offered, and writes calls as text then."""
    offered = iter([called('{"expression": "2"}', "calculator")])
    return lambda asked: (200, answer(next(offered, TEXT) if asked.get("tools") else TEXT))


@pytest.mark.parametrize("said", [PROSE, CUT])
async def test_where_no_call_was_written_nothing_is_said(tmp_path: Path, said: dict[str, str]) -> None:
    assert await warned(tmp_path, answer(said)) == []


async def test_where_some_were_made_nothing_is_said(tmp_path: Path) -> None:
    assert await warned(tmp_path, called_once()) == []


async def test_calls_as_text_are_made_where_they_are_not_native(tmp_path: Path) -> None:
    assert await warned(tmp_path, answer(TEXT), native=False) == []
