from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from testbed.budget import LARGEST, UNLIMITED, VISIBLE, Budget, Meter
from testbed.errors import UnknownName, UsageError
from testbed.types import COST_COMPONENTS, Usage, digest

WHOLE = [c for c in COST_COMPONENTS if c not in ("seconds", "usd")]
ENDING = [c for c in COST_COMPONENTS if c not in ("tool_calls", "observed_tokens")]


def used(meter: Meter, component: str, amount: float) -> None:
    """Books an amount of one component."""
    if component == "seconds":
        meter.clock(amount)
    elif component in ("model_calls", "turns"):
        for _ in range(int(amount)):
            meter.charge_model(Usage())
    else:
        meter.charge_model(Usage(**{component: amount}))


@pytest.mark.parametrize("component", COST_COMPONENTS)
@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, -math.inf, True, "3", [1], 10**400, 0.0])
def test_limits_that_are_no_positive_number_are_refused_by_name(component: str, bad: Any) -> None:
    with pytest.raises(UsageError, match=f"{component} must be a positive"):
        Budget(**{component: bad})


@pytest.mark.parametrize("component", WHOLE)
def test_fractions_of_things_that_are_counted_are_refused(component: str) -> None:
    with pytest.raises(UsageError, match=f"{component} must be a positive whole number, not 1.5"):
        Budget(**{component: 1.5})


@pytest.mark.parametrize("component", ["seconds", "usd"])
def test_seconds_and_money_may_be_fractions(component: str) -> None:
    assert getattr(Budget(**{component: 0.25}), component) == 0.25


@pytest.mark.parametrize("same", [3, 3.0, np.int64(3), np.float32(3)])
def test_equal_limits_are_one_budget_with_one_hash_however_they_are_written(same: Any) -> None:
    budget = Budget(turns=same, seconds=same, calls={"search": same})
    assert type(budget.turns) is int
    assert digest(budget.as_dict()) == digest(Budget(turns=3, seconds=3, calls={"search": 3}).as_dict())


@pytest.mark.parametrize("bad", [0, -2, True, 1.5, "x", None, math.nan])
def test_limits_of_one_tool_are_checked_too(bad: Any) -> None:
    with pytest.raises(UsageError, match=r"calls\.search must be a positive whole number"):
        Budget(calls={"search": bad})


@pytest.mark.parametrize("bad", [3, [("search", 3)], "search", None])
def test_limits_by_tool_must_be_a_table(bad: Any) -> None:
    with pytest.raises(UsageError, match="calls must be a table"):
        Budget(calls=bad)


def test_a_budget_does_not_change_with_the_table_it_was_made_from() -> None:
    calls = {"search": 3}
    budget = Budget(calls=calls)
    calls["search"] = 9
    assert budget.calls == {"search": 3}


def test_unknown_component_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown budget component 'tool_cals'\. Did you mean 'tool_calls'\?"):
        Budget.from_mapping({"tool_cals": 3})


def test_as_dict_holds_what_is_limited_and_makes_the_budget_again() -> None:
    budget = Budget(turns=None, tool_calls=2, calls={"x": 1}, usd=0.5)
    assert budget.as_dict() == {"tool_calls": 2, "usd": 0.5, "calls": {"x": 1}}
    assert Budget(turns=None, **budget.as_dict()) == budget


@pytest.mark.parametrize("component", ENDING)
def test_a_limit_is_exhausted_when_reached_and_exceeded_when_passed(component: str) -> None:
    meter = Meter(Budget(**{"turns": None, component: 3}))
    used(meter, component, 2)
    assert (meter.exhausted(), meter.exceeded(), meter.left(component)) == (None, None, 1)
    used(meter, component, 3 if component == "seconds" else 1)
    assert (meter.exhausted(), meter.exceeded(), meter.left(component)) == (component, None, 0)
    used(meter, component, 4 if component == "seconds" else 1)
    assert meter.exceeded() == component


def test_a_spent_tool_budget_does_not_end_an_attempt() -> None:
    meter = Meter(Budget(tool_calls=1, observed_tokens=1))
    meter.charge_call("x")
    meter.charge_observed(1)
    assert meter.exhausted() is None
    assert meter.calls_left("x") == 0


def test_calls_of_one_tool_are_limited_apart_and_within_the_whole() -> None:
    meter = Meter(Budget(tool_calls=4, calls={"a": 3}))
    meter.charge_call("a")
    meter.charge_call("b")
    assert (meter.calls_left("a"), meter.calls_left("b")) == (2, 2)
    meter.charge_call("b")
    assert (meter.calls_left("a"), meter.calls_left("b")) == (1, 1)
    meter.charge_call("a")
    assert meter.calls_left("a") == 0


def test_remaining_holds_no_clock_and_no_money() -> None:
    assert {"seconds", "usd"}.isdisjoint(VISIBLE)
    meter = Meter(Budget(turns=None, seconds=5, usd=5))
    before = meter.remaining().tolist()
    meter.clock(3)
    assert meter.remaining().tolist() == before == [UNLIMITED] * len(VISIBLE)
    assert meter.remaining_dict() == {}


def test_remaining_counts_down_to_zero_and_not_below() -> None:
    meter = Meter(Budget(turns=None, generated_tokens=5))
    assert meter.remaining()[0] == 5
    meter.charge_model(Usage(generated_tokens=9))
    assert meter.remaining()[0] == 0
    assert meter.remaining_dict() == {"generated_tokens": 0}
    assert meter.cost.generated_tokens == 9  # what was spent is told as it is


def test_remaining_says_what_is_left_of_each_limited_tool_in_order_of_name() -> None:
    meter = Meter(Budget(turns=None, calls={"search": 3, "python": 2}))
    meter.charge_call("search")
    assert meter.remaining().tolist() == [UNLIMITED] * len(VISIBLE) + [2, 2]
    meter.charge_call("python")
    assert meter.remaining().shape == (len(VISIBLE) + 2,)
    assert meter.remaining_dict() == {"calls.python": 1, "calls.search": 2}


def test_remaining_of_the_largest_budget_is_exact() -> None:
    meter = Meter(Budget(generated_tokens=LARGEST))
    meter.charge_model(Usage(generated_tokens=1))
    assert int(meter.remaining()[0]) == LARGEST - 1


def test_every_component_of_the_cost_is_booked_where_it_belongs() -> None:
    meter = Meter(Budget())
    meter.charge_model(Usage(prompt_tokens=7, generated_tokens=5, usd=0.25))
    meter.charge_call("x")
    meter.charge_observed(11)
    meter.clock(0.5)
    assert meter.cost.as_dict() == {
        "generated_tokens": 5,
        "prompt_tokens": 7,
        "observed_tokens": 11,
        "model_calls": 1,
        "tool_calls": 1,
        "turns": 1,
        "seconds": 0.5,
        "usd": 0.25,
    }


@pytest.mark.parametrize("bad", [0, -2, True, 1.5, "x", None, math.nan])
def test_answers_must_be_a_number_of_them(bad: Any) -> None:
    with pytest.raises(UsageError, match="answers must be a positive whole number"):
        Budget(answers=bad)


def test_one_answer_is_the_budget_that_says_nothing_of_answers() -> None:
    assert digest(Budget(answers=1).as_dict()) == digest(Budget().as_dict())
    assert digest(Budget(answers=2).as_dict()) != digest(Budget().as_dict())
    assert Budget.from_mapping({"answers": 2.0}) == Budget(answers=2)
