"""Compiled functions' work, divided among as many threads as PyTorch may use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch


def in_parts(work: Callable[[int, int], None], count: int) -> None:
    """Does `work` on all of `count` things: each thread from its first one to its last + 1.

    However it ends, no part is at work any more then.
    """
    if (threads := min(torch.get_num_threads(), count)) < 2:
        work(0, count)
        return
    bounds = [count * n // threads for n in range(threads + 1)]
    pool, parts = _pool(threads), list[Future[None]]()
    try:
        for first, last in pairwise(bounds):
            parts.append(pool.submit(work, first, last))
        for part in parts:
            part.result()
    finally:
        for part in parts:  # none may still be at work in memory that whoever called frees
            part.exception()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "testbed-compiled")
