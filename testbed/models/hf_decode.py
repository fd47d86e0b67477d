"""Token by token: rows of different attempts decoded together, joining and leaving the batch between tokens.

A prompt is read once. The attempts that start with it attend to its keys and values where they are, or get a copy where
that is cheaper; a later message of an attempt reads only what is new. The model is any transformers model whose layers
keep keys and values; what masks and positions mean is left to the model's own code, except where `hf_attention` covers
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import torch

from testbed.models import hf_attention, hf_linear
from testbed.models.hf_attention import Groups, Step
from testbed.models.hf_cache import AlignedCache, layout_of
from testbed.models.hf_memory import Room, free_bytes
from testbed.models.hf_packed import Wanted
from testbed.models.hf_places import Span, arrange
from testbed.models.hf_prefill import Reader
from testbed.models.hf_prefix import Read
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
        self._multiple = hf_linear.STEP if hf_linear.speed_up(model) else 1
        self._layout = layout_of(model)
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
        going = {
            row: self._reader.wanted(row.prompt)
            for row in rows
            if row.position > 0 and many[row.prompt] == 1 and self._reader.kept.get(row.prompt) is None
        }
        reads = self._reader.read({row.prompt: None for row in rows if row not in going})
        self._choose_trunks(
            {row: going[row].trunk if row in going else reads[row.prompt].trunk or reads[row.prompt] for row in rows}
        )
        self._take_in(rows)
        for row in rows:
            if row not in going and row.own:
                self._cache.fill(self._places[row], reads[row.prompt].part(row.apart, len(row.prompt)))
        after = {row: reads[row.prompt].logits for row in rows if row not in going}
        after |= dict(self._go_on(going))
        return self._append(rows, torch.stack([logits for row in rows if (logits := after[row]) is not None]))

    def _go_on(self, going: Mapping[Row, Wanted]) -> Iterator[tuple[Row, Tensor]]:
        """Reads what is new to rows that are nobody else's, straight into their places; their logits."""
        rows = {wanted.prompt: row for row, wanted in going.items()}
        for wanted, blocks, logits in self._reader.read_on(list(going.values())):
            row = rows[wanted.prompt]
            place = self._places[row]
            if wanted.past is not None and wanted.size > row.apart:
                self._cache.fill(place, wanted.past.part(row.apart, wanted.size), wanted.new)
            self._cache.fill(place, blocks)
            yield row, logits

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
            self._seen = torch.tensor([[size] for size in seen + self._padding(len(rows))], device=self._device)
            self._own = torch.tensor(own, device=self._device)[:, None]
            self._groups = Groups.of([row.trunk for row in rows], self._device)
            self._width, self._changed = max(own), False
        output = self._forward([row.tokens[-1:] for row in rows], self._width)
        self._seen, self._own, self._width = self._seen + 1, self._own + 1, self._width + 1
        logits: Tensor = output.logits[: len(rows), -1]
        return logits

    def _padding(self, rows: int) -> list[int]:
        """A zero for each row that a step has besides: products of few sizes are prepared once."""
        return [0] * (-rows % self._multiple) if self.shares and rows > self._multiple else []

    def _forward(self, tokens: Sequence[Sequence[int]], width: int) -> Any:
        if self._cache.lacks(len(tokens), width):
            self._cache.reserve(len(tokens), width, [row.own for row in self.rows])
        shown = torch.arange(width + 1, device=self._device) >= width - self._own
        padding = [[token] for token in self._padding(len(tokens))]
        inputs = {
            "input_ids": torch.tensor([*tokens, *padding], device=self._device),
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
        packs = self.shares and self._device.type == "cpu"
        self._reader = Reader(self._model, self._layout, self.room.texts, packs=packs)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _choose_trunks(self, trunks: Mapping[Row, Read | None]) -> None:
        """Gives rows these trunks where enough others have the same."""
        if not self.shares:
            return
        many = Counter(map(id, trunks.values()))
        many.update(id(row.trunk) for row in self.rows)
        enough = _SHARE_FROM.get(self._device.type, _SHARE_FROM_ELSEWHERE)
        for row, trunk in trunks.items():
            row.stand_on(trunk if trunk and many[id(trunk)] * len(trunk.tokens) >= enough else None)

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
        text = tuple(7919 * n % vocabulary for n in range(1, 49))
        begun, written = text[:20], text[20:24]
        try:
            whole = self._model(torch.tensor([text], device=self._device), use_cache=False).logits[0]
            read = self._reader.read([begun])[begun]
            rows = [Row(begun, 8) for _ in range(3)]
            rows[0].stand_on(read)
            rows[2].stand_on(read)
            self._take_in(rows)
            self._cache.fill(self._places[rows[1]], read.blocks)
            found = [read.logits]
            for token in written:
                for row in rows:
                    row.tokens.append(token)
                found += self._advance()
            texts = [(self._cache.copy(self._places[row], row.own + 1), row.trunk) for row in rows[:2]]
            pasts = [Read(self._layout, text[:24], *own_and_trunk) for own_and_trunk in texts]
            more = [Wanted(text, past, 22) for past in pasts] + [Wanted(text, read, 17), Wanted(text)]
            found += [logits for _, _, logits in self._reader.read_on(more)]
        except torch.OutOfMemoryError:
            raise
        except (hf_attention.NotCoveredError, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
            return False  # whatever an unfamiliar architecture raises here, it keeps its own attention
        right = whole[[19, *(n for n in range(20, 24) for _ in rows), *[-1] * len(more)]]
        error = (torch.stack([logits for logits in found if logits is not None]) - right).abs().max()
        eps = torch.finfo(self._dtype).eps
        allowed = max(16 * eps, 1e-4) * max(1.0, float(whole.abs().max()))
        return float(error) <= allowed
