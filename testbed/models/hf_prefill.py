"""Reading prompts: several at once, each from where something that was read before ends."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from testbed.models.hf_cache import AlignedCache
from testbed.models.hf_prefix import Blocks, KeptReads, Layout, Read, Tokens

Tensor = torch.Tensor

_PREFILL_TOKENS = 2048  # most new tokens, padding included, of one reading
_PAST_TOKENS = 8192  # most tokens read before that one reading goes on from, where they must be copied for it
_PADDING = 64  # tokens of padding that cost no more than one more reading
_WORTH = 16  # tokens in common, at least, from which a text is read on: a shorter beginning is read again sooner


class Wanted(NamedTuple):
    """A prompt that is to be read.

    Attributes:
        prompt: all of it.
        past: a text that it begins with.
        size: tokens of that which are not read again.
    """

    prompt: Tokens
    past: Read | None = None
    size: int = 0

    @property
    def new(self) -> int:
        """Tokens to be read."""
        return len(self.prompt) - self.size

    @property
    def trunk(self) -> Read | None:
        """What can be the trunk of a text that goes on from `past`."""
        trunk = self.past and (self.past.trunk or self.past)
        return trunk if trunk and len(trunk.tokens) <= self.size else None


class Reader:
    """Reads prompts with a model, and remembers.

    Args:
        model: a transformers causal language model in evaluation mode.
        layout: of its keys and values.
        memory: bytes for what is kept and for what is being read; only a prompt that is longer than the latter's share
            takes more, while it is read.

    Attributes:
        kept: what was read before.
    """

    def __init__(self, model: Any, layout: Layout, memory: int) -> None:
        self._model, self._layout = model, layout
        self._chooses = "logits_to_keep" in inspect.signature(model.forward).parameters
        whole = _PREFILL_TOKENS + _PAST_TOKENS
        room = min(whole, memory // (2 * layout.token_bytes))  # tokens: half of the memory at most is for reading
        self._most, self._most_past = room * _PREFILL_TOKENS // whole, room * _PAST_TOKENS // whole
        self.kept = KeptReads(memory - room * layout.token_bytes)

    def read(self, prompts: Iterable[Tokens]) -> dict[Tokens, Read]:
        """Keys, values and logits of some prompts, which are kept."""
        found, new = {}, []
        for prompt in prompts:
            if (read := self.kept.get(prompt)) is not None:
                found[prompt] = read
            else:
                new.append(self.wanted(prompt))
        for wanted, blocks, logits in self.read_on(new):
            before = wanted.past.part(0, wanted.size) if wanted.past else tuple(block[:, :, :0] for block in blocks)
            whole = tuple(torch.cat(both, 2) for both in zip(before, blocks, strict=True))
            found[wanted.prompt] = Read(self._layout, wanted.prompt, whole, None, logits)
            self.kept.add(found[wanted.prompt])
        return found

    def wanted(self, prompt: Tokens) -> Wanted:
        """A prompt, and from where it is to be read."""
        read, size = self.kept.longest(prompt)
        size = min(size, len(prompt) - 1)  # the last token is read again: it brings the logits
        return Wanted(prompt, read, size) if size >= _WORTH else Wanted(prompt)

    def read_on(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, Blocks, Tensor]]:
        """Reads prompts that are not kept: keys and values of what is new, good until the next comes, and logits."""
        for group in _alike(wanted, self._most, self._most_past):
            yield from self._run(group)

    def _run(self, group: Sequence[Wanted]) -> Iterator[tuple[Wanted, Blocks, Tensor]]:
        before = max(wanted.size for wanted in group)
        longest = max(wanted.new for wanted in group)
        device = self._model.device
        # Beginnings end in one column, and padding stands before them or behind everything: no gap, no token sees it.
        padded = [[*wanted.prompt[wanted.size :], *[0] * (longest - wanted.new)] for wanted in group]
        past = torch.tensor([wanted.size for wanted in group], device=device)[:, None]
        last = torch.tensor([len(wanted.prompt) - 1 for wanted in group], device=device)[:, None]
        columns = torch.arange(before + longest, device=device) - before  # 0 is the first new token
        ends = sorted({wanted.new for wanted in group})
        cache = self._cache(group, before, longest)
        output = self._model(
            input_ids=torch.tensor(padded, device=device),
            position_ids=(past + columns[before:]).minimum(last),
            attention_mask=(columns >= -past) & (columns <= last - past),
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": torch.tensor(ends, device=device) - 1} if self._chooses else {}),
        )
        for i, wanted in enumerate(group):
            logits = output.logits[i, ends.index(wanted.new) if self._chooses else wanted.new - 1].clone()
            yield wanted, cache.show_row(i, wanted.new, longest - wanted.new), logits

    def _cache(self, group: Sequence[Wanted], before: int, longest: int) -> AlignedCache:
        """A cache that holds what was read before, and has room for what is new."""
        cache = AlignedCache(self._layout, len(group), 0)
        cache.open([wanted.size for wanted in group], longest)
        for row, wanted in enumerate(group):
            if wanted.past is not None:
                cache.fill(row, wanted.past.part(0, wanted.size))
        cache.show(len(group), before, longest)
        return cache


def _alike(wanted: Sequence[Wanted], most: int, most_past: int) -> Iterator[list[Wanted]]:
    """Groups in which there is little padding and the whole fits one reading, shortest first."""
    group: list[Wanted] = []
    for each in sorted(wanted, key=lambda each: (each.new, each.size)):
        past = max([each.size, *(other.size for other in group)])
        rows = len(group) + 1
        too_many = each.new * rows > most or past * rows > most_past
        padding = each.new * rows - sum(other.new for other in (*group, each))
        if group and (too_many or padding > max(_PADDING, each.new * rows // 8)):
            yield group
            group = []
        group.append(each)
    if group:
        yield group
