"""Work in parts: everything once, in as many threads as there may be."""

from __future__ import annotations

import threading

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
