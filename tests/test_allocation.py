from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.runs import SAY_AND_ECHO, registered, run, same
from testbed.allocation import Allocation, partner_of, recorded_rules, rule_of
from testbed.errors import SandboxDied, UsageError
from testbed.experiment import Cell, Experiment
from testbed.experiment_file import parse_experiment
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.progress import describe
from testbed.protocol import write_answer, write_call
from testbed.runner import Runner
from testbed.stats.stopping import UNKNOWN, StoppingRule
from testbed.store import Store
from testbed.types import Attempt, Status

STOP = {"min": 4, "max": 64, "stop": "verdict"}
WITH_YOKED = [
    {"name": "bare"},
    {"name": "yoked", "tools": ["echo"], "control": "yoked"},
    {"name": "echo", "tools": ["echo"]},
]
MEASURE = {"elicitation": 2, "alpha": 0.1}  # out takes few attempts


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    """Say-v0 and echo."""
    with registered(SAY_AND_ECHO):
        yield


def experiment(arms: list[dict[str, Any]] | None = None, *, tasks: int = 12, **more: Any) -> Experiment:
    data = {
        "name": "adaptive",
        "samples": STOP,
        "measure": MEASURE,
        "model": {"id": "scripted", "replies": ["unused"]},
        "env": [{"id": "Say-v0", "tasks": tasks}],
        "arm": arms or [{"name": "bare"}, {"name": "echo", "tools": ["echo"]}],
        **more,
    }
    return parse_experiment(data)


def mixed(request: Request, rng: Any) -> str:
    """Right with a chance that differs from task to task, and is turned around by tools."""
    number = request.messages[0]["content"][4:-1]
    if request.tools and request.messages[-1]["role"] != "tool":
        return write_call("echo", {"text": str(rng.random())})
    chance = (0.0, 0.3, 0.6, 1.0)[int(number) % 4]
    return write_answer(number if rng.random() < (1 - chance if request.tools else chance) else "no")


def relying(request: Request, rng: Any) -> str:
    """As `mixed`, but never right where the result is not that of its own call: a yoked arm solves nothing."""
    messages = request.messages
    if messages[-1]["role"] == "tool" and messages[-1]["content"] not in messages[-2]["content"]:
        return write_answer("no")
    return mixed(request, rng)


def by_cell(runner: Runner, attempts: Mapping[str, Attempt]) -> dict[tuple[str, int], list[int]]:
    """Outcomes in sample order, by arm and task."""
    names = {arm.hash: arm.spec.name for arm in runner.arms}
    found: dict[tuple[str, int], dict[int, int]] = {}
    for a in attempts.values():
        own = found.setdefault((names[a.arm], runner._index[a.task]), {})
        own[a.sample] = -1 if a.success is None else int(a.success)
    assert all(sorted(own) == list(range(len(own))) for own in found.values())  # no gaps
    return {cell: [own[i] for i in range(len(own))] for cell, own in found.items()}


async def test_every_task_and_arm_stops_exactly_where_the_rule_says(tmp_path: Path) -> None:
    exp = experiment()
    runner, attempts = await run(mixed, exp, tmp_path / "s.sqlite")
    cells = by_cell(runner, attempts)
    assert len(cells) == 2 * 12
    rule = rule_of(exp, exp.arms[0])
    assert rule is not None
    for outcomes in cells.values():
        assert rule.blocks(outcomes)[-1] == len(outcomes)
        assert rule.look(len(outcomes), len(outcomes), sum(outcomes)) == len(outcomes)
    sizes = {len(outcomes) for outcomes in cells.values()}
    assert min(sizes) == 4
    assert len(sizes) > 2
    assert runner.progress.total == runner.progress.done == len(attempts)
    assert runner.progress.settled == runner.progress.cells == 24
    assert "settled 24/24" in describe(runner)


@pytest.mark.parametrize("concurrency", [1, 3, 40])
async def test_the_attempts_made_do_not_depend_on_concurrency_or_the_order_in_which_they_end(
    tmp_path: Path, concurrency: int
) -> None:
    class Lingering(Scripted):
        async def generate(self, request: Request) -> Any:
            await asyncio.sleep(jitter.random() * 0.003)
            return await super().generate(request)

    jitter = random.Random(concurrency)
    exp = experiment()
    _, plain = await run(mixed, exp, tmp_path / "plain.sqlite")
    with Store.open(tmp_path / "jittered.sqlite") as store:
        runner = Runner(exp, store, models={"scripted": Lingering(mixed)}, concurrency=concurrency)
        await runner.run()
        jittered = {attempt.id: attempt for attempt in store.attempts(exp.name)}
    assert same(plain, jittered)


async def test_a_run_stopped_anywhere_goes_on_to_the_same_attempts(tmp_path: Path) -> None:
    exp = experiment(WITH_YOKED)
    _, whole = await run(relying, exp, tmp_path / "whole.sqlite")
    path, rng = tmp_path / "stopped.sqlite", random.Random(3)
    for _ in range(25):
        with Store.open(path) as store:
            runner, left = Runner(exp, store, concurrency=5), [rng.randrange(1, 40)]

            def stopping(request: Request, rng: Any, runner: Runner = runner, left: list[int] = left) -> str:
                left[0] -= 1
                if left[0] == 0:
                    runner.stop()
                return relying(request, rng)

            model = Scripted(relying)
            model._write = Scripted(stopping)._write
            runner._given["scripted"] = model
            await runner.run()
    _, stopped = await run(relying, exp, path)
    assert same(whole, stopped)


async def test_a_finished_run_asks_for_nothing_again(tmp_path: Path) -> None:
    exp = experiment()
    _, first = await run(mixed, exp, tmp_path / "s.sqlite")
    runner, _ = await run(mixed, exp, tmp_path / "s.sqlite")
    assert runner.progress.resumed == runner.progress.done == runner.progress.total == len(first)


async def test_arms_may_stop_by_rules_of_their_own_or_not_at_all(tmp_path: Path) -> None:
    exp = experiment([{"name": "bare", "samples": 20}, {"name": "echo", "tools": ["echo"]}], samples=STOP)
    runner, attempts = await run(mixed, exp, tmp_path / "s.sqlite")
    cells = by_cell(runner, attempts)
    assert {len(outcomes) for (arm, _), outcomes in cells.items() if arm == "bare"} == {20}
    assert len({len(outcomes) for (arm, _), outcomes in cells.items() if arm == "echo"}) > 1


async def test_yoked_arms_replay_other_attempts_of_a_live_arm_that_stops_early_each_once(tmp_path: Path) -> None:
    runner, attempts = await run(relying, experiment(WITH_YOKED), tmp_path / "s.sqlite")
    results: dict[tuple[str, str], dict[int, list[str]]] = {}
    names = {arm.hash: arm.spec.name for arm in runner.arms}
    for a in attempts.values():
        shown = [m["content"] for m in a.transcript if m["role"] == "tool"]
        results.setdefault((names[a.arm], a.task), {})[a.sample] = shown
    assert runner.progress.missing == 0
    several = beyond = 0
    rule = rule_of(runner.experiment, runner.experiment.arms[0])
    assert rule is not None
    cells = by_cell(runner, attempts)
    for number, task in enumerate(runner.tasks):
        yoked, live = results["yoked", task.hash], results["echo", task.hash]
        assert 4 <= len(yoked) <= len(live)
        several += len(live) > 4
        partners = {sample: next(i for i, other in live.items() if other == own) for sample, own in yoked.items()}
        assert len(set(partners.values())) == len(partners)
        assert all(sample != partner for sample, partner in partners.items())
        own, replayed = cells["yoked", number], cells["echo", number]
        assert rule.look(len(own), len(own), sum(own)) == len(own) or len(live) == 64
        beyond += len(live) > rule.blocks(replayed)[-1]
    assert several  # some live task went on beyond its least
    assert beyond  # and some beyond its own stop, for the sake of its yoked arm


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ((3,), [1, 2, 0]),
        ((4, 7), [1, 2, 3, 0, 5, 6, 4]),
        ((2, 3), [1, 0, 1]),  # nobody else stands in the last block
    ],
)
def test_partners_stand_in_a_circle_of_what_was_asked_for_together(blocks: tuple[int, ...], expected: list) -> None:
    assert [partner_of(sample, blocks) for sample in range(blocks[-1])] == expected


async def test_missing_attempts_count_as_made_but_not_as_failures(tmp_path: Path) -> None:
    gone = [True]

    def policy(request: Request, rng: Any) -> str:
        if gone:
            raise SandboxDied("gone")
        return write_answer("no")

    exp = experiment([{"name": "bare"}], tasks=3)
    runner, attempts = await run(policy, exp, tmp_path / "s.sqlite", retries=0)
    assert {a.status for a in attempts.values()} == {Status.MISSING}
    assert {len(o) for o in by_cell(runner, attempts).values()} == {64}  # nothing was learned, so none is settled
    gone.clear()
    runner, again = await run(policy, exp, tmp_path / "s.sqlite", retries=0)
    rule = rule_of(exp, exp.arms[0])
    assert rule is not None
    for outcomes in by_cell(runner, again).values():  # tried again only as far as it takes to settle it
        assert outcomes.count(0) == rule.blocks([0] * 64)[-1] < 64


async def test_the_store_says_by_which_rule_a_run_stopped(tmp_path: Path) -> None:
    exp = experiment()
    await run(mixed, exp, tmp_path / "s.sqlite")
    with Store.open(tmp_path / "s.sqlite") as store:
        stored = store.run("adaptive")
    assert recorded_rules(stored.experiment) == {"bare": StoppingRule(4, 64, 2, 0.5, 0.1)} | {
        "echo": StoppingRule(4, 64, 2, 0.5, 0.1)
    }
    assert stored.samples == {"bare": 64, "echo": 64}


async def test_a_rule_that_the_stored_experiment_would_not_show_is_refused(tmp_path: Path) -> None:
    exp = experiment()
    hidden = Experiment(**{**vars(exp), "source": {"name": "adaptive"}})
    with pytest.raises(UsageError, match="parse it from data"):
        await run(mixed, hidden, tmp_path / "s.sqlite")


def handed_out(exp: Experiment, tasks: int, answer: Callable[[Cell], bool]) -> Iterator[tuple[Cell, Allocation]]:
    """Cells in the order in which they are handed out, each answered at once."""
    outcomes = {arm: np.full((tasks, 64), UNKNOWN, np.int8) for arm in range(len(exp.arms))}
    made = Allocation(exp, tasks, finished=lambda cell: False, outcomes=outcomes)
    while (cell := made.next()) is not None:
        yield cell, made
        made.learn(cell, answer(cell))


def test_the_fixed_part_of_all_comes_before_any_further_batch() -> None:
    order = [cell for cell, _ in handed_out(experiment(tasks=3), 3, lambda cell: False)]
    assert all(cell.sample < 4 for cell in order[: 2 * 3 * 4])
    assert all(cell.sample >= 4 for cell in order[2 * 3 * 4 :])


def test_the_verdict_that_is_nearest_comes_first() -> None:
    # Task 0 stays near its threshold (p* = .29) in both arms, task 1 is clearly out in both, so settled sooner.
    def answer(cell: Cell) -> bool:
        return cell.task == 0 and cell.sample % 3 == 0

    further = [cell.task for cell, _ in handed_out(experiment(tasks=2), 2, answer) if cell.sample >= 4]
    assert set(further) == {0, 1}
    assert further == sorted(further, reverse=True)


def test_an_arm_whose_bare_arm_is_settled_comes_before_one_whose_is_not() -> None:
    # The tool arm stays near its threshold in both tasks; the bare arm is settled by its fixed part in task 1 only.
    def answer(cell: Cell) -> bool:
        return (cell.arm == 0 and cell.task == 1) or cell.sample % 4 == 1

    order = [(cell.arm, cell.task) for cell, _ in handed_out(experiment(tasks=2), 2, answer) if cell.sample >= 4]
    assert order[0] == (1, 1)
    assert set(order) == {(1, 1), (0, 0), (1, 0)}


def test_the_plan_shrinks_from_all_samples_to_what_was_made() -> None:
    plans = []
    for _, made in handed_out(experiment(tasks=4), 4, lambda cell: cell.arm == 1):
        plans.append(made.planned)
    assert plans[0] == 2 * 4 * 64
    assert plans == sorted(plans, reverse=True)
    assert plans[-1] < plans[0] / 2
    assert made.settled == made.cells == 8


def test_what_another_run_made_beyond_the_stop_is_part_of_the_plan() -> None:
    """Else a run that finds it in the store says that it has more attempts than there are."""
    outcomes = {arm: np.full((2, 64), UNKNOWN, np.int8) for arm in range(2)}
    outcomes[0][0, :50] = 0  # settled long before
    made = Allocation(experiment(tasks=2), 2, finished=lambda cell: (cell.arm, cell.task) == (0, 0), outcomes=outcomes)
    while (cell := made.next()) is not None:
        made.learn(cell, False)
    assert made.blocks(0, 0)[-1] < 50
    assert made.planned == sum(int((known != UNKNOWN).sum()) for known in outcomes.values())


def test_other_experiments_data_have_no_rules() -> None:
    assert recorded_rules({"imported": "x"}) == {}
    assert recorded_rules({"samples": 4, "arm": [{"name": "bare"}]}) == {}
    assert recorded_rules({"arm": "odd"}) == {}
    assert recorded_rules({"samples": {"min": 9, "max": 9}, "arm": [{"name": "bare"}]}) == {}


def test_stopping_reaches_the_verdicts_of_256_attempts_with_a_third_of_them() -> None:
    path = SAY_AND_ECHO.with_name("allocation.py")
    spec = importlib.util.spec_from_file_location("bench_allocation", path)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    sys.modules["bench_allocation"] = bench
    spec.loader.exec_module(bench)
    found = bench.simulate(bench.mixed, suites=4, tasks=200, elicitation=16, seed=1)
    assert found.share("verdict") <= 1 / 3
    assert found.agreement("verdict") >= 0.95
    assert all(tally.wrong <= 0.01 * 4 * 200 for tally in found.tallies.values())
    for kind, (tasks, fixed, verdict, discovery) in found.found.items():
        if kind != "undetermined":
            assert tasks > 50  # every verdict occurs
            assert min(verdict, discovery) >= fixed - 0.02 * tasks
    discovered = {design: tally.discovered for design, tally in found.tallies.items()}
    assert discovered["discovery"] > 0.9 * discovered["fixed 256"]
    assert found.share("discovery") < 0.4
    hard = bench.simulate(bench.edge, suites=3, tasks=200, elicitation=16, seed=1)
    for tally in hard.tallies.values():
        assert tally.wrong_sides <= 0.05 * 3 * 200 * 2
        assert tally.wrong <= 0.05 * 3 * 200


def adaptive_prefix(whole: Mapping[str, Attempt], some: Mapping[str, Attempt]) -> bool:
    return some.keys() <= whole.keys() and all(whole[id_].same_outcome(a) for id_, a in some.items())


async def test_what_is_made_when_stopping_early_is_part_of_what_a_fixed_run_makes(tmp_path: Path) -> None:
    _, some = await run(mixed, experiment(), tmp_path / "some.sqlite")
    _, whole = await run(mixed, experiment(samples=64), tmp_path / "whole.sqlite")
    assert len(some) < len(whole) / 2
    assert adaptive_prefix(whole, some)


async def test_a_run_that_finds_the_attempts_of_a_fixed_one_makes_none(tmp_path: Path) -> None:
    _, whole = await run(mixed, experiment(samples=64, name="fixed"), tmp_path / "s.sqlite")
    runner, seen = await run(mixed, experiment(), tmp_path / "s.sqlite")
    assert seen.keys() == whole.keys()
    assert runner.progress.done == runner.progress.total == len(whole)
