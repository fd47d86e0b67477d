"""Token by token: rows of different attempts decoded together, joining and leaving the batch between tokens.

A prompt is read once. The attempts that start with it attend to its keys and values where they are, or get a copy where
that is cheaper; a later message of an attempt reads only what is new. The model is any transformers model whose layers
keep keys and values; what masks and positions mean is left to the model's own code, except where `hf_attention` covers
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from testbed.errors import ModelError
from testbed.models import hf_attention
from testbed.models.base import uniforms
from testbed.models.hf_attention import Groups, Step
from testbed.models.hf_cache import AlignedCache
from testbed.models.hf_prefill import Reader
from testbed.models.hf_prefix import Layers, Prefixes, Read
from testbed.models.hf_sample import note_logprobs, sample

Tensor = torch.Tensor

_DRAWS = 256  # uniform numbers made at a time
# A beginning is shared where rows times tokens come to this: what attending to it apart costs as copies, measured.
_SHARE_FROM = {"cpu": 192}
_SHARE_FROM_ELSEWHERE = 1 << 17


@dataclass(eq=False)
class Row:
    """One message being written.

    Attributes:
        prompt: token ids that the model is given, at least one.
        limit: most tokens to write.
        temperature: 0 takes the likeliest token.
        top_p: nucleus mass in (0, 1].
        stream: key of the attempt's random numbers.
        position: tokens that the attempt wrote in earlier messages.
        logprobs: of the tokens, at temperature 1 and without a nucleus, in nats; None if nobody wants them.
        tokens: what is written so far.
        finish: "stop" or "length" when done, else "".
        keep: whether the attempt may go on: what it wrote is then remembered, and its next message reads what is new.
        trunk: the shared beginning of the prompt, whose keys and values are not among the row's own.
    """

    prompt: tuple[int, ...]
    limit: int
    temperature: float = 1.0
    top_p: float = 1.0
    stream: int = 0
    position: int = 0
    logprobs: list[float] | None = None
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    keep: bool = False
    trunk: Read | None = field(default=None, repr=False)
    _block: list[float] = field(default_factory=list, repr=False)

    @property
    def seen(self) -> int:
        """Tokens whose keys and values are in the cache: all but the last one written."""
        return len(self.prompt) + max(len(self.tokens) - 1, 0)

    @property
    def own(self) -> int:
        """Tokens whose keys and values are the row's own: those seen behind the trunk."""
        return self.seen - (len(self.trunk.tokens) if self.trunk else 0)

    def draw(self) -> float:
        """The uniform number that decides the next token: a function of the stream and of how many came before."""
        at = len(self.tokens) % _DRAWS
        if at == 0:
            size = min(_DRAWS, self.limit - len(self.tokens))
            self._block = uniforms(self.stream, self.position + len(self.tokens), size).tolist()
        return self._block[at]


class Decoder:
    """The batch.

    Args:
        model: a transformers causal language model in evaluation mode.
        stops: whether the last of these tokens ends the message.
        slots: most rows at once.

    Attributes:
        shares: whether rows can attend to shared beginnings; decided by comparing logits.

    Raises:
        ModelError: the model keeps something else than keys and values.
    """

    def __init__(self, model: Any, stops: Callable[[Sequence[int]], bool], slots: int) -> None:
        self._model, self._stops, self.slots = model, stops, slots
        self._device, self._dtype = model.device, model.dtype
        _check_cache(model)
        self.shares = hf_attention.plug_in(model)
        if self.shares and not self._decodes_as_it_reads():
            hf_attention.unplug(model)
            self.shares = False
        self.clear()

    @property
    def free(self) -> int:
        """How many rows can be admitted now."""
        return self.slots - len(self.rows)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Reads the prompts of new rows and writes their first tokens; returns the rows that were done with that."""
        rows = sorted(rows, key=lambda row: row.prompt)  # equal prompts side by side: one copy fills them all
        many = Counter(row.prompt for row in rows)
        reads = self._reader.read({row.prompt: row.position > 0 and many[row.prompt] == 1 for row in rows}.items())
        self._choose_trunks(rows, reads)
        self._open_cache(next(iter(reads.values())))
        self._cache.reserve(len(self.rows) + len(rows), _width(rows), len(self.rows), _width(self.rows))
        slot = len(self.rows)
        for _, same in groupby(rows, key=lambda row: row.prompt):
            alike = list(same)
            first, slot = slot, slot + len(alike)
            if size := alike[0].own:
                self._cache.fill(first, slot, _last(reads[alike[0].prompt], size))
        logits = torch.stack([reads[row.prompt].logits for row in rows])
        self.rows += rows
        self._changed = True
        return self._append(len(self.rows) - len(rows), logits)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Writes one more token of every row; returns the rows that are done."""
        logits = self._advance()
        return self._append(0, logits)

    def _advance(self) -> Tensor:
        """Reads the last token of every row; returns the logits after it, shape (rows, vocabulary)."""
        rows = self.rows
        if self._changed:
            self._seen = torch.tensor([[row.seen] for row in rows], device=self._device)
            self._own = torch.tensor([[row.own] for row in rows], device=self._device)
            self._groups = Groups.of([row.trunk for row in rows], self._device)
            self._changed = False
        output = self._forward([row.tokens[-1:] for row in rows], _width(rows))
        self._seen, self._own = self._seen + 1, self._own + 1
        logits: Tensor = output.logits[:, -1]
        return logits

    def _forward(self, tokens: Sequence[Sequence[int]], width: int) -> Any:
        self._cache.reserve(len(tokens), width, len(tokens), width)
        shown = torch.arange(width + 1, device=self._device) >= width - self._own
        inputs = {
            "input_ids": torch.tensor(tokens, device=self._device),
            "position_ids": self._seen,
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if not self.shares:
            self._cache.show(len(tokens), width)
            return self._model(attention_mask=shown, **inputs)
        mask = torch.zeros(shown.shape, dtype=self._dtype, device=self._device).masked_fill_(~shown, -torch.inf)
        with Step(self._groups, mask) as step:
            self._cache.show(len(tokens), width, step)
            # A mask of four dimensions is taken as it is: no time is spent on making another one.
            return self._model(attention_mask=mask[:, None, None], **inputs)

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of the tokens of some texts, see `testbed.models.hf_score.score`."""
        from testbed.models.hf_score import score

        return score(self._model, texts)

    def drop(self, gone: Iterable[Row]) -> None:
        """Gives up rows that nobody waits for."""
        for row in gone:
            if row in self.rows:
                self._remove([self.rows.index(row)])

    def clear(self) -> None:
        """Gives up every row and frees the memory."""
        self.rows: list[Row] = []
        self._changed = True
        self._cache = AlignedCache(self.slots, ())
        self._reader = Reader(self._model, Prefixes())

    def _open_cache(self, read: Read) -> None:
        """Makes the cache, the first time; what one layer's keys and values look like is read off a text."""
        if self._cache.layers:
            return
        columns_last = self.shares and self._device.type == "cpu"
        self._cache = AlignedCache(self.slots, read.first(1), columns_last=columns_last)

    def _choose_trunks(self, rows: Sequence[Row], reads: Mapping[tuple[int, ...], Read]) -> None:
        """Sets the rows' trunks: what their prompts share with enough others."""
        if not self.shares:
            return
        trunks = {row: reads[row.prompt].trunk or reads[row.prompt] for row in rows}
        many = Counter(id(trunk) for trunk in trunks.values())
        many.update(id(row.trunk) for row in self.rows)
        enough = _SHARE_FROM.get(self._device.type, _SHARE_FROM_ELSEWHERE)
        for row, trunk in trunks.items():
            row.trunk = trunk if many[id(trunk)] * len(trunk.tokens) >= enough else None

    def _append(self, first: int, logits: Tensor) -> list[Row]:
        """Draws the next token of the rows from `first` on, logits (rows, vocabulary); removes those that are done."""
        rows = self.rows[first:]
        done = []
        drawn = sample(logits, rows)
        note_logprobs(logits, rows, drawn)
        for slot, (row, token) in enumerate(zip(rows, drawn, strict=True), start=first):
            row.tokens.append(token)
            if self._stops(row.tokens):
                row.finish = "stop"
            elif len(row.tokens) >= row.limit:
                row.finish = "length"
            else:
                continue
            done.append(slot)
        finished = [self.rows[slot] for slot in done]
        for slot in done:
            self._remember(slot)
        self._remove(done)
        return finished

    def _remember(self, slot: int) -> None:
        row = self.rows[slot]
        if row.keep and row.own:
            text = (*row.prompt, *row.tokens[:-1])
            self._reader.kept.add(Read(text, self._cache.copy(slot, row.own), row.trunk))

    def _remove(self, slots: Sequence[int]) -> None:
        """Takes rows out; the last ones move into their places, so that the batch stays without holes."""
        self._changed = self._changed or bool(slots)
        for slot in reversed(slots):
            last = self.rows.pop()
            if slot < len(self.rows):
                self._cache.move(len(self.rows), slot, last.own)
                self.rows[slot] = last

    @torch.inference_mode()
    def _decodes_as_it_reads(self) -> bool:
        """Whether tokens written one by one, over a shared beginning and alone, get the logits of one pass over all."""
        self.clear()
        vocabulary = self._model.get_input_embeddings().num_embeddings
        text = tuple(7919 * n % vocabulary for n in range(1, 13))
        begun = text[:8]
        try:
            whole = self._model(torch.tensor([text], device=self._device), use_cache=False).logits[0]
            read = self._reader.read([(begun, False)])[begun]
            self.rows = [Row(begun, 8, trunk=trunk) for trunk in (read, None, read)]
            self._open_cache(read)
            self._cache.reserve(3, len(begun), 0, 0)
            self._cache.fill(1, 2, read.layers)
            found = []
            for token in text[8:]:
                for row in self.rows:
                    row.tokens.append(token)
                found.append(self._advance())
        except torch.OutOfMemoryError:
            raise
        except (hf_attention.NotCoveredError, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
            return False  # whatever an unfamiliar architecture raises here, it keeps its own attention
        eps = torch.finfo(self._dtype).eps
        allowed = max(16 * eps, 1e-4) * max(1.0, float(whole.abs().max()))
        return float((torch.stack(found, 1) - whole[8:]).abs().max()) <= allowed


def _width(rows: Sequence[Row]) -> int:
    return max([row.own for row in rows], default=0)


def _last(read: Read, size: int) -> Layers:
    """Keys and values of the last tokens of a text."""
    layers = read.layers if size <= read.own else read.first(len(read.tokens))
    return [(keys[:, -size:], values[:, -size:]) for keys, values in layers]


def _check_cache(model: Any) -> None:
    layers = DynamicCache(config=model.config).layers
    # A sliding window is made by the mask: its keys are all kept here.
    other = {type(layer).__name__ for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)}
    if other or not layers:
        raise ModelError(
            f"{type(model).__name__} keeps a state that cannot be batched here ({', '.join(sorted(other)) or 'none'}); "
            "serve it with vLLM and use chat:openai:NAME instead."
        )
