"""Products of rows with a layer's weights: the compiled function beside MKL (PyTorch's own choice) and oneDNN.

Microseconds of one product, the least of ten stretches of calls, warm, one thread; and whether a row's numbers are the
same to the last bit in every number of rows from 1 to 64 as in 512.

Usage: python scripts/bench/products.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from testbed.models.hf_product import Weights

SHAPES = ((128, 128), (128, 384), (384, 128), (128, 768), (1024, 1024), (1024, 4096), (4096, 1024))  # width, columns
ROWS = (1, 16, 64, 256)
STRETCHES, SECONDS = 10, 0.02


def main() -> None:
    """Prints a line for each shape and number of rows."""
    torch.set_num_threads(1)
    print("| width, columns | rows | ours, µs | MKL | oneDNN, own order | row counts that change rows: ours / MKL |")
    print("|---|---|---|---|---|---|")
    with torch.inference_mode():
        for width, columns in SHAPES:
            shape(width, columns)


def shape(width: int, columns: int) -> None:
    """Prints the lines of one layer."""
    weights, given = torch.randn(columns, width), torch.randn(512, width)
    ours = Weights(weights).times
    ordered = torch.ops.mkldnn._reorder_linear_weight(weights, 256)
    systems: list[Callable[[torch.Tensor], torch.Tensor]] = [
        ours,
        lambda rows: torch.nn.functional.linear(rows, weights),
        lambda rows: torch.ops.mkldnn._linear_pointwise(rows, ordered, None, "none", [], ""),
    ]
    dependent = " / ".join(str(depends(system, given)) for system in systems[:2])
    for rows in ROWS:
        some = given[:rows].clone()
        times = " | ".join(f"{taken(system, some):,.1f}" for system in systems)
        print(f"| {width}, {columns} | {rows} | {times} | {dependent} |", flush=True)


def depends(system: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> int:
    """For how many numbers of rows up to 64 the first rows' numbers are others than among all."""
    right = system(given)
    return sum(not torch.equal(system(given[:rows].clone()), right[:rows]) for rows in range(1, 65))


def taken(system: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> float:
    """Microseconds of a product."""
    begun = time.perf_counter()
    system(rows)
    calls = 1 + int(SECONDS / STRETCHES / (time.perf_counter() - begun))
    best = float("inf")
    for _ in range(STRETCHES):
        begun = time.perf_counter()
        for _ in range(calls):
            system(rows)
        best = min(best, (time.perf_counter() - begun) / calls)
    return 1e6 * best


if __name__ == "__main__":
    main()
