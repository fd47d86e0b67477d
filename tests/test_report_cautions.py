"""What a reader is warned of: failures that tell of a mistake in what was set up, too few attempts for a verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from test_report_claims import drawn, effect, text
from testbed.calibration.suites import made_up
from testbed.report.analyse import analyse
from testbed.report.findings import findings
from testbed.report.record import Effect
from testbed.stats import Estimate, Verdict
from testbed.store import Outcomes
from testbed.types import COST_COMPONENTS


def ended(data: Outcomes, arm: int, how: str, part: float = 1.0) -> Outcomes:
    """The same outcomes; that part of an arm's failures ended so."""
    failed = np.flatnonzero((data.arm == arm) & (data.success == 0))
    codes = data.ended.astype(object)
    codes[failed[: round(part * failed.size)]] = how
    return replace(data, ended=codes.astype(np.str_))


def kept(data: Outcomes, rows: np.ndarray) -> Outcomes:
    """Some of the attempts."""
    columns = ("task", "arm", "sample", "success", "cost", "ended", "faults", "redrawn")
    return replace(data, **{name: getattr(data, name)[rows] for name in columns})


def warned(data: Outcomes) -> str:
    return " ".join(analyse(data, replicates=100).warnings)


def test_an_arm_whose_agent_broke_down_is_not_told_as_one_that_cannot() -> None:
    """A NameError in the bare arm alone would read as creation by the other."""
    data = drawn([0.0] * 8, [1.0] * 8, 4)
    assert "raised an error" not in warned(data)
    told = warned(ended(data, 0, "agent:error"))
    assert "In 32 of 32 attempts of arm 'bare' the agent's own code raised an error" in told
    assert "In 32 of 32 attempts of arm 'bare' the agent's own code" in text(analyse(ended(data, 0, "agent:error")))
    assert "In 3 of 32 attempts" in warned(ended(data, 0, "agent:error", 0.1))


def test_full_contexts_and_tight_limits_are_told() -> None:
    data = drawn([0.0] * 8, [1.0] * 8, 4)
    assert "In 16 of 32 attempts of arm 'bare' the model's context was full" in warned(
        ended(data, 0, "limit:context", 0.5)
    )
    assert "32 of 32 attempts of arm 'bare' were ended by the limit on generated tokens" in warned(
        ended(data, 0, "limit:generated_tokens")
    )
    assert "generated tokens" not in warned(ended(data, 0, "limit:generated_tokens", 0.5))


def test_a_run_that_will_have_enough_attempts_is_not_told_to_ask_for_more() -> None:
    """A run of 145 bare attempts, stopped at 8, needs no other experiment."""
    data = drawn([0.0] * 8, [1.0] * 8, 8)
    stopped = " ".join(analyse(data, replicates=100, wanted={"bare": 145, "tool": 24}).warnings)
    assert "The experiment has 145 of it: go on with the run." in stopped
    assert "experiment of another name" not in stopped
    short = " ".join(analyse(data, replicates=100, wanted={"bare": 20}).warnings)
    assert "experiment of another name" in short


def test_an_arm_whose_agent_mostly_gave_no_answer_is_told() -> None:
    data = drawn([0.0] * 8, [1.0] * 8, 4)
    told = "32 of 32 attempts of arm 'bare' the agent returned without an answer"
    assert told in warned(ended(data, 0, "agent:silent"))
    assert "without an answer" not in warned(ended(data, 0, "agent:silent", 0.5))


def test_tools_that_mostly_fail_are_told() -> None:
    data = drawn([0.0] * 8, [0.5] * 8, 4)
    cost = data.cost.copy()
    cost[data.arm == 1, COST_COMPONENTS.index("tool_calls")] = 2
    some = replace(data, cost=cost, faults=np.where(data.arm == 1, 1, 0).astype(np.int32))
    assert "faulty" not in warned(some)
    most = replace(some, faults=np.where(data.arm == 1, 2, 0).astype(np.int32))
    assert "64 of about 64 calls of tools in arm 'tool' were faulty" in warned(most)


def test_one_faulty_call_in_hundreds_of_attempts_is_no_warning() -> None:
    data = drawn([0.0] * 8, [0.5] * 8, 64)
    cost, faults = data.cost.copy(), np.zeros(data.arm.size, np.int32)
    some = np.flatnonzero(data.arm == 0)[:6]  # of 512
    for rows, told in ((some[:5], False), (some, True)):
        cost[:, COST_COMPONENTS.index("tool_calls")] = 0
        cost[rows, COST_COMPONENTS.index("tool_calls")] = faults[rows] = 1
        assert ("calls of tools in arm 'bare' were faulty" in warned(replace(data, cost=cost, faults=faults))) is told


@pytest.mark.parametrize("control", ["live", "imagined"])
def test_tools_that_were_never_called_are_told(control: str) -> None:
    data = drawn([0.0] * 8, [0.5] * 8, 4)
    tools = {"control": control, "tools": [{"schema": {"function": {"name": "search"}}}]}
    arms = tuple(replace(arm, spec=tools) if arm.name == "tool" else arm for arm in data.arms)
    assert "Arm 'tool': its tools were called in none of 32 attempts" in warned(replace(data, arms=arms))


@pytest.mark.parametrize(("attempts", "enough"), [(64, False), (139, False), (140, True)])
def test_that_no_task_can_be_called_expanded_is_said_with_the_attempts_that_it_takes(
    attempts: int, enough: bool
) -> None:
    found = analyse(drawn([0.0] * 6, [1.0] * 6, attempts), operating=1, elicitation=16, replicates=100)
    told = " ".join(found.warnings)
    assert found.comparisons[0].full is not None
    assert (found.comparisons[0].full.figures.verdicts.counts[Verdict.EXPANDED] == 6) == enough
    assert ("No task can count as expanded yet" in told) == (not enough)
    assert enough or f"at most {attempts} attempts at a task, and it takes 140 without a success" in told
    assert enough or "samples = 140 (attempts at each task) or more" in told
    assert enough or "settle all tasks, a report's table of verdicts says as still needed" in told


def test_tasks_that_are_known_to_be_in_the_bare_arms_reach_want_no_more_attempts() -> None:
    """Of 64 bare attempts, all successes or none: the former could never be out of reach, however many there were."""
    settled = analyse(drawn([1.0] * 6, [1.0] * 6, 64), operating=1, elicitation=16, replicates=100)
    assert "No task can count as expanded" not in " ".join(settled.warnings)
    partly = drawn([1.0] * 3 + [0.0] * 3, [1.0] * 6, 64)
    few = kept(partly, (partly.arm > 0) | (partly.task < 3) | (partly.sample < 32))
    told = " ".join(analyse(few, operating=1, elicitation=16, replicates=100).warnings)
    assert "at most 32 attempts at a task that is not known to be in its reach, and it takes 140" in told


def test_of_which_arms_no_task_can_be_called_expanded_is_said_by_name() -> None:
    """The bare arm has 160 attempts at half of the tasks and 8 at the others, to which one arm is limited."""
    chances = {name: {"all": np.full(6, chance)} for name, chance in (("bare", 0.0), ("tool", 1.0), ("few", 1.0))}
    data = made_up(chances, 160, np.random.default_rng(0))
    some = kept(data, ~((data.arm == 2) & (data.task < 3)) & ~((data.arm == 0) & (data.task > 2) & (data.sample > 7)))
    (told,) = [told for told in analyse(some, replicates=100).warnings if "expanded" in told]
    assert told.startswith("No task can count as expanded by few yet: of bare there are at most 8 attempts at a task")
    none = kept(data, (data.arm > 0) | (data.sample < 8))
    (told,) = [told for told in analyse(none, replicates=100).warnings if "expanded" in told]
    assert told.startswith("No task can count as expanded yet: of bare there are at most 8 attempts at a task")


def test_no_experiment_is_advised_to_ask_for_more_of_imported_attempts() -> None:
    data = drawn([0.0] * 4, [1.0] * 4, 4)
    imported = replace(data, arms=tuple(replace(arm, spec={**arm.spec, "imported": True}) for arm in data.arms))
    for some, advised in ((data, True), (imported, False)):
        told = warned(some)
        assert "No task can count as expanded yet" in told
        assert ("samples = 140" in told) == advised


def test_one_attempt_is_told_in_the_singular() -> None:
    said = text(analyse(drawn([0.2] * 6, [0.9] * 6, 2), replicates=100))
    assert "the part that up to 1 attempt of the bare arm reaches too, creation the part that it does not" in said
    assert "Creation is what up to 1 attempt of bare does not reach." in said
    once = ended(drawn([0.0], [1.0], 1), 0, "agent:error")
    assert "In 1 of 1 attempt of arm 'bare' the agent's own code" in warned(once)


def test_creation_is_always_creation_beyond_so_many_attempts() -> None:
    """What 16 attempts do not reach 160 may: the sentence says both."""
    found = analyse(drawn([1 / 19] * 30, [1.0] * 30, 160), operating=1, elicitation=16, replicates=200)
    (comparison,) = found.comparisons
    assert "creates, beyond 16 bare attempts" in [f.verb for f in findings(found, comparison)]
    said = text(found)
    assert "Creation is what up to 16 attempts of bare do not reach; 64 attempts of bare leave 0.0" in said


def test_a_group_is_named_after_what_the_arm_did_most_of() -> None:
    found = replace(
        effect(analyse(drawn([0.2] * 40, [0.6] * 40, 32, 5), replicates=200)),
        effects=(Effect.CREATED, Effect.ELICITED),
        elicitation=Estimate(0.3, 0.2, 0.4),
        creation=Estimate(0.05, 0.01, 0.1),
    )
    assert found.foremost is Effect.ELICITED
    assert replace(found, creation=Estimate(0.35, 0.2, 0.5)).foremost is Effect.CREATED
