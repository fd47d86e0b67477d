"""The batch in PyTorch's own operations: for GPUs, half precision, and models whose attention is not covered.

Rows lie side by side in one cache, aligned at their last token. The attempts that start with one prompt attend to its
keys and values where they are, or get a copy where that is cheaper; what masks and positions mean is left to the
model's own code, except where `hf_attention` covers it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from testbed.models.hf_attention import Groups, Step
from testbed.models.hf_cache import AlignedCache
from testbed.models.hf_memory import Room
from testbed.models.hf_prefill import Reader, Wanted
from testbed.models.hf_prefix import KeptReads, Layout, Read
from testbed.models.hf_row import Row
from testbed.models.hf_still import Recorder, StillSteps

Tensor = torch.Tensor

# A beginning is shared where rows times tokens come to this: what attending to it apart costs as copies, measured.
_SHARE_FROM = {"cpu": 256}
_SHARE_FROM_ELSEWHERE = 1 << 17


class AlignedBatch:
    """Rows under way, and what was read for them.

    Args:
        model: a transformers causal language model in evaluation mode.
        layout: of its keys and values.
        memory: bytes that these may take.
        slots: most rows at once.
        share_from: rows times tokens from which a beginning is shared; None for what was measured.
        shares: whether rows can attend to shared beginnings.
        recorder: how steps are recorded on the device, for models whose rows can share; None where they are not.

    Attributes:
        room: memory for keys and values.
        rows: under way, in the order in which `advance` gives their logits.
        still: steps that are recorded; None where none can be.
    """

    def __init__(
        self,
        model: Any,
        layout: Layout,
        memory: int,
        slots: int,
        share_from: float | None = None,
        *,
        shares: bool,
        recorder: Recorder | None = None,
    ) -> None:
        self._model, self._layout, self._shares = model, layout, shares
        self._device, self._dtype = model.device, model.dtype
        measured = _SHARE_FROM.get(model.device.type, _SHARE_FROM_ELSEWHERE)
        self._share_from = measured if share_from is None else share_from
        self.room = Room(memory, layout.token_bytes)
        self.rows: list[Row] = []
        self._places: dict[Row, int] = {}  # rows in the cache
        self._changed = True
        self._seen: Tensor | None = None
        self._told = 0  # the width for which there are tensors that say what the rows have seen
        self._cache = AlignedCache(layout, slots, self.room.cells)
        self._reader = Reader(model, layout, self.room.texts)
        self.still = StillSteps(model, self._cache, recorder) if recorder and shares else None

    @property
    def kept(self) -> KeptReads:
        """Texts that were read and may be asked again."""
        return self._reader.kept

    def fitting(self, waiting: Sequence[Row]) -> int:
        """How many of the rows that wait, in order, can join, all of them written to their limits."""
        return self.room.fitting(waiting, self.rows)

    def enter(self, rows: Sequence[Row]) -> tuple[list[Row], Tensor]:
        """Reads the prompts of new rows, which are under way then; these, and logits, shape (rows, vocabulary)."""
        many = Counter(row.prompt for row in rows)
        going = {
            row: self._reader.wanted(row.prompt)
            for row in rows
            if row.position > 0 and many[row.prompt] == 1 and self.kept.get(row.prompt) is None
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
        return list(rows), torch.stack([logits for row in rows if (logits := after[row]) is not None])

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

    def advance(self) -> Tensor:
        """Reads the last token of every row; logits after it, shape (rows, vocabulary)."""
        if self._changed:
            self._move()
            self._groups = Groups.of([row.trunk for row in self.rows], self._device)
            self._changed, self._seen = False, None
            self._width = max(row.own for row in self.rows)
        if self._cache.lacks(len(self.rows), self._width):
            self._cache.reserve(len(self.rows), self._width, [row.own for row in self.rows])
        if self.still is None or self._groups.trunks:  # where beginnings lie, and how many, changes with every row
            logits = self._step()
        else:
            logits = self.still.step(self.rows, self._width, self._step)
        self._width += 1
        return logits

    def _step(self) -> Tensor:
        if self._seen is None or self._told != self._width:  # recorded steps do not go by these
            self._seen = torch.tensor([[row.seen] for row in self.rows], device=self._device)
            self._own = torch.tensor([[row.own] for row in self.rows], device=self._device)
        logits: Tensor = self._forward([row.tokens[-1:] for row in self.rows], self._width).logits[:, -1]
        self._seen, self._own, self._told = self._seen + 1, self._own + 1, self._width + 1
        return logits

    def _forward(self, tokens: Sequence[Sequence[int]], width: int) -> Any:
        shown = torch.arange(width + 1, device=self._device) >= width - self._own
        inputs = {
            "input_ids": torch.tensor(tokens, device=self._device),
            "position_ids": self._seen,
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if not self._shares:
            self._cache.show(len(tokens), width)
            return self._model(attention_mask=shown, **inputs)
        mask = torch.zeros(shown.shape, dtype=self._dtype, device=self._device).masked_fill_(~shown, -torch.inf)
        with Step(self._groups, mask) as step:
            self._cache.show(len(tokens), width, step=step)
            # A mask of four dimensions is taken as it is: no time is spent on making another one.
            return self._model(attention_mask=mask[:, None, None], **inputs)

    def remember(self, row: Row) -> None:
        """Keeps what was read of a row: its attempt may go on."""
        text = (*row.prompt, *row.tokens[:-1])
        self.kept.add(Read(self._layout, text, self._cache.copy(self._places[row], row.own), row.trunk))

    def leave(self, rows: Iterable[Row]) -> None:
        """Takes rows out; their places stay empty until others need or take them."""
        gone = set(rows)
        for row in gone:
            del self._places[row]
        if gone:
            self.rows = [row for row in self.rows if row not in gone]
            self._changed = True

    def _choose_trunks(self, trunks: Mapping[Row, Read | None]) -> None:
        """Gives rows these trunks where enough others have the same."""
        if not self._shares:
            return
        many = Counter(map(id, trunks.values()))
        many.update(id(row.trunk) for row in self.rows)
        for row, trunk in trunks.items():
            row.stand_on(trunk if trunk and many[id(trunk)] * len(trunk.tokens) >= self._share_from else None)

    def _take_in(self, rows: Sequence[Row]) -> None:
        """Gives new rows their places."""
        width, many = max(row.own for row in rows), len(self.rows) + len(rows)
        if self._cache.lacks(many, width, max(row.most for row in (*self.rows, *rows))):
            self._move()
            self._cache.reserve(many, width, [row.own for row in self.rows])
        self.rows += rows
        self._move()
        self._changed = True

    def _move(self) -> None:
        """Gives every row a place, without gaps: the last ones and new ones take the places of those that left."""
        places = {row: at for row, at in self._places.items() if at < len(self.rows)}
        gaps = sorted(set(range(len(self.rows))) - set(places.values()))
        for row, gap in zip([row for row in self.rows if row not in places], gaps, strict=True):
            if row in self._places:
                self._cache.fill(gap, self._cache.copy(self._places[row], row.own))
            places[row] = gap
        self._places = places
        self.rows.sort(key=places.__getitem__)
