"""Token by token: rows of different attempts decoded together, joining and leaving the batch between tokens.

A prompt is read once. The attempts that start with it attend to its keys and values where they are, or get a copy where
that is cheaper; a later message of an attempt reads only what is new. The model is any transformers model whose layers
keep keys and values; what masks and positions mean is left to the model's own code, except where `hf_attention` covers
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from testbed.errors import ModelError
from testbed.models import hf_attention
from testbed.models.hf_attention import Groups, Step
from testbed.models.hf_cache import AlignedCache
from testbed.models.hf_memory import Room, free_bytes
from testbed.models.hf_places import Span, arrange
from testbed.models.hf_prefill import Reader
from testbed.models.hf_prefix import Layout, Prefixes, Read, Tokens
from testbed.models.hf_row import Row
from testbed.models.hf_sample import note_logprobs, sample

if TYPE_CHECKING:
    from testbed.models.hf_score import Forced

__all__ = ["Decoder", "Row", "sample"]

Tensor = torch.Tensor

# A beginning is shared where rows times tokens come to this: what attending to it apart costs as copies, measured.
_SHARE_FROM = {"cpu": 256}
_SHARE_FROM_ELSEWHERE = 1 << 17
_SPAN_WORTH = {"cpu": 512}  # cells of padding that cost as much as attending to some rows apart, measured


class Decoder:
    """The batch.

    Args:
        model: a transformers causal language model in evaluation mode.
        stops: whether the last of these tokens ends the message.
        slots: most rows at once.
        memory: bytes that keys and values may take; a share of what is free where None.
        ends: tokens that end a message and are no part of it: scores say how likely one is.

    Attributes:
        room: memory for keys and values.
        shares: whether rows can attend to shared beginnings; decided by comparing logits.

    Raises:
        ModelError: the model keeps something else than keys and values.
    """

    def __init__(
        self,
        model: Any,
        stops: Callable[[Sequence[int]], bool],
        slots: int,
        memory: int | None = None,
        ends: Collection[int] = (),
    ) -> None:
        self._model, self._stops, self.slots = model, stops, slots
        self._cache: AlignedCache
        self._reader: Reader
        self._changed: bool
        self._removed: bool
        self._device, self._dtype = model.device, model.dtype
        self._ends = sorted(ends)
        self._layout = _layout(model)
        self.room = Room(free_bytes(self._device) if memory is None else memory, self._layout.token_bytes)
        self.shares = hf_attention.plug_in(model)
        if self.shares and not self._decodes_as_it_reads():
            hf_attention.unplug(model)
            self.shares = False
        self.clear()

    @property
    def free(self) -> int:
        """How many more rows the slots hold."""
        return self.slots - len(self.rows)

    def fitting(self, waiting: Sequence[Row]) -> int:
        """How many of the rows that wait, in order, can be admitted now."""
        return self.room.fitting(waiting[: self.free], self.rows)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Reads the prompts of new rows and writes their first tokens; returns the rows that were done with that."""
        rows = sorted(rows, key=lambda row: row.prompt)  # equal prompts side by side: one copy fills them all
        many = Counter(row.prompt for row in rows)
        reads = self._reader.read({row.prompt: row.position > 0 and many[row.prompt] == 1 for row in rows}.items())
        self._choose_trunks(rows, reads)
        self._take_in(rows)
        for row in rows:
            if row.own:
                self._cache.fill(self._places[row], reads[row.prompt].part(row.apart, len(row.prompt)))
        known = [reads[row.prompt].logits for row in rows]
        logits = torch.stack([after for after in known if after is not None])  # what was just read has them all
        return self._append(rows, logits)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Writes one more token of every row; returns the rows that are done."""
        logits = self._advance()
        return self._append(self.rows, logits)

    def _advance(self) -> Tensor:
        """Reads the last token of every row; returns the logits after it, shape (rows, vocabulary)."""
        if self._removed:
            self._arrange()
        rows = self.rows
        if self._changed:
            seen = [len(row.prompt) + len(row.tokens) - 1 for row in rows]
            own = [size - row.apart for size, row in zip(seen, rows, strict=True)]
            self._seen = torch.tensor(seen, device=self._device)[:, None]
            self._own = torch.tensor(own, device=self._device)[:, None]
            self._groups = Groups.of([row.trunk for row in rows], self._device)
            self._width, self._changed = max(own), False
        output = self._forward([row.tokens[-1:] for row in rows], self._width)
        self._seen, self._own, self._width = self._seen + 1, self._own + 1, self._width + 1
        logits: Tensor = output.logits[:, -1]
        return logits

    def _forward(self, tokens: Sequence[Sequence[int]], width: int) -> Any:
        if self._cache.lacks(len(tokens), width):
            self._cache.reserve(len(tokens), width, [row.own for row in self.rows])
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
        with Step(self._groups, mask, self._spans) as step:
            self._cache.show(len(tokens), width, step=step)
            # A mask of four dimensions is taken as it is: no time is spent on making another one.
            return self._model(attention_mask=mask[:, None, None], **inputs)

    def score(self, texts: Sequence[Sequence[int]]) -> list[Forced]:
        """What the model gives the tokens of some texts and their ends, see `testbed.models.hf_score.forced`."""
        from testbed.models.hf_score import forced

        return forced(self._model, texts, self._ends)

    @torch.inference_mode()
    def drop(self, gone: Iterable[Row]) -> None:
        """Gives up rows that nobody waits for."""
        self._remove(row for row in gone if row in self._places)

    def clear(self) -> None:
        """Gives up every row and frees the memory."""
        self.rows: list[Row] = []
        self._places: dict[Row, int] = {}  # rows in the cache
        self._spans: list[Span] = []
        self._changed, self._removed = True, False
        self._cache = AlignedCache(self._layout, self.slots, self.room.cells)
        self._reader = Reader(self._model, self._layout, Prefixes(self.room.texts))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _choose_trunks(self, rows: Sequence[Row], reads: Mapping[Tokens, Read]) -> None:
        """Sets the rows' trunks: what their prompts share with enough others."""
        if not self.shares:
            return
        trunks = {row: reads[row.prompt].trunk or reads[row.prompt] for row in rows}
        many = Counter(id(trunk) for trunk in trunks.values())
        many.update(id(row.trunk) for row in self.rows)
        enough = _SHARE_FROM.get(self._device.type, _SHARE_FROM_ELSEWHERE)
        for row, trunk in trunks.items():
            row.stand_on(trunk if many[id(trunk)] * len(trunk.tokens) >= enough else None)

    def _take_in(self, rows: Sequence[Row]) -> None:
        """Gives new rows their places."""
        width, many = max(row.own for row in rows), len(self.rows) + len(rows)
        if self._cache.lacks(many, width, max(row.most for row in (*self.rows, *rows))):
            self._arrange()
            self._cache.reserve(many, width, [row.own for row in self.rows])
        self._arrange(rows)

    def _arrange(self, new: Sequence[Row] = ()) -> None:
        """Orders the rows by their width, and moves in the cache what must be moved for that."""
        worth = _SPAN_WORTH.get(self._device.type, inf) if self.shares else inf
        self.rows, self._spans = arrange((*self.rows, *new), self._places, worth)
        moved = [(at, row) for at, row in enumerate(self.rows) if self._places.get(row, at) != at]
        texts = [self._cache.copy(self._places[row], row.own) for _, row in moved]
        for (at, _), text in zip(moved, texts, strict=True):
            self._cache.fill(at, text)
        self._places = {row: at for at, row in enumerate(self.rows)}
        self._changed, self._removed = True, False

    def _append(self, rows: Sequence[Row], logits: Tensor) -> list[Row]:
        """Draws the next token of some rows, logits (rows, vocabulary); removes and returns those that are done."""
        done = []
        drawn = sample(logits, rows)
        note_logprobs(logits, rows, drawn)
        for row, token in zip(rows, drawn, strict=True):
            row.tokens.append(token)
            if (row.stops or self._stops)(row.tokens):
                row.finish = "stop"
            elif len(row.tokens) >= row.limit:
                row.finish = "length"
            else:
                continue
            done.append(row)
            self._remember(row)
        self._remove(done)
        return done

    def _remember(self, row: Row) -> None:
        if row.keep and len(row.tokens) > 1:
            text = (*row.prompt, *row.tokens[:-1])
            self._reader.kept.add(Read(self._layout, text, self._cache.copy(self._places[row], row.own), row.trunk))

    def _remove(self, rows: Iterable[Row]) -> None:
        """Takes rows out; their places stay empty until the others are arranged anew."""
        for row in rows:
            del self._places[row]
            self._removed = True
        if self._removed:
            self.rows = [row for row in self.rows if row in self._places]

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
            rows = [Row(begun, 8) for _ in range(3)]
            rows[0].stand_on(read)
            rows[2].stand_on(read)
            self._take_in(rows)
            self._cache.fill(self._places[rows[1]], read.blocks)
            found = []
            for token in text[8:]:
                for row in rows:
                    row.tokens.append(token)
                found.append(self._advance())
        except torch.OutOfMemoryError:
            raise
        except (hf_attention.NotCoveredError, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
            return False  # whatever an unfamiliar architecture raises here, it keeps its own attention
        eps = torch.finfo(self._dtype).eps
        allowed = max(16 * eps, 1e-4) * max(1.0, float(whole.abs().max()))
        return float((torch.stack(found, 1) - whole[8:]).abs().max()) <= allowed


def _layout(model: Any) -> Layout:
    """How a model's keys and values look, seen on one token.

    Raises:
        ModelError: it keeps something else.
    """
    layers = DynamicCache(config=model.config).layers
    # A sliding window is made by the mask: its keys are all kept here.
    other = {type(layer).__name__ for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)}
    if other or not layers:
        raise ModelError(
            f"{type(model).__name__} keeps a state that cannot be batched here ({', '.join(sorted(other)) or 'none'}); "
            "serve it with vLLM and use chat:openai:NAME instead."
        )
    cache = DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True)
    return Layout.of([(layer.keys, layer.values) for layer in cache.layers])
