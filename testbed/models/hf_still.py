"""Steps of a batch whose shapes stand still, so that a GPU can be given all that a step does in one call.

A step of a small model is some hundred operations, each of which takes a GPU a few microseconds and the processor
longer to ask for. What was recorded once is asked for by one call; but a recording knows only the places and shapes
that it was made with. So here rows and columns of the cache are rounded up, and what changes from token to token is
read from tensors that never move.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch

from testbed.models.hf_cache import AlignedCache
from testbed.models.hf_rehearsal import Rehearsal
from testbed.models.hf_row import Row

Tensor = torch.Tensor
# Makes a recording of a function without arguments: a function that does the same to the same tensors.
Record = Callable[[Callable[[], None]], Callable[[], None]]

_MOST = 128  # recordings that are kept
_PARTS = 8  # into which the columns are divided, at most
_COLUMNS = 64  # of a part, at least
_ROWS = 8  # up to a multiple of which rows are rounded, where there are more than a few

_log = logging.getLogger(__name__)


class Recorder(NamedTuple):
    """How steps are recorded on a device.

    Attributes:
        new: makes what records; what one of them recorded may share memory, since it is done one after another.
        wait: returns when the device has done all that it was asked for.
        tried: how often a step of each shape is timed as it is usually made, and then as it was recorded; at least 1.
        clock: seconds.
    """

    new: Callable[[], Record]
    wait: Callable[[], None]
    tried: int = 4
    clock: Callable[[], float] = time.perf_counter


class Shape(NamedTuple):
    """The part of the cache that a step works on: its first rows, and columns from `first` to `last` − 1."""

    rows: int
    first: int
    last: int


@dataclass
class Ways:
    """Two ways to do the same, each timed a few times; from then on the faster one is taken.

    Attributes:
        tried: how often each is timed; the first time warms up.
        usual: seconds of the one that is always there.
        recorded: seconds of the other, which takes some time to make.
        replay: the other.
    """

    tried: int
    usual: list[float] = field(default_factory=list)
    recorded: list[float] = field(default_factory=list)
    replay: Callable[[], None] | None = None

    @property
    def settled(self) -> bool:
        """Whether both were timed."""
        return len(self.recorded) >= self.tried

    @property
    def takes_recorded(self) -> bool:
        """Whether the other one is next."""
        if self.settled:
            return min(self.recorded) < min(self.usual)
        return len(self.usual) >= self.tried


class StillSteps:
    """Steps of a batch, recorded where that pays.

    Args:
        model: a transformers causal language model in evaluation mode, which takes a mask of four dimensions.
        cache: of the batch.
        recorder: of the device.

    Attributes:
        made: steps that were recorded.
        refused: why nothing is recorded any more; empty while it is.
    """

    def __init__(self, model: Any, cache: AlignedCache, recorder: Recorder) -> None:
        self._model, self._cache, self._recorder = model, cache, recorder
        self.made, self.refused = 0, ""
        self._known: OrderedDict[Shape, Ways] = OrderedDict()
        self._record: Record | None = None
        self._places = 0  # the cache's, when the recordings were made
        self._given: Tensor  # the rows' last tokens, their positions, and their columns before them: shape (3, rows)
        self._column: Tensor  # where the new tokens go, shape (1,)
        self._logits: Tensor | None = None  # shape (rows, vocabulary)

    def step(self, rows: Sequence[Row], width: int, usual: Callable[[], Tensor]) -> Tensor:
        """Reads the last token of every row; logits, shape (rows, vocabulary), good until the next step.

        Args:
            rows: in the cache's first places, which has a column for one token more.
            width: columns of the longest.
            usual: makes this step as it is made without recordings.
        """
        if self.refused:
            return usual()
        if self._places != self._cache.places:
            self._forget()
        shape = self._shape(len(rows), width)
        ways = self._ways(shape)
        if not ways.takes_recorded:
            logits: Tensor = usual() if ways.settled else self._timed(usual, ways.usual)
            self._make_room(logits)
            return logits
        if ways.replay is None:
            self._give(rows, shape.rows)
            ways.replay = self._recording(shape)
            if ways.replay is None:
                return usual()
        again = partial(self._again, rows, shape.rows, ways.replay)
        if ways.settled:
            again()
        else:
            self._timed(again, ways.recorded)
        self._cache.grow()
        assert self._logits is not None
        return self._logits[: len(rows)]

    def _timed(self, way: Callable[[], Any], seconds: list[float]) -> Any:
        self._recorder.wait()
        begun = self._recorder.clock()
        found = way()
        self._recorder.wait()
        seconds.append(self._recorder.clock() - begun)
        return found

    def _ways(self, shape: Shape) -> Ways:
        ways = self._known.setdefault(shape, Ways(self._recorder.tried))
        self._known.move_to_end(shape)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return ways

    def _forget(self) -> None:
        """Lets go of all recordings: the cache lies elsewhere."""
        self._known.clear()
        self._logits = None
        self._places = self._cache.places

    def _shape(self, rows: int, width: int) -> Shape:
        cache = self._cache
        many = rows if rows < 3 else 4 if rows < 5 else -(-rows // _ROWS) * _ROWS
        part = max(_COLUMNS, 1 << (-(-cache.columns // _PARTS) - 1).bit_length())
        first, last = (cache.end - width) // part * part, (cache.end // part + 1) * part
        return Shape(min(many, cache.rows), first, min(last, cache.columns))

    def _make_room(self, like: Tensor) -> None:
        """Makes the tensors that never move: before anything is recorded, since they must outlive it."""
        if self._logits is None:
            rows, device = self._cache.rows, like.device
            self._given = torch.zeros(3, rows, dtype=torch.long, device=device)
            self._column = torch.zeros(1, dtype=torch.long, device=device)
            self._logits = like.new_zeros(rows, like.shape[-1])

    def _give(self, rows: Sequence[Row], many: int) -> None:
        """Says what changes from token to token; in places without a row a token is read that nobody sees."""
        told = [[row.tokens[-1], row.seen, row.own] for row in rows]
        # What a row began with, since other tokens may have keys and values that are no numbers.
        told += [[rows[0].prompt[0], 0, 0]] * (many - len(rows))
        self._given[:, :many] = torch.tensor(list(zip(*told, strict=True)))
        self._column.fill_(self._cache.end)

    def _again(self, rows: Sequence[Row], many: int, replay: Callable[[], None]) -> None:
        """Does a recorded step; what it has to be told counts as its time."""
        self._give(rows, many)
        replay()

    def _recording(self, shape: Shape) -> Callable[[], None] | None:
        """A step of this shape, recorded; None where that cannot be."""
        try:
            if not self.made:
                with Rehearsal():  # type: ignore[no-untyped-call]
                    self._run(shape)
            # What the recordings shared is given back with the last of them, and cannot be shared again.
            if self._record is None or not any(ways.replay for ways in self._known.values()):
                self._record = self._recorder.new()
            recording = self._record(partial(self._run, shape))
            self.made += 1
            return recording
        except RuntimeError as error:  # memory is short, or the model asks how its numbers came out
            self._forget()
            self.refused = str(error).partition("\n")[0] or type(error).__name__
            _log.warning("Steps of the model are not recorded any more, so that it may be slower: %s", self.refused)
            return None

    def _run(self, shape: Shape) -> None:
        tokens, seen, own = self._given[:, : shape.rows, None]
        columns = torch.arange(shape.first, shape.last, device=self._model.device)
        hidden = (columns > self._column) | (columns < self._column - own)
        mask = torch.zeros(hidden.shape, dtype=self._model.dtype, device=self._model.device)
        mask.masked_fill_(hidden, -torch.inf)
        self._cache.stand(shape.rows, shape.first, shape.last, self._column)
        found = self._model(
            input_ids=tokens,
            position_ids=seen,
            # A mask of four dimensions is taken as it is: nothing in it is asked for by the processor.
            attention_mask=mask[:, None, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        assert self._logits is not None
        self._logits[: shape.rows] = found.logits[:, -1]
