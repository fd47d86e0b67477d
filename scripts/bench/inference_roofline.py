"""What a machine could reach at most, for `inference.py`: from its own measured bandwidth and arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from inference_attempts import Attempt

SECONDS = 0.5  # of each measurement


@dataclass(frozen=True)
class Bound:
    """The most tokens a second, and what they are bound by."""

    rate: float
    what: str


def bound(model: Any, attempts: Sequence[Attempt], rows: int) -> Bound:
    """Time for reading weights and cache, or for the arithmetic, whichever is longer, with nothing else.

    Args:
        model: for its sizes.
        attempts: each prompt is read once, and of later turns only what is new.
        rows: attempts that share one reading of the weights.
    """
    config, weights = model.config, list(model.parameters())
    size = weights[0].element_size()
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
    embedding = model.get_input_embeddings().weight.numel()
    inner = sum(weight.numel() for weight in weights) - embedding
    width = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    written = read = seen = 0
    for attempt in attempts:
        context = len(attempt.prompt)
        for turn in attempt.turns:
            written += turn.limit
            seen += turn.limit * context + turn.limit**2 // 2  # tokens attended to, one of them after another
            context += turn.limit + len(turn.shown)
        read += sum(len(turn.shown) for turn in attempt.turns[:-1])
    read += sum(map(len, {attempt.prompt for attempt in attempts}))
    bytes_ = written / rows * sum(weight.nbytes for weight in weights) + seen * per_token
    flops = 2 * (inner + embedding) * written + 2 * inner * read + width * seen
    by_bytes, by_flops = bytes_ / bandwidth(model.device), flops / arithmetic(model, rows)
    what = "memory (weights and cache)" if by_bytes > by_flops else "arithmetic, in products of the model's shape"
    return Bound(written / max(by_bytes, by_flops), what)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that are read from memory, from a tensor that no cache holds."""
    data = torch.ones(1 << (27 if device.type == "cpu" else 30), dtype=torch.float32, device=device)
    return float(data.nbytes / _seconds(device, data.sum))


def arithmetic(model: Any, rows: int) -> float:
    """Floating-point operations a second in products as large as the model's largest at so many rows."""
    weight = max((w for w in model.parameters() if w.ndim == 2), key=lambda w: w.numel()).detach()
    given = torch.randn(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
    seconds = _seconds(weight.device, lambda: torch.nn.functional.linear(given, weight))
    return float(2 * rows * weight.numel() / seconds)


@torch.inference_mode()
def _seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """Processor time of one call where the processor works, else time by the clock."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    work()
    _wait(device)
    begun, times = clock(), 0
    while clock() - begun < SECONDS:
        work()
        times += 1
    _wait(device)
    return (clock() - begun) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
