"""What Worlds-v0 accepts as answers and as options, and what becomes of its secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.envs.worlds import Worlds
from testbed.errors import UnknownName, UsageError
from testbed.registry import make_env

SECRET = "correct horse battery staple"


def test_stated_aliases_are_accepted_and_nothing_near_them() -> None:
    environment = Worlds(kind=["hops", "counting"], hops=1, tasks=40)
    date = next(t for t in environment.tasks if len(t.reference) == 3 and t.meta["kind"] == "hops")
    day, month, year = date.reference[0].split()
    for right in (f"{day} {month} {year}", f"{month} {day}, {year}", f" {month} {day} {year}. ", date.reference[2]):
        assert environment.grade(date, right).success, right
    for wrong in (f"{month} {year}", year, f"{day} {month}", f"on {day} {month} {year}", f"{year} {month} {day}"):
        assert not environment.grade(date, wrong).success, wrong
    count = next(t for t in environment.tasks if t.meta["kind"] == "counting")
    assert environment.grade(count, count.reference[1].upper()).success
    assert not environment.grade(count, f"{count.reference[0]} works").success


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hop"}, "hops"),
        ({"kind": ["hops", "count"]}, "counting"),
        ({"split": "documents"}, "document"),
        ({"hops": 5}, "hops must be a whole number from 1 to 4, not 5"),
        ({"hops": 1, "kind": "hops", "split": "mixed"}, "none of these is mixed"),
        ({"documents": 49}, "documents must be a whole number from 50 to 1,000,000, not 49"),
        ({"documents": 2_000_000}, "not 2000000"),
        ({"kind": []}, "no question is left"),
        ({"tasks": 0}, "tasks must be"),
        ({"known": 1.5}, "known must be a number from 0 to 1"),
        ({"difficulty": 3}, "unknown option"),
        ({"secret": 123}, "must be written"),
    ],
)
def test_wrong_options_are_refused_and_the_message_says_what_is_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        make_env("Worlds-v0", **options)


def test_a_world_too_small_for_so_many_questions_says_how_many_it_holds() -> None:
    with pytest.raises(UsageError, match=r"a world of 50 documents.* holds \d+ questions of the family 'known 3 hops'"):
        _ = Worlds(documents=50, kind="hops", hops=3, split="known", tasks=5_000).tasks
    with pytest.raises(UsageError, match=r", 0 of them known, holds hardly more than 0 questions.* or other splits"):
        _ = Worlds(known=0, kind="hops", hops=4, split="known", tasks=1).tasks
    with pytest.raises(UnknownName):
        make_env("Worlds-v0", split="Known")


# -- the secret form ---------------------------------------------------------------------------------------------------


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("WORLD_SECRET", SECRET)
    return "${WORLD_SECRET}"


def test_a_secret_makes_another_world_and_the_same_one_each_time(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    public, private, again = Worlds(tasks=2), Worlds(tasks=2, secret=secret), Worlds(tasks=2, secret=secret)
    assert private.tasks == again.tasks
    assert not {task.prompt for task in public.tasks} & {task.prompt for task in private.tasks}
    monkeypatch.setenv("WORLD_SECRET", SECRET + "!")
    assert not set(Worlds(tasks=2, secret=secret).tasks) & set(private.tasks)


@pytest.mark.parametrize("wrong", [SECRET, "$WORLD_SECRET", "${WORLD_SECRET} ", 17, ["${WORLD_SECRET}"]])
def test_a_secret_that_is_written_out_is_refused_and_not_repeated(wrong: object, secret: str) -> None:
    with pytest.raises(UsageError, match=r"must be written \"\$\{NAME\}\"") as caught:
        make_env("Worlds-v0", secret=wrong)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("value", "message"), [("", "is not set"), ("short", "fewer than 16 characters")])
def test_a_weak_or_missing_secret_is_refused(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SECRET", value)
    with pytest.raises(UsageError, match=f"WORLD_SECRET.*{message}") as caught:
        Worlds(secret="${WORLD_SECRET}")
    assert not value or value not in str(caught.value)


def test_tasks_and_documents_tell_nothing_of_the_secret(secret: str) -> None:
    environment = Worlds(documents=200, tasks=1, secret=secret)
    shown = repr((environment, vars(environment).keys(), environment.tasks, list(environment.documents())))
    assert SECRET not in shown
    assert environment.world._key.hex() not in shown
    assert environment.world.identity in shown
