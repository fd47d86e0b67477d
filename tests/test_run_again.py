"""A run is recorded before its attempts, and taken back where it is refused before the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.runs import SAY_AND_ECHO, registered, run
from testbed.errors import ModelError, StoreError
from testbed.experiment import Experiment
from testbed.experiment_file import parse_experiment
from testbed.models.base import Request
from testbed.protocol import write_answer


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    with registered(SAY_AND_ECHO):
        yield


def experiment(turns: int) -> Experiment:
    return parse_experiment(
        {
            "name": "test",
            "samples": 3,
            "budget": {"turns": turns},
            "model": {"id": "scripted"},
            "env": [{"id": "Say-v0", "tasks": 5}],
            "arm": [{"name": "bare"}],
        }
    )


@pytest.mark.parametrize("made", [0, 2])
async def test_a_run_refused_before_its_first_attempt_leaves_its_name_free(tmp_path: Path, made: int) -> None:
    asked: list[Request] = []

    def refusing(request: Request) -> str:
        asked.append(request)
        return write_answer("x") if len(asked) <= made else refused()

    def refused() -> str:
        raise ModelError("the server tells no log-probabilities")

    store = tmp_path / "s.sqlite"
    with pytest.raises(ModelError):
        await run(refusing, experiment(1), store, concurrency=1)
    changed = experiment(2)
    if made:  # these are kept, under the experiment that made them
        with pytest.raises(StoreError, match="changed since run 'test' was started"):
            await run(lambda request: write_answer("x"), changed, store)
    else:
        assert len((await run(lambda request: write_answer("x"), changed, store))[1]) == 15
