"""Compiled functions' work, divided among as many threads as PyTorch may use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def in_parts(work: Callable[[int, int], None], count: int) -> None:
    """Does `work` on all of `count` things: each thread from its first one to its last + 1."""
    if (threads := min(torch.get_num_threads(), count)) < 2:
        work(0, count)
        return
    bounds = [count * n // threads for n in range(threads + 1)]
    list(_pool(threads).map(work, bounds[:-1], bounds[1:]))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "testbed-compiled")
