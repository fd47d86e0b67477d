"""What is kept of texts that were read: prompts for everybody, an attempt's own words for that attempt."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest

from helpers.tiny_models import never, random_model
from testbed.models.hf_decode import Decoder
from testbed.models.hf_paged import PagedBatch
from testbed.models.hf_plan import Plan
from testbed.models.hf_row import Row

PROMPT = tuple(range(6, 66))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Decoder, list[list[int]]]:
    """A decoder, and the tokens of each text in each of its readings."""
    decoder, read, true = Decoder(random_model(), never, 16), list[list[int]](), Plan.of_parts

    def counting(parts: Sequence[tuple[int, int, int]]) -> Plan:
        read.append(sorted(last - first for _, first, last in parts))
        return true(parts)

    monkeypatch.setattr(Plan, "of_parts", counting)
    return decoder, read


def write(decoder: Decoder, rows: Sequence[Row]) -> None:
    decoder.admit(rows)
    while decoder.rows:
        decoder.step()


def after(row: Row, *shown: int, **more: bool) -> Row:
    """The attempt's next message."""
    prompt, position = (*row.prompt, *row.tokens, *shown), row.position + len(row.tokens)
    return Row(prompt, 4, row.temperature, stream=row.stream, position=position, **more)


def held(decoder: Decoder) -> int:
    assert isinstance(decoder._batch, PagedBatch)
    return decoder._batch._pages.used


def test_attempts_that_have_one_random_stream_each_go_on_from_their_own_words(
    counted: tuple[Decoder, list[list[int]]],
) -> None:
    decoder, read = counted
    first = [Row((*PROMPT, 70 + n), 20, stream=5, keep=True) for n in range(3)]  # as in several arms
    write(decoder, first)
    write(decoder, [after(row, 80, 81, 82) for row in first])
    assert read[-1] == [1 + 3] * 3  # the last token that was written has no keys yet


def test_attempts_that_wrote_the_same_go_on_together_and_leave_nothing_behind(
    counted: tuple[Decoder, list[list[int]]],
) -> None:
    decoder, read = counted
    first = [Row(PROMPT, 20, 0.0, stream=n, keep=True) for n in range(4)]
    write(decoder, first)
    assert len({tuple(row.tokens) for row in first}) == 1
    write(decoder, [after(row, 80, 81) for row in first])
    assert read == [[60], [1 + 2]]
    kept = decoder._batch.kept
    assert sorted(len(text.tokens) for text in kept._used) == [60, 82]  # the prompts, which others may begin with
    assert held(decoder) == len({page for text in kept._used for page in text.pages})


def test_an_attempt_that_tells_its_story_otherwise_goes_on_from_where_it_is_the_same(
    counted: tuple[Decoder, list[list[int]]],
) -> None:
    decoder, read = counted
    first = Row(PROMPT, 20, stream=1, keep=True)
    write(decoder, [first])
    other = Row((*PROMPT[:30], *range(200, 260)), 4, stream=1, position=20)  # a summary of it, as some agents make
    write(decoder, [other])
    write(decoder, [Row((*PROMPT, 99), 4, stream=2)])  # what others begin with is still there
    assert read == [[60], [60], [1]]


def test_a_message_that_is_asked_for_again_is_written_again_as_it_was(
    counted: tuple[Decoder, list[list[int]]],
) -> None:
    decoder, _ = counted
    first = Row(PROMPT, 20, stream=1, keep=True)
    write(decoder, [first])
    twice = [after(first, 80, 81, keep=True) for _ in range(2)]
    for row in twice:  # the second finds its words gone: the first has gone on from them
        write(decoder, [row])
    assert twice[0].tokens == twice[1].tokens


def test_logits_of_prompts_count_as_memory() -> None:
    decoder = Decoder(random_model(), never, 4, memory=1 << 20)
    for n in range(60):
        write(decoder, [Row((*PROMPT, n), 2, stream=n)])  # each takes a page, and logits over the vocabulary
    kept = decoder._batch.kept
    logits = sum(text.logits_bytes for text in kept._used)
    assert logits > 0.1 * kept._bytes
    assert kept._bytes <= decoder.room.texts


def test_a_batch_that_is_given_up_goes_at_once() -> None:
    decoder = Decoder(random_model(), never, 4)
    assert isinstance(decoder._batch, PagedBatch)
    write(decoder, [Row(PROMPT, 5, stream=1, keep=True)])
    gc.collect()
    gc.disable()
    try:
        memory = weakref.ref(decoder._batch._pages)
        decoder.clear()
        assert memory() is None
    finally:
        gc.enable()
