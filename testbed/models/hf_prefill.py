"""Reading prompts: several at once, each from where something that was read before ends."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from testbed.models.hf_cache import AlignedCache
from testbed.models.hf_prefix import Layout, Prefixes, Read, Tokens

Tensor = torch.Tensor

_PREFILL_TOKENS = 2048  # most new tokens, padding included, of one reading
_PAST_TOKENS = 8192  # most tokens read before, padding included, that one reading goes on from
_PADDING = 64  # tokens of padding that cost no more than one more reading
_WORTH = 16  # tokens in common, at least, from which a text is read on: a shorter beginning is read again sooner


class Reader:
    """Reads prompts with a model, and remembers.

    Args:
        model: a transformers causal language model in evaluation mode.
        layout: of its keys and values.
        kept: what was read before.
    """

    def __init__(self, model: Any, layout: Layout, kept: Prefixes) -> None:
        self._model, self._layout, self.kept = model, layout, kept
        self._chooses = "logits_to_keep" in inspect.signature(model.forward).parameters

    def read(self, prompts: Iterable[tuple[Tokens, bool]]) -> dict[Tokens, Read]:
        """Keys, values and logits of some prompts.

        Args:
            prompts: each with whether it goes on from another one that is kept, and is nobody else's: it then comes
                with that one as its trunk.
        """
        found, new = {}, []
        for prompt, goes_on in prompts:
            if (read := self.kept.get(prompt)) is not None:
                found[prompt] = read
            else:
                new.append((prompt, goes_on, *self._past(prompt)))
        for group in _alike(new):
            for read, (prompt, goes_on, _, _) in zip(self._read(group), group, strict=True):
                found[prompt] = read
                if not goes_on:
                    self.kept.add(read)
        return found

    def _past(self, prompt: Tokens) -> tuple[Read | None, int]:
        read, size = self.kept.longest(prompt)
        size = min(size, len(prompt) - 1)  # the last token is read again: it brings the logits
        return (read, size) if size >= _WORTH else (None, 0)

    def _read(self, group: Sequence[_Wanted]) -> list[Read]:
        prompts, pasts = [wanted[0] for wanted in group], [wanted[3] for wanted in group]
        before = max(pasts)
        news = [len(prompt) - past for prompt, past in zip(prompts, pasts, strict=True)]
        longest = max(news)
        device = self._model.device
        # Beginnings end in one column, and padding stands before them or behind everything: no gap, no token sees it.
        padded = [[*prompt[past:], *[0] * (longest - n)] for prompt, past, n in zip(prompts, pasts, news, strict=True)]
        past = torch.tensor(pasts, device=device)[:, None]
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)[:, None]
        columns = torch.arange(before + longest, device=device) - before  # 0 is the first new token
        ends = sorted(set(news))
        cache = self._cache(group, before, longest)
        output = self._model(
            input_ids=torch.tensor(padded, device=device),
            position_ids=(past + columns[before:]).minimum(last),
            attention_mask=(columns >= -past) & (columns <= last - past),
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": torch.tensor(ends, device=device) - 1} if self._chooses else {}),
        )
        reads = []
        for i, (prompt, goes_on, read, size) in enumerate(group):
            trunk = _trunk(read, size) if goes_on else None
            own = len(prompt) - (len(trunk.tokens) if trunk else 0)
            logits = output.logits[i, ends.index(news[i]) if self._chooses else news[i] - 1].clone()
            reads.append(Read(self._layout, prompt, cache.copy(i, own, longest - news[i]), trunk, logits))
        return reads

    def _cache(self, group: Sequence[_Wanted], before: int, longest: int) -> AlignedCache:
        """A cache that holds what was read before, and has room for what is new."""
        cache = AlignedCache(self._layout, len(group), 0)
        cache.open([past for _, _, _, past in group], longest)
        for row, (_, _, read, size) in enumerate(group):
            if read is not None:
                cache.fill(row, read.part(0, size))
        cache.show(len(group), before, longest)
        return cache


_Wanted = tuple[Tokens, bool, Read | None, int]


def _trunk(read: Read | None, size: int) -> Read | None:
    """What a text can have as its trunk that begins like one that was read, for so many tokens."""
    if read is None:
        return None
    trunk = read.trunk or read
    return trunk if len(trunk.tokens) <= size else None


def _alike(wanted: Sequence[_Wanted]) -> Iterator[list[_Wanted]]:
    """Groups in which there is little padding and the whole fits one reading, shortest first."""
    group: list[_Wanted] = []
    for each in sorted(wanted, key=lambda each: (len(each[0]) - each[3], each[3])):
        size, past = len(each[0]) - each[3], max([each[3], *(other[3] for other in group)])
        rows = len(group) + 1
        too_many = size * rows > _PREFILL_TOKENS or past * rows > _PAST_TOKENS
        padding = size * rows - sum(len(prompt) - past for prompt, _, _, past in (*group, each))
        if group and (too_many or padding > max(_PADDING, size * rows // 8)):
            yield group
            group = []
        group.append(each)
    if group:
        yield group
