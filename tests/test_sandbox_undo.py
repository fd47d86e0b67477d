"""What is undone if it is not finished."""

from __future__ import annotations

import asyncio

import pytest

from testbed.sandbox.undo import UnlessFinished


class Diary:
    """Clean-ups that take their time, and note their beginning and end."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def undo(self, name: str) -> UnlessFinished:
        async def clean_up() -> None:
            self.notes.append(f"{name} begins")
            await asyncio.sleep(0)
            self.notes.append(f"{name} ends")

        return UnlessFinished(clean_up)


async def test_what_comes_to_its_end_is_left_alone():
    diary = Diary()

    async def returns() -> int:
        async with diary.undo("a"):
            return 1

    assert (await returns(), diary.notes) == (1, [])


@pytest.mark.parametrize("how", [asyncio.CancelledError, KeyError, SystemExit, GeneratorExit])
async def test_whatever_ends_it_is_raised_once_all_is_undone_from_the_innermost_outwards(how):
    diary = Diary()
    with pytest.raises(how):
        async with diary.undo("outer"), diary.undo("inner"):
            raise how
    assert diary.notes == ["inner begins", "inner ends", "outer begins", "outer ends"]


async def test_whoever_is_cancelled_waits_for_the_clean_up():
    diary = Diary()

    async def hangs() -> None:
        async with diary.undo("a"):
            await asyncio.sleep(60)

    task = asyncio.create_task(hangs())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert diary.notes == ["a begins", "a ends"]


async def test_an_error_of_the_clean_up_hides_what_it_came_after_but_names_it():
    async def broken() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room") as caught:
        async with UnlessFinished(broken):
            raise KeyError("first")
    assert isinstance(caught.value.__context__, KeyError)
