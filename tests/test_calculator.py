"""The calculator, and the environment in which nothing but compute is missing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import FaultKind, ToolFault, UsageError
from testbed.experiment_file import read_experiment
from testbed.registry import make_env, make_tool
from testbed.report.analyse import analyse_run
from testbed.report.record import Effect
from testbed.runner import Runner
from testbed.store import Store
from testbed.tools.calculator import evaluate, shown

EXPERIMENTS = Path(__file__).parents[1] / "docs" / "experiments"


# -- the tool ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("6 * 7", "42"),
        (" (3 + 4) ** 5 % 17 ", "11"),
        ("2^10 + 1", "1025"),
        ("6 × 7 − 84 ÷ 2", "0"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("-2 ** 2", "-4"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333333333333"),
        ("1 / 3 * 3", "1"),
        ("10 / 4", "2.5"),
        ("2 ** -2", "0.25"),
        ("1e20 + 1", "100000000000000000001"),
        ("37 ** 48213 % 1009", str(pow(37, 48213, 1009))),
        ("3 ** 10 ** 20 % 7", str(pow(3, 10**20, 7))),
        ("(1 / 2) ** 3 % 1", "0.125"),
        ("1" * 900, "1" * 900),
        ("123456789.123456789123 * 10 ** 12", "123456789123456789123"),
        ("(0.1 + 1_0.00000000000000000001) * 10 ** 20", "1010000000000000000001"),
        ("1e-400 * 1e400", "1"),
        ("0e999999", "0"),
    ],
)
def test_it_is_right(expression: str, value: str) -> None:
    assert shown(evaluate(expression)) == value


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("", FaultKind.INVALID_ARGS),
        ("1 +", FaultKind.INVALID_ARGS),
        ("\0", FaultKind.INVALID_ARGS),
        ("x", FaultKind.INVALID_ARGS),
        ("True", FaultKind.INVALID_ARGS),
        ("1j", FaultKind.INVALID_ARGS),
        ("'a' * 3", FaultKind.INVALID_ARGS),
        ("1,000 + 1", FaultKind.INVALID_ARGS),
        ("1 if 2 else 3", FaultKind.INVALID_ARGS),
        ("1 << 2", FaultKind.INVALID_ARGS),
        ("__import__('os').getcwd()", FaultKind.INVALID_ARGS),
        ("(lambda: 1)()", FaultKind.INVALID_ARGS),
        ("1+" * 300 + "1", FaultKind.INVALID_ARGS),
        ("(" * 400 + "1" + ")" * 400, FaultKind.INVALID_ARGS),
        ("1 / 0", FaultKind.EXECUTION_ERROR),
        ("1 // (2 - 2)", FaultKind.EXECUTION_ERROR),
        ("5 % 0", FaultKind.EXECUTION_ERROR),
        ("2 ** 5 % 0", FaultKind.EXECUTION_ERROR),
        ("0 ** -1", FaultKind.EXECUTION_ERROR),
        ("2 ** 0.5", FaultKind.EXECUTION_ERROR),
        ("9 ** 9 ** 9", FaultKind.EXECUTION_ERROR),
        ("1e5000", FaultKind.EXECUTION_ERROR),
        ("1e-999999999", FaultKind.EXECUTION_ERROR),
        ("1e99999999999999999999999", FaultKind.EXECUTION_ERROR),
        ("(2 ** 9000) * (2 ** 9000)", FaultKind.EXECUTION_ERROR),
    ],
)
def test_what_it_cannot_work_out_is_the_models_fault(expression: str, kind: FaultKind) -> None:
    with pytest.raises(ToolFault) as refused:
        evaluate(expression)
    assert refused.value.kind is kind


numbers = st.integers(0, 10**6).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(
        lambda p: f"({' '.join(p)})"
    ),
)


@given(expressions)
def test_whole_numbers_are_worked_out_as_python_does(expression: str) -> None:
    try:
        value = eval(expression)
    except ZeroDivisionError:
        with pytest.raises(ToolFault, match="division by zero"):
            evaluate(expression)
    else:
        assert evaluate(expression) == value


@given(st.text(max_size=60))
def test_no_text_can_break_it(text: str) -> None:
    with contextlib.suppress(ToolFault):  # which is what a model may see; anything else would fail
        assert isinstance(evaluate(text), Fraction)


@pytest.mark.parametrize(
    "expression",
    [
        "(" + "9" * 600 + ") ** " + "9" * 300 + " % (10 ** 600 + 1)",
        "+".join(f"(1 / {n}) ** 300" for n in range(3, 43)),
        "*".join(["(3 ** 8000)"] * 60),
        "**".join(["9"] * 90),
    ],
)
def test_nothing_takes_long(expression: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ToolFault):
        shown(evaluate(expression))
    assert time.process_time() - began < 2  # it takes a twentieth of that; without bounds, for ever


def test_every_value_can_be_written_out() -> None:
    assert len(shown(evaluate("2 ** 13999"))) == 4215
    assert shown(evaluate("1 / 2 ** 13999")).endswith("E-4215")


# -- the environment ---------------------------------------------------------------------------------------------------


def test_the_question_holds_all_that_the_answer_needs() -> None:
    calculator = make_tool("calculator")
    for bits, digits in ((2, 2), (16, 4), (1000, 9)):
        env = make_env("Calculator-v0", bits=bits, digits=digits, tasks=20)
        for task in env.tasks:
            power = task.prompt.removeprefix("What is the remainder of ").partition("?")[0].replace("divided by", "%")
            assert calculator.invoke({"expression": power}) == task.reference
            assert env.grade(task, f" {task.reference}.").success


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 1001}, {"digits": 1}, {"digits": 10}, {"tasks": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"Calculator-v0: {name} must be from"):
        make_env("Calculator-v0", **options)


def test_creation_appears_past_the_cap_and_is_gone_once_it_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXPERIMENTS.parents[1])  # its policy is named from there
    with Store.open(tmp_path / "s.sqlite") as store:
        experiment = read_experiment(str(EXPERIMENTS / "calculator.toml"))
        asyncio.run(Runner(experiment, store).run())
        capped, raised = (analyse_run(store, experiment.name, bare=bare) for bare in ("bare", "raised"))
    (group,) = capped.groups
    effects = {effect.arm: effect for effect in group.effects}
    assert {arm for arm, effect in effects.items() if Effect.CREATED in effect.effects} == {"calculator", "raised"}
    assert capped.arm("bare").ended == {"limit:generated_tokens": capped.arm("bare").attempts}
    (group,) = raised.groups
    (effect,) = [each for each in group.effects if each.arm == "calculator"]
    assert Effect.CREATED not in effect.effects
    full = next(comparison.full for comparison in raised.comparisons if comparison.arm == "calculator")
    assert full is not None
    assert full.figures.creation.value == pytest.approx(0, abs=0.01)
    assert full.figures.elicitation_part.value == pytest.approx(0.1, abs=0.03)
