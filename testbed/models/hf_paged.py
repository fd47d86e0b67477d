"""The batch on the processor: every text in pages, every token attended to by one compiled function.

Reading prompts and writing tokens are one operation here: a row of tokens of many texts, each with its place. Rows join
and leave by changing a table; their keys and values never move, and nothing is padded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, DynamicLayer

from testbed.models.hf_kept import KeptPages, Text
from testbed.models.hf_lineup import Lineup
from testbed.models.hf_memory import Room
from testbed.models.hf_paged_attention import PagedAttention
from testbed.models.hf_pages import PAGE, Pages, pages_for
from testbed.models.hf_plan import STEP, Inputs, Plan, Table
from testbed.models.hf_prefix import Layout
from testbed.models.hf_row import Row

Tensor = torch.Tensor

_READ = 2048  # most tokens of one reading
_WORTH = 16  # tokens in common, at least, from which a text is read on


class PagedBatch:
    """Rows under way, and what was read for them.

    Args:
        model: a transformers causal language model in evaluation mode, with `hf_attention` plugged in.
        layout: of its keys and values.
        memory: bytes that these may take.

    Attributes:
        room: memory for keys and values.
        kept: texts that were read and may be asked again.
    """

    def __init__(self, model: Any, layout: Layout, memory: int) -> None:
        self._model = model
        self._chooses = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.room = Room(memory, Pages.token_bytes(layout))
        self._most = pages_for(self.room.cells)  # so that a text fits of which `room` says so
        self._pages = Pages(layout, self._most + self.room.texts // (PAGE * self.room.token))
        self.kept = KeptPages(self._pages, self.room.texts)
        self._lineup, self._table, self._inputs = Lineup(), Table(), Inputs()
        self._promised = 0  # pages that the rows under way may come to take if nothing is shared
        self._attention = PagedAttention(self._pages, self._table, self._inputs)
        self._cache = Cache(layers=[_Layer(self._attention, n) for n in range(len(self._pages.shapes))])
        self._mask = torch.zeros(1, 1, 1, 1)  # of four dimensions, it is taken as it is; nobody looks at it

    @property
    def rows(self) -> list[Row]:
        """Under way, in the order in which `advance` gives their logits."""
        return self._lineup.rows

    def fitting(self, waiting: Sequence[Row]) -> int:
        """How many of the rows that wait, in order, can join, all of them written to their limits."""
        wanted = sum(pages_for(row.length) for row in waiting)
        if self._promised + wanted <= self._most:  # even if nothing were shared
            return len(waiting)
        held = {page for row in self.rows for page in row.pages}
        taken = len(held) + sum(pages_for(row.length) - len(row.pages) for row in self.rows)
        for n, row in enumerate(waiting):
            taken += pages_for(row.length)
            if taken > self._most:
                return n
        return len(waiting)

    def enter(self, rows: Sequence[Row]) -> tuple[list[Row], Tensor]:
        """Reads the prompts of new rows, which are under way then, and beside them what the others wrote last.

        Args:
            rows: those of equal prompts side by side, so that they share what is read.

        Returns:
            The rows that have logits now, and these, shape (rows, vocabulary).
        """
        entries = list[_Entry]()
        for _, alike in groupby(rows, attrgetter("prompt")):
            group = list(alike)
            going = len(group) == 1 and group[0].position > 0
            text = self._begun(group, going=going)
            entries.append(_Entry(text, group, text.logits is None, going))
        others, logits = self._read([entry.text for entry in entries if entry.new])
        found = [entry.text.logits for entry in entries for _ in entry.rows]
        after = torch.stack([each for each in found if each is not None])
        for text, group, new, going in entries:
            if new and going:  # nobody else begins like this
                group[0].pages, group[0].line = text.pages, text.line
            else:
                for row in group:
                    row.pages = self._pages.fork(text.pages, len(row.prompt))
                    row.line = self._table.enter(row.pages)
                    self.kept.gone_on(row)
                if new:
                    self._table.leave(text.line)
                if new and text.logits is not None:
                    text.logits = text.logits.clone()  # else all of this reading's would stay
                    self.kept.add(text)
                self._pages.release(text.pages)
        self._lineup.enter(rows)
        self._promised += sum(pages_for(row.length) for row in rows)
        return [*others, *rows], torch.cat([logits, after]) if others else after

    def advance(self) -> Tensor:
        """Reads the last token of every row; logits after it, shape (rows, vocabulary)."""
        plan = self._planned()
        return self._forward(plan, self._last())

    def _last(self) -> list[int]:
        """Tokens that were written last, in order."""
        return [row.tokens[-1] for row in self.rows]

    def _planned(self) -> Plan:
        """What is to be done for one token more of each row, all of which have pages for it."""
        for row in self._lineup.begin_pass():
            page = self._pages.take()
            self._table.add(row.line, len(row.pages), page)
            row.pages.append(page)
        return self._lineup.next_plan()

    def remember(self, row: Row) -> None:
        """Keeps what was read of a row: its attempt may go on."""
        self.kept.remember(row)

    def leave(self, rows: Iterable[Row]) -> None:
        """Takes rows out."""
        gone = set(rows)
        for row in gone:
            self._pages.release(row.pages)
            self._table.leave(row.line)
            self._promised -= pages_for(row.length)
            row.pages = []
        if gone:
            self._lineup.leave(gone)

    def _begun(self, group: Sequence[Row], *, going: bool) -> Text:
        """What was read of some rows' prompt, or a new text with pages for it; whoever asks holds the pages.

        Args:
            group: the rows.
            going: whether it is one attempt's next message.
        """
        prompt = group[0].prompt
        past, size = self.kept.own(group[0])
        if past is None or size < len(past.tokens):
            found = self.kept.get(prompt)
            if found is not None:
                self._pages.hold(found.pages)
                return found
            other, more = self.kept.longest(prompt)
            if more > size:
                past, size = other, more
        size = min(size, len(prompt) - 1)  # the last token is read again: it brings the logits
        if past is None or size < _WORTH:
            return Text(prompt, [self._pages.take() for _ in range(pages_for(len(prompt)))])
        if going and past.author is not None:
            whole = self.kept.hand_over(past)
        else:
            whole = past.pages
            self._pages.hold(whole)
        pages = self._pages.cut(whole, size)
        pages += [self._pages.take() for _ in range(pages_for(len(prompt)) - len(pages))]
        return Text(prompt, pages, start=size)

    def _read(self, texts: Sequence[Text]) -> tuple[list[Row], Tensor]:
        """Reads what is new of some texts, long ones in parts; the rows that went on beside the last, and logits."""
        for text in texts:
            text.line = self._table.enter(text.pages)
        readings = list(_readings(texts))
        beside, after = list[Row](), torch.empty(0)
        for parts in readings:
            plan = Plan.of_parts([(part.text.line, part.first, part.last) for part in parts])
            tokens = [token for part in parts for token in part.text.tokens[part.first : part.last]]
            if parts is readings[-1] and self.rows:
                plan = self._planned().and_then(plan)
                beside, tokens = list(self.rows), self._last() + tokens
            ends = accumulate([part.last - part.first for part in parts], initial=len(beside) - 1)
            logits = self._forward(plan, tokens, [*range(len(beside)), *list(ends)[1:]])
            after, read = logits[: len(beside)], logits[len(beside) :]
            for part, found in zip(parts, read, strict=False):
                if part.last == len(part.text.tokens):
                    part.text.logits = found
        return beside, after

    def _forward(self, plan: Plan, tokens: Sequence[int], wanted: Sequence[int] = ()) -> Tensor:
        """Logits after the tokens wanted, of which more may follow whose rows are padding; or after all."""
        ids, positions = self._inputs.of(tokens, plan.places)
        chosen, last = {}, None
        if wanted:  # a number of them of which products have whole steps
            last = torch.tensor([*wanted, *[0] * (-len(wanted) % STEP)])
            chosen = {"logits_to_keep": last} if self._chooses else {}
        with self._attention.over(plan):
            output = self._model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=self._mask,
                past_key_values=self._cache,
                use_cache=True,
                **chosen,
            )
        logits: Tensor = output.logits
        if last is None:
            return logits[0, : len(tokens)]
        return logits[0] if chosen else logits[0, last]


class _Entry(NamedTuple):
    """Rows that begin with one text; whether that is to be read, and whether it is one attempt's next message."""

    text: Text
    rows: list[Row]
    new: bool
    going: bool


class _Part(NamedTuple):
    """Tokens of a text, `first` to `last` − 1, that are read at once."""

    text: Text
    first: int
    last: int


def _readings(texts: Sequence[Text]) -> Iterator[list[_Part]]:
    """Parts that are read together, in order."""
    parts: list[_Part] = []
    left = _READ
    for text in texts:
        first = text.start
        while first < len(text.tokens):
            last = min(len(text.tokens), first + left)
            parts.append(_Part(text, first, last))
            left -= last - first
            first = last
            if not left:
                yield parts
                parts, left = [], _READ
    if parts:
        yield parts


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Says whose keys and values the attention is given, which puts them into pages itself."""

    def __init__(self, attention: PagedAttention, index: int) -> None:
        super().__init__()
        self._attention, self._index = attention, index
        self.is_initialized, self.dtype, self.device = True, torch.float32, torch.device("cpu")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Gives back what it is given, shape (1, heads, tokens, width)."""
        self._attention.layer = self._index
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens before the new ones, as far as the model is to know."""
        return 0
