"""Work in parts: everything once, in as many threads as there may be."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from testbed.models.hf_threads import in_parts


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_everything_is_done_once(threads: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    done: list[int] = []
    in_parts(lambda first, last: done.extend(range(first, last)), count)
    assert sorted(done) == list(range(count))


def test_parts_are_done_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    both = threading.Barrier(2, timeout=20)
    in_parts(lambda first, last: both.wait() and None, 2)


def test_what_a_part_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(first: int, last: int) -> None:
        if first:
            raise MemoryError("no memory")

    with pytest.raises(MemoryError):
        in_parts(work, 2)


def test_nothing_is_at_work_any_more_when_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a part would write into memory that whoever called has freed."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    begun, raised, done = threading.Event(), threading.Event(), list[int]()

    def work(first: int, last: int) -> None:
        if first == 0:
            assert begun.wait(20)
            raised.set()
            raise MemoryError("no memory")
        begun.set()
        assert raised.wait(20)
        time.sleep(0.2)
        done.append(first)

    with pytest.raises(MemoryError):
        in_parts(work, 2)
    assert done == [1]
