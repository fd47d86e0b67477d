"""How likely texts are to a model: teacher forcing, in one pass over each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from testbed.models.hf_sample import logprobs_of

_MOST_LOGITS = 1 << 26  # numbers; 256 MiB in float32


@torch.inference_mode()
def score(model: Any, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probabilities of every token of some texts but the first, given those before it, at temperature 1.

    Args:
        model: a transformers causal language model in evaluation mode.
        texts: token ids, at least one each.

    Returns:
        For each text, nats of its tokens; the first one's is 0, since nothing stands before it.
    """
    found: list[list[float]] = [[] for _ in texts]
    for group in _groups(texts, model.get_output_embeddings().weight.shape[0]):
        longest = max(len(texts[n]) for n in group)
        # Padding stands behind: no token sees what comes after it.
        padded = torch.tensor([[*texts[n], *[0] * (longest - len(texts[n]))] for n in group], device=model.device)
        logits = model(input_ids=padded, use_cache=False).logits
        for n, row, tokens in zip(group, logits, padded, strict=True):
            size = len(texts[n])
            found[n] = [0.0, *logprobs_of(row[: size - 1], tokens[1:size]).tolist()]
    return found


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
