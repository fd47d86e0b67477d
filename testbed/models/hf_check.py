"""Whether a batch gives the logits that the model itself gives: asked before anything is written with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from testbed.models.hf_attention import NotCoveredError
from testbed.models.hf_row import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

Tensor = torch.Tensor

_BEGUN, _WRITTEN, _LATER = (30, 33), 2, 34  # tokens of two prompts, written after them, and of a later turn
_SIZE = 40
MOST_ROWS = 4  # of a batch that is tried
_ROUNDING = 4  # times as far from the model's own reading as its own writing is: sums are made in another order


class Batch(Protocol):
    """What writes: see `hf_paged.PagedBatch` and `hf_aligned.AlignedBatch`."""

    @property
    def rows(self) -> list[Row]:
        """Under way."""

    def enter(self, rows: Sequence[Row]) -> tuple[list[Row], Tensor]:
        """Reads the prompts of new rows; whose logits there are, and these."""

    def advance(self) -> Tensor:
        """Logits after the last token of every row."""

    def remember(self, row: Row) -> None:
        """Keeps what was read of a row."""

    def leave(self, rows: Iterable[Row]) -> None:
        """Takes rows out."""


def agrees(model: Any, batches: Sequence[Callable[[], Batch]]) -> bool:
    """Whether tokens written one by one, over shared beginnings and alone, get the logits of one pass over the text.

    How far they may be from that is measured on the model: in half precision, its own writing is not its own reading.

    Args:
        model: a transformers causal language model in evaluation mode.
        batches: each of these makes one that is tried.
    """
    try:
        with torch.inference_mode():
            return _agrees(model, batches)
    except torch.OutOfMemoryError:
        raise
    except (NotCoveredError, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return False  # whatever an unfamiliar architecture raises here, it keeps its own attention


def _agrees(model: Any, batches: Sequence[Callable[[], Batch]]) -> bool:
    vocabulary = model.get_input_embeddings().num_embeddings
    texts = [tuple(7919 * n * n % vocabulary for n in range(first, first + _SIZE)) for first in (1, 60)]
    right = model(torch.tensor(texts, device=model.device), use_cache=False).logits.float()
    own = _far(_own_writing(model, texts[0]), right[0, _BEGUN[0] - 1 : _LATER])
    eps, most = torch.finfo(model.dtype).eps, float(right.abs().max())
    allowed = max(max(eps, 1e-4) * max(1.0, most), _ROUNDING * own)
    return all(
        _far(logits, right[number, place]) <= allowed
        for batch in batches
        for number, place, logits in _written(batch(), texts)
    )


def _own_writing(model: Any, text: Sequence[int]) -> Tensor:
    """Logits as transformers makes them, token by token behind a prompt."""
    output = model(_row(model, text[: _BEGUN[0]]), use_cache=True)
    logits = [output.logits[0, -1]]
    for token in text[_BEGUN[0] : _LATER]:
        output = model(_row(model, [token]), past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits[0, -1])
    return torch.stack(logits)


def _written(batch: Batch, texts: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int, Tensor]]:
    """Which text, after which of its tokens, and the logits there; rows join, share, leave and go on meanwhile."""
    numbers: dict[Row, int] = {}

    def note(rows: Sequence[Row], logits: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        for row, after in zip(rows, logits, strict=True):
            place = len(row.prompt) + len(row.tokens)
            yield numbers[row], place - 1, after
            row.tokens.append(texts[numbers[row]][place % _SIZE])

    def enter(*new: tuple[int, Row]) -> Iterator[tuple[int, int, Tensor]]:
        numbers.update((row, number) for number, row in new)
        yield from note(*batch.enter([row for _, row in new]))

    def advance() -> Iterator[tuple[int, int, Tensor]]:
        logits = batch.advance()
        yield from note(batch.rows, logits)

    pair = [Row(texts[0][: _BEGUN[0]], _SIZE) for _ in range(2)]
    other = Row(texts[1][: _BEGUN[1]], _SIZE)
    yield from enter((0, pair[0]), (0, pair[1]))
    yield from advance()
    yield from enter((1, other))
    for _ in range(_WRITTEN):
        yield from advance()
    batch.remember(pair[0])
    batch.leave([pair[0]])
    yield from enter((0, Row(texts[0][:_LATER], _SIZE, position=1)), (0, Row(texts[0][:_LATER], _SIZE)))
    yield from advance()


def _row(model: Any, tokens: Sequence[int]) -> Tensor:
    return torch.tensor([list(tokens)], device=model.device)


def _far(some: Tensor, right: Tensor) -> float:
    return float((some.float() - right).abs().max())
