"""How far two arms of any runs lie from one model: told where their runs have it, and only there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command import Done
from helpers.two_runs import MEASURE, SPEC, add, sides, tasks
from testbed.report.compare_record import RunComparison
from testbed.report.compare_runs import compare_sides
from testbed.stats.sequence_kl import sequence_kl
from testbed.store import MessageScore, ScorerRecord, Store

HALF = [True, False, True, False]
BASE = {"kind": "hf", "weights": "w1"}
POST, LATER = {**BASE, "weights": "w2"}, {**BASE, "weights": "w3"}


def of(model: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {**SPEC, "model": model, "name": f"hf:{model['weights']}", **changes}


def score(
    path: Path, run: str, arm: str, model: Mapping[str, Any], nats: Callable[[int, int], float], n: int = 9
) -> None:
    """Lets a model give each attempt of an arm, by number of task and sample, so many nats in `n` tokens."""
    with Store.open(path) as store:
        number = {task.hash: i for i, task in enumerate(store.tasks(run))}
        rows = [
            MessageScore(a.id, 1, "assistant", n, nats(number[a.task], a.sample)) for a in store.attempts(run, arm=arm)
        ]
        store.scores.add(ScorerRecord(f"hf:{model['weights']}", model), rows)


def compared(path: Path, left: str, right: str, **options: Any) -> RunComparison:
    return compare_sides(*sides((path, left), (path, right)), **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A base in run "old"; its post-trained checkpoints in runs "new" and "later", tasks 2 to 11 of 12."""
    path = tmp_path / "testbed.sqlite"
    add(path, "old", tasks(12), {"bare": [HALF] * 12}, specs={"bare": of(BASE)})
    for run, model, far in (("new", POST, 1.0), ("later", LATER, 3.0)):
        add(path, run, tasks(10, first=2), {"arm": [HALF] * 10}, specs={"arm": of(model)})
        score(path, run, "arm", model, lambda task, sample: 2.0)
        score(path, run, "arm", BASE, lambda task, sample, far=far: 2.0 + far + 0.1 * task + 0.01 * sample)
    return path


def test_of_a_base_and_its_checkpoint_it_is_the_kl_from_the_base(path: Path) -> None:
    found = compared(path, "old:bare", "new:arm").divergence
    assert found is not None
    assert (found.model, found.own, found.tasks, found.left, found.difference) == ("hf:w1", "A", 10, None, None)
    names = [f"{i}" for i in range(10) for _ in range(4)]
    base = np.array([3.0 + 0.1 * i + 0.01 * n for i in range(10) for n in range(4)])
    assert found.right == sequence_kl(names, np.full(40, 2.0), base, replicates=MEASURE["replicates"]).mean
    turned = compared(path, "new:arm", "old:bare").divergence
    assert turned is not None
    assert (turned.own, turned.left, turned.right) == ("B", found.right, None)


def test_of_two_checkpoints_it_is_what_lies_between_their_kls_from_their_base(path: Path) -> None:
    found = compared(path, "new:arm", "later:arm").divergence
    assert found is not None
    assert found.left is not None
    assert found.right is not None
    assert found.difference is not None
    assert (found.own, found.left.value, found.right.value) == ("", pytest.approx(1.465), pytest.approx(3.465))
    assert found.difference.value == pytest.approx(2.0)
    low, high = found.difference.low, found.difference.high
    assert low is not None
    assert high is not None
    assert 1.0 < low < 2.0 <= high < 2.1  # every task's is 2: no less sure for what the tasks do not share


def test_only_common_tasks_that_were_read_count_and_their_number_is_told(
    path: Path, testbed: Callable[..., Done]
) -> None:
    add(path, "some", tasks(12), {"arm": [HALF] * 12}, specs={"arm": of(POST)}, seed=2)
    score(path, "some", "arm", BASE, lambda task, sample: 5.0)
    with Store.open(path) as store:
        hashes = [task.hash for task in store.tasks("some")[:4]]
        few = [a for a in store.attempts("some") if a.task in hashes]
        rows = [MessageScore(a.id, 1, "assistant", 9, 1.0) for a in few]
        store.scores.add(ScorerRecord("hf:w2", POST), rows)
    found = compared(path, "some:arm", "later:arm").divergence
    assert found is not None
    assert (found.tasks, found.left and found.left.value) == (
        2,
        pytest.approx(4.0),
    )  # "later" has tasks 2 and 3 of them
    shown = testbed("compare", "some:arm", "later:arm").out
    assert "Of the 2 common tasks with attempts that were read." in " ".join(shown.split())


def test_attempts_that_were_not_read_are_told(path: Path, testbed: Callable[..., Done]) -> None:
    add(path, "some", tasks(12), {"arm": [HALF] * 12}, specs={"arm": of(POST)}, seed=2)
    score(path, "some", "arm", BASE, lambda task, sample: 5.0)
    with Store.open(path) as store:  # of each task, one of four
        rows = [MessageScore(a.id, 1, "assistant", 9, 1.0) for a in store.attempts("some") if not a.sample]
        store.scores.add(ScorerRecord("hf:w2", POST), rows)
    found = compared(path, "some:arm", "later:arm").divergence
    assert found is not None
    assert (found.tasks, found.unscored) == (10, {"A": 30})
    shown = " ".join(testbed("compare", "some:arm", "later:arm").out.split())
    assert "A: 30 attempts lack scores by one of the models or both." in shown
    both = compared(path, "new:arm", "later:arm").divergence
    assert both is not None
    assert both.unscored == {}


def test_one_attempt_that_was_not_read_is_told_as_one(path: Path, testbed: Callable[..., Done]) -> None:
    add(path, "some", tasks(12), {"arm": [HALF] * 12}, specs={"arm": of(POST)}, seed=2)
    score(path, "some", "arm", BASE, lambda task, sample: 5.0)
    with Store.open(path) as store:
        last = store.tasks("some")[-1].hash  # which both runs have
        read = [a for a in store.attempts("some") if (a.task, a.sample) != (last, 0)]
        store.scores.add(ScorerRecord("hf:w2", POST), [MessageScore(a.id, 1, "assistant", 9, 1.0) for a in read])
    shown = " ".join(testbed("compare", "some:arm", "later:arm").out.split())
    assert "A: 1 attempt lacks scores by one of the models or both." in shown


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (of(BASE), of({"kind": "chat", "model": "m"} | {"weights": "w2"})),  # nobody sees its weights
        (of(BASE), of(POST, sampling={"temperature": 0.5})),  # another policy than the model
        (of(BASE), of(POST, control="imagined")),
        (of(BASE), of({**BASE, "system": "Be brief."})),  # no other checkpoint
    ],
)
def test_where_there_is_no_kl_nothing_is_said(
    tmp_path: Path, testbed: Callable[..., Done], left: dict[str, Any], right: dict[str, Any]
) -> None:
    path = tmp_path / "testbed.sqlite"
    add(path, "r", tasks(4), {"bare": [HALF] * 4, "arm": [HALF] * 4}, specs={"bare": left, "arm": right})
    for model in (left["model"], right["model"]):
        score(path, "r", "arm", model, lambda task, sample: 2.0)
    assert compared(path, "r:bare", "r:arm").divergence is None
    assert "KL" not in testbed("compare", "r:bare", "r:arm").out


def test_texts_that_the_models_read_as_other_tokens_have_no_kl(tmp_path: Path) -> None:
    path = tmp_path / "testbed.sqlite"
    add(path, "r", tasks(4), {"bare": [HALF] * 4, "arm": [HALF] * 4}, specs={"bare": of(BASE), "arm": of(POST)})
    score(path, "r", "arm", POST, lambda task, sample: 2.0)
    score(path, "r", "arm", BASE, lambda task, sample: 2.0, n=10)
    assert compared(path, "r:bare", "r:arm").divergence is None


def test_of_an_arm_that_stops_early_only_attempts_that_were_fixed_in_advance_count(tmp_path: Path) -> None:
    path = tmp_path / "testbed.sqlite"
    rule = {"min": 2, "max": 4}
    add(path, "r", tasks(4), {"bare": [HALF] * 4, "arm": [HALF] * 4}, specs={"bare": of(BASE), "arm": of(POST)},
        stops={"arm": rule})  # fmt: skip
    score(path, "r", "arm", POST, lambda task, sample: 2.0)
    score(path, "r", "arm", BASE, lambda task, sample: 3.0 if sample < 2 else 90.0)
    found = compared(path, "r:bare", "r:arm").divergence
    assert found is not None
    assert found.right is not None
    assert found.right.value == pytest.approx(1.0)


def test_the_command_says_it_and_json_holds_it(path: Path, testbed: Callable[..., Done]) -> None:
    shown = testbed("compare", "old:bare", "new:arm").out
    table = shown.partition("Nats between checkpoints")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()[3:4]] == ["B"]
    assert "to that of A, hf:w1;" in " ".join(table.split())
    both = testbed("compare", "new:arm", "later:arm").out.partition("Nats between checkpoints")[2]
    assert [line.partition("  ")[0] for line in both.splitlines() if line.startswith(("A", "B"))] == ["A", "B", "B - A"]
    assert '"divergence": {' in testbed("compare", "new:arm", "later:arm", "--json").out
