"""Token by token: rows of different attempts decoded together, joining and leaving the batch between tokens.

A prompt is read once, and a later message of an attempt reads only what is new. How the batch lies in memory depends on
the device and the model: see `hf_paged` and `hf_aligned`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial, wraps
from itertools import count
from math import inf, sqrt
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch

from testbed.models import hf_attention, hf_linear
from testbed.models.hf_aligned import AlignedBatch
from testbed.models.hf_cache import layout_of
from testbed.models.hf_check import MOST_ROWS, agrees
from testbed.models.hf_graph import recorder_for
from testbed.models.hf_memory import Room, free_bytes
from testbed.models.hf_row import Row
from testbed.models.hf_sample import note_logprobs, sample

if TYPE_CHECKING:
    from testbed.models.hf_paged import PagedBatch
    from testbed.models.hf_score import Forced
    from testbed.models.hf_still import Recorder

__all__ = ["Decoder", "Row", "recorder_for", "sample"]

Tensor = torch.Tensor
P = ParamSpec("P")
T = TypeVar("T")

_TRIAL_TOKENS = 4096  # that a batch has memory for while it is tried: it uses little of that


def _without_gradients(method: Callable[P, T]) -> Callable[P, T]:
    """As `torch.inference_mode`, which costs more than most of a step's bookkeeping; nothing where it holds already."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.is_inference_mode_enabled():
            return method(*args, **kwargs)
        with torch.inference_mode():
            return method(*args, **kwargs)

    return run


class Decoder:
    """The batch.

    Args:
        model: a transformers causal language model in evaluation mode.
        stops: whether the last of these tokens ends the message.
        slots: most rows at once.
        memory: bytes that keys and values may take; a share of what is free where None.
        ends: tokens that end a message and are no part of it: scores say how likely one is.

    Attributes:
        shares: whether rows can attend to shared beginnings; decided by comparing logits.

    Raises:
        ModelError: the model keeps something else than keys and values, or its texts would depend on batch-mates.
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
        self._ends = sorted(ends)
        hf_linear.speed_up(model)
        self._layout = layout_of(model)
        self._memory = free_bytes(model.device) if memory is None else memory
        self._batch: PagedBatch | AlignedBatch
        self.shares = hf_attention.plug_in(model)
        self._pages = self.shares and self._may_use_pages()
        if self.shares and not self._pages and not self._shares_rightly():
            hf_attention.unplug(model)
            self.shares = False
        self._recorder = self._tried_recorder()
        self._batch = self._new_batch()

    def _may_use_pages(self) -> bool:
        """Whether keys and values can lie in pages, and the model gives the same logits then."""
        if self._model.device.type != "cpu":
            return False
        from testbed.models.hf_paged import PagedBatch
        from testbed.models.hf_pages import Pages, pageable

        trial = partial(PagedBatch, self._model, self._layout, _TRIAL_TOKENS * Pages.token_bytes(self._layout))
        return pageable(self._layout) and agrees(self._model, [trial])

    def _shares_rightly(self) -> bool:
        memory = _TRIAL_TOKENS * self._layout.token_bytes
        trials = [
            partial(AlignedBatch, self._model, self._layout, memory, self.slots, enough, shares=True)
            for enough in (0.0, inf)
        ]
        return agrees(self._model, trials)

    def _tried_recorder(self) -> Recorder | None:
        """How steps are recorded; None where they cannot be, or recorded ones give other logits."""
        recorder = recorder_for(self._model.device)
        if recorder is None or self._pages or not self.shares:
            return None
        memory = _TRIAL_TOKENS * self._layout.token_bytes
        # As if each time took less than the one before: a recording that was just made has other numbers yet to read.
        at_once = recorder._replace(tried=1, clock=map(sqrt, count()).__next__)
        slots = max(self.slots, MOST_ROWS)  # or the cache would move under every recording
        batch = AlignedBatch(self._model, self._layout, memory, slots, inf, shares=True, recorder=at_once)
        right = agrees(self._model, [lambda: batch])
        return recorder if right and batch.still and batch.still.made and not batch.still.refused else None

    def _new_batch(self) -> PagedBatch | AlignedBatch:
        if not self._pages:
            return AlignedBatch(
                self._model, self._layout, self._memory, self.slots, shares=self.shares, recorder=self._recorder
            )
        from testbed.models.hf_paged import PagedBatch

        return PagedBatch(self._model, self._layout, self._memory)

    @property
    def rows(self) -> list[Row]:
        """Messages that are being written."""
        return self._batch.rows

    @property
    def room(self) -> Room:
        """Memory for keys and values."""
        return self._batch.room

    @property
    def free(self) -> int:
        """How many more rows the slots hold."""
        return self.slots - len(self.rows)

    def fitting(self, waiting: Sequence[Row]) -> int:
        """How many of the rows that wait, in order, can be admitted now."""
        return self._batch.fitting(waiting[: self.free])

    @_without_gradients
    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Reads the prompts of new rows and writes their first tokens, and maybe one more of the others.

        Returns:
            The rows that are done.
        """
        rows = sorted(rows, key=lambda row: row.prompt)  # equal prompts side by side
        return self._append(*self._batch.enter(rows))

    @_without_gradients
    def step(self) -> list[Row]:
        """Writes one more token of every row; returns the rows that are done."""
        logits = self._batch.advance()
        return self._append(self.rows, logits)

    def score(self, texts: Sequence[Sequence[int]]) -> list[Forced]:
        """What the model gives the tokens of some texts and their ends, see `testbed.models.hf_score.forced`."""
        from testbed.models.hf_score import forced

        return forced(self._model, texts, self._ends)

    @_without_gradients
    def drop(self, gone: Iterable[Row]) -> None:
        """Gives up rows that nobody waits for."""
        self._batch.leave(set(gone) & set(self.rows))

    def clear(self) -> None:
        """Gives up every row and frees the memory; due after any error of `admit` or `step`."""
        if isinstance(self._batch, AlignedBatch) and self._batch.still and self._batch.still.refused:
            self._recorder = None  # as it was told
        del self._batch  # there may be no memory for two
        self._batch = self._new_batch()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _append(self, rows: Sequence[Row], logits: Tensor) -> list[Row]:
        """Draws the next token of some rows, logits (rows, vocabulary); removes and returns those that are done."""
        done, usual = [], self._stops
        drawn = sample(logits, rows)
        note_logprobs(logits, rows, drawn)
        for row, token in zip(rows, drawn, strict=True):
            tokens = row.tokens
            tokens.append(token)
            if (row.stops or usual)(tokens):
                row.finish = "stop"
            elif len(tokens) >= row.limit:
                row.finish = "length"
            else:
                continue
            done.append(row)
            if row.keep and len(tokens) > 1:
                self._batch.remember(row)
        self._batch.leave(done)
        return done
