"""Keys and values in pages: the compiled attention, and who holds what."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from helpers.tiny_models import never, random_model
from testbed.models.hf_decode import Decoder
from testbed.models.hf_kept import KeptPages, Text
from testbed.models.hf_kernel import PAGE, wide
from testbed.models.hf_paged import PagedBatch
from testbed.models.hf_paged_attention import PagedAttention
from testbed.models.hf_pages import Pages, pages_for
from testbed.models.hf_plan import Inputs, Plan, Table
from testbed.models.hf_prefix import Layout
from testbed.models.hf_row import Row

TOKEN = 2 * 2 * 2 * 16 * 4  # bytes: layers, keys and values, heads, width (8, and vectors are whole), float32


def pages_of(heads: int, width: int, value_width: int, count: int = 64) -> Pages:
    return Pages(Layout.of([(torch.zeros(1, heads, 1, width), torch.zeros(1, heads, 1, value_width))]), count)


@pytest.mark.parametrize(("heads", "keyed", "width", "value_width"), [(4, 4, 32, 32), (6, 2, 24, 40), (8, 1, 80, 16)])
@pytest.mark.parametrize("threads", [1, 2])
def test_attention_over_pages_is_attention(
    heads: int, keyed: int, width: int, value_width: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rng = torch.Generator().manual_seed(0)
    pages, lengths = pages_of(keyed, width, value_width), [1, 16, 17, 50]
    pages.cells[:] = 1e9  # what was not written must weigh nothing
    table, texts = Table(), [[pages.take() for _ in range(pages_for(n))] for n in lengths]
    inputs, lines = Inputs(), [table.enter(text) for text in texts]
    attention = PagedAttention(pages, table, inputs)
    q, k, v = (
        [torch.randn(1, n, size, w, generator=rng) for size in lengths]
        for n, w in ((heads, width), (keyed, width), (keyed, value_width))
    )
    plan = Plan.of_parts([(line, 0, n) for line, n in zip(lines, lengths, strict=True)])
    inputs.of([0] * len(plan.places), plan.places)
    with attention.over(plan):
        found = attention.attend(torch.cat(q, 2), torch.cat(k, 2), torch.cat(v, 2), 0.3)
    assert found.shape == (1, sum(lengths), heads, value_width)
    right = [
        torch.nn.functional.scaled_dot_product_attention(*each, is_causal=True, scale=0.3, enable_gqa=True)
        for each in zip(q, k, v, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(right, 2).transpose(1, 2), rtol=0, atol=1e-5)


def test_the_table_grows_with_what_it_holds_and_no_further() -> None:
    table = Table()
    for size in range(20, 400, 9):  # one conversation, longer with each turn
        table.leave(table.enter(list(range(size))))
    assert table.cells.shape[0] == 64
    assert table.cells.shape[1] < 800
    lines = [table.enter([n]) for n in range(65)]
    assert table.cells.shape[0] == 128
    assert [table.cells[line, 0] for line in lines] == list(range(65))


def test_a_text_that_goes_on_from_another_copies_only_a_page_that_is_not_full() -> None:
    pages = pages_of(1, 16, 16)
    text = [pages.take() for _ in range(3)]
    pages.cells[text] = np.arange(3)[:, None]
    fork = pages.fork(text, 2 * PAGE + 5)
    assert fork[:2] == text[:2]
    assert fork[2] not in text
    assert (pages.cells[fork[2]] == 2).all()
    assert pages.fork(text, PAGE) == text[:1]
    own = pages.cut(fork, PAGE + 1)  # the second page is another's too
    assert own[0] == text[0]
    assert own[1] not in text
    mine = [pages.take()]
    assert pages.cut(mine, 3) == mine  # nobody else's: as it is


def test_pages_that_nobody_holds_are_taken_again() -> None:
    rng, pages = random.Random(0), pages_of(1, 16, 16, count=40)
    held: list[list[int]] = []
    for _ in range(500):
        if held and rng.random() < 0.5:
            pages.release(held.pop(rng.randrange(len(held))))
        elif pages.used < 30:
            again = bool(held) and rng.random() < 0.7
            held.append(pages.fork(rng.choice(held), 20) if again else [pages.take(), pages.take()])
        assert pages.used == len({page for each in held for page in each})


def test_texts_that_are_kept_make_room_for_those_under_way() -> None:
    pages = pages_of(1, 16, 16, count=4)
    kept = KeptPages(pages, limit=1 << 20)
    for n in range(2):
        text = Text((n,), [pages.take(), pages.take()])
        kept.add(text)
        pages.release(text.pages)
    assert [pages.take() for _ in range(4)]
    assert not kept._used
    with pytest.raises(MemoryError):
        pages.take()


def test_heads_fill_whole_vectors() -> None:
    assert [wide(n) for n in (1, 16, 17, 64)] == [16, 16, 32, 64]


@pytest.mark.parametrize("cells", [64, 70, 79])
def test_a_message_fits_wherever_the_room_for_it_is_said_to_be(cells: int) -> None:
    decoder = Decoder(random_model(), never, 4, memory=-(-TOKEN * cells * 4 // 3))
    assert decoder.room.cells == cells
    assert decoder.fitting([Row(tuple(range(6, 16)), cells - 10)]) == 1


def test_what_waits_is_counted_by_what_it_may_take_and_what_ends_gives_its_pages_back() -> None:
    decoder = Decoder(random_model(), never, 64, memory=TOKEN * 4000)
    batch = decoder._batch
    assert isinstance(batch, PagedBatch)
    for wave in range(8):
        asked = [
            Row(tuple(6 + (7 * n + 13 * wave) % 390 for n in range(40 + m)), 5 + m, stream=m, keep=m % 2 > 0)
            for m in range(20)
        ]
        decoder.admit(asked)
        while decoder.rows:
            decoder.step()
            decoder.drop(decoder.rows[:1])
        held = {page for text in batch.kept._used for page in text.pages}
        assert batch._pages.used == len(held)
        logits = sum(text.logits_bytes for text in batch.kept._used)
        assert batch.kept._bytes == len(held) * PAGE * TOKEN + logits <= decoder.room.texts
