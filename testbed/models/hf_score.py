"""How likely texts are to a model: teacher forcing, in one pass over each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from testbed.models.hf_sample import chance_of, logprobs_of

_MOST_LOGITS = 1 << 26  # numbers; 256 MiB in float32
_MOST_WIDENED = 1 << 22  # numbers; 32 MiB in float64


class Forced(NamedTuple):
    """What a model gives a text of n tokens, in nats.

    Attributes:
        logprobs: of its tokens, n; the first one's is 0, since nothing stands before it.
        ends: n; ln of the probability that one of the tokens asked about comes after each; none where none are.
    """

    logprobs: list[float]
    ends: list[float]


def score(model: Any, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probabilities of every token of some texts, see `Forced.logprobs`."""
    return [found.logprobs for found in forced(model, texts)]


@torch.inference_mode()
def forced(model: Any, texts: Sequence[Sequence[int]], ends: Sequence[int] = ()) -> list[Forced]:
    """Log-probabilities of the tokens of some texts, each given those before it, at temperature 1.

    Args:
        model: a transformers causal language model in evaluation mode.
        texts: token ids, at least one each.
        ends: tokens that may come next, asked about behind every token.
    """
    found: list[Forced] = [Forced([], []) for _ in texts]
    for group in _groups(texts, model.get_output_embeddings().weight.shape[0]):
        longest = max(len(texts[n]) for n in group)
        # Padding stands behind: no token sees what comes after it.
        padded = torch.tensor([[*texts[n], *[0] * (longest - len(texts[n]))] for n in group], device=model.device)
        logits = model(input_ids=padded, use_cache=False).logits
        for n, row, tokens in zip(group, logits, padded, strict=True):
            size = len(texts[n])
            found[n] = Forced([0.0], [])
            for part in _parts(size, row.shape[-1]):
                after = tokens[1:size][part]
                found[n].logprobs.extend(logprobs_of(row[part][: len(after)], after).tolist())
                found[n].ends.extend(chance_of(row[part], ends).tolist() if ends else [])
    return found


def _parts(size: int, vocabulary: int) -> Iterator[slice]:
    """Parts of a text whose logits are looked at together: in float64 they would take twice the memory that they do."""
    step = max(1, _MOST_WIDENED // vocabulary)
    return (slice(first, min(first + step, size)) for first in range(0, size, step))


def _groups(texts: Sequence[Sequence[int]], vocabulary: int) -> Iterator[list[int]]:
    """Indices of texts of similar length whose logits fit in memory together."""
    group: list[int] = []
    for n in sorted(range(len(texts)), key=lambda n: len(texts[n])):
        if group and (len(group) + 1) * len(texts[n]) * vocabulary > _MOST_LOGITS:
            yield group
            group = []
        group.append(n)
    if group:
        yield group
