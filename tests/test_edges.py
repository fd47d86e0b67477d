"""Edges: what is taken there, what passes, and what is told of it."""

from __future__ import annotations

import asyncio

import pytest

from testbed.edges import Foreign, Kept
from testbed.errors import ModelError, UsageError


def test_what_other_peoples_code_raises_is_told_as_what_it_means_and_keeps_its_cause() -> None:
    raised = ZeroDivisionError("x")
    with (
        pytest.raises(ModelError, match="it failed: x") as told,
        Foreign(lambda error: ModelError(f"it failed: {error}")),
    ):
        raise raised
    assert told.value.__cause__ is raised


@pytest.mark.parametrize("error", [UsageError("ours"), KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(1)])
def test_errors_of_ours_and_whoever_is_interrupted_pass_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, Foreign(lambda error: ModelError("told")):
        raise error
    assert raised.value is error
    assert raised.value.__cause__ is None


def test_what_means_what_it_says_passes() -> None:
    with pytest.raises(OSError, match="x") as raised, Foreign(lambda error: error):
        raise OSError("x")
    assert raised.value.__cause__ is None


def test_more_than_exceptions_are_told_where_that_is_asked_for() -> None:
    with pytest.raises(ModelError), Foreign(lambda error: ModelError("ended"), BaseException):
        raise SystemExit(1)


async def test_a_task_that_is_cancelled_ends_though_its_error_is_kept() -> None:
    begun = asyncio.Event()

    async def work() -> BaseException | None:
        with Kept() as kept:
            begun.set()
            await asyncio.Event().wait()
        return kept.error

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    assert isinstance(await task, asyncio.CancelledError)


@pytest.mark.parametrize(("error", "kept"), [(ValueError(), True), (UsageError("x"), False), (SystemExit(1), False)])
def test_only_what_was_asked_for_is_kept(error: BaseException, kept: bool) -> None:
    with Kept(Exception, passing=UsageError) as found:
        found.result = 4
    assert (found.result, found.error) == (4, None)
    if kept:
        with Kept(Exception, passing=UsageError) as found:
            raise error
        assert found.error is error
    else:
        with pytest.raises(type(error)), Kept(Exception, passing=UsageError):
            raise error


def test_an_error_that_was_taken_is_not_kept() -> None:
    with Kept(ValueError) as kept:
        raise ValueError("x")
    assert str(kept.taken()) == "x"
    assert kept.error is None
