"""Drawing the next tokens of a batch from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from testbed.errors import ModelError

if TYPE_CHECKING:
    from testbed.models.hf_row import Row

Tensor = torch.Tensor


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """The next token of each row, by inversion of the cumulative distribution in the order of token ids.

    Args:
        logits: shape (rows, vocabulary).
        rows: their temperatures, nuclei and random numbers.

    Raises:
        ModelError: the logits are not numbers.
    """
    temperatures = [row.temperature for row in rows]
    if any(temperature != 1 for temperature in temperatures):
        divisors = [temperature or 1.0 for temperature in temperatures]
        below = logits.float() - logits.amax(-1, keepdim=True)  # so that no temperature makes them overflow
        scaled = below / torch.tensor(divisors, device=logits.device)[:, None]
    else:
        scaled = logits
    mass = torch.softmax(scaled, dim=-1, dtype=torch.float32)
    if any(row.top_p < 1 for row in rows):
        mass = _nucleus(mass, torch.tensor([row.top_p for row in rows], device=logits.device))
    reached = mass.cumsum(dim=-1, dtype=torch.float64)  # small masses must not vanish beside what came before them
    total = reached[:, -1:]
    drawn = torch.tensor([[row.draw()] for row in rows], dtype=torch.float64, device=logits.device) * total
    # How many tokens end at or before the draw; rounding can bring a draw up to the total.
    tokens = torch.searchsorted(reached, drawn, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    if not bool(torch.isfinite(total).all()):
        raise ModelError("the model's logits are not finite; with half precision, try dtype = 'float32'.")
    if not all(temperatures):
        greedy = torch.tensor([not temperature for temperature in temperatures], device=logits.device)
        tokens = torch.where(greedy, logits.argmax(dim=-1), tokens)
    return list(map(int, tokens.tolist()))


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of tokens at temperature 1, in nats, float64.

    Args:
        logits: shape (n, vocabulary).
        tokens: shape (n,).
    """
    logits = logits.double()
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)


def chance_of(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-probability that any of some tokens comes next, at temperature 1, in nats, float64, shape (n,).

    Args:
        logits: shape (n, vocabulary).
        tokens: ids.
    """
    logits = logits.double()
    return logits[:, list(tokens)].logsumexp(dim=-1) - logits.logsumexp(dim=-1)


def note_logprobs(logits: Tensor, rows: Sequence[Row], tokens: Sequence[int]) -> None:
    """Keeps what the model itself gave the tokens that were drawn, for the rows that want it."""
    wanted = [slot for slot, row in enumerate(rows) if row.logprobs is not None]
    if not wanted:
        return
    chosen = torch.tensor([tokens[slot] for slot in wanted], device=logits.device)
    for slot, value in zip(wanted, logprobs_of(logits[wanted], chosen).tolist(), strict=True):
        kept = rows[slot].logprobs
        assert kept is not None
        kept.append(value)


def _nucleus(mass: Tensor, top_p: Tensor) -> Tensor:
    """`mass` without the tokens outside the smallest set that holds `top_p`; rows with 1 keep all."""
    ordered, order = mass.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    outside = (before >= top_p[:, None]) & (top_p < 1)[:, None]
    return mass.masked_fill(outside.gather(-1, order.argsort(dim=-1)), 0.0)
