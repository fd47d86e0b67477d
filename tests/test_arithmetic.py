"""Addition and multiplication, and what is kept out of training."""

from __future__ import annotations

import random

import pytest

from testbed.envs.arithmetic import Addition, Multiplication, Problem, draw, is_held_out, problems
from testbed.errors import UsageError


@pytest.mark.parametrize(("operator", "result"), [("+", "146"), ("*", "4753")])
def test_prompt_and_answer(operator, result):
    problem = Problem(97, operator, 49)
    assert problem.prompt == f"What is 97{operator}49?"
    assert problem.answer == result


def test_training_never_draws_what_is_held_out():
    rng = random.Random(0)
    for _ in range(3000):
        problem = draw(rng, rng.choice("+*"), rng.randint(1, 4), rng.randint(1, 4), held_out=False)
        assert not is_held_out(problem)


@pytest.mark.parametrize("operator", ["+", "*"])
@pytest.mark.parametrize("digits", range(2, 10))
def test_evaluation_draws_only_what_is_held_out_with_operands_of_the_right_size(operator, digits):
    for problem in problems(operator, digits, 100):
        assert is_held_out(problem)
        assert len(str(problem.left)) == len(str(problem.right)) == digits


def test_about_a_tenth_of_two_digit_products_is_held_out():
    held = sum(is_held_out(Problem(left, "*", right)) for left in range(10, 100) for right in range(10, 100))
    assert 0.09 < held / 8100 < 0.11


def test_one_digit_operands_are_never_held_out():
    assert not any(is_held_out(Problem(left, "*", right)) for left in range(10) for right in range(1000))


def test_all_hundred_one_digit_problems_can_be_drawn():
    assert len({problem.expression for problem in problems("+", 1, 100)}) == 100


def test_problems_are_different_and_repeatable_whatever_the_global_generator_does():
    random.seed(3)
    first = problems("*", 4, 50, seed=5)
    random.seed(4)
    assert first == problems("*", 4, 50, seed=5)
    assert first != problems("*", 4, 50, seed=6)
    assert len({problem.prompt for problem in first}) == 50


@pytest.mark.parametrize(
    ("operator", "digits", "n", "said"),
    [("-", 2, 1, "unknown operator"), ("+", 0, 1, "1 to 9"), ("+", 10, 1, "1 to 9"), ("*", 1, 101, "1 to 100"),
     ("*", 2, -1, "1 to 500")],
)  # fmt: skip
def test_options_out_of_range_are_refused_with_the_range(operator, digits, n, said):
    with pytest.raises(UsageError, match=said):
        problems(operator, digits, n)


@pytest.mark.parametrize("environment", [Addition, Multiplication])
def test_grader_accepts_every_reference_and_refuses_every_near_miss(environment):
    made = environment(digits=list(range(1, 10)), tasks=40)
    assert len(made.tasks) == 360
    assert made.validate().problems == ()


def test_digits_may_be_one_number_or_several():
    assert {task.meta["digits"] for task in Addition(digits=3, tasks=4).tasks} == {3}
    assert [task.meta["digits"] for task in Addition(digits=[1, 4], tasks=2).tasks] == [1, 1, 4, 4]


def test_the_same_problem_of_two_operators_is_two_tasks():
    tasks = {task.hash for environment in (Addition, Multiplication) for task in environment(digits=1, tasks=100).tasks}
    assert len(tasks) == 200
