"""Decoding: batches, sampling, and the cache of what was read."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from helpers.tiny_models import decode, never, random_model
from testbed.errors import ModelError
from testbed.models.hf_decode import Decoder, Row, sample
from testbed.models.hf_plan import Plan


def logits_seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[torch.Tensor]]:
    """The logits that each row, by its id, is written from; filled as they come."""
    seen: dict[int, list[torch.Tensor]] = {}

    def spy(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        for row, values in zip(rows, logits, strict=True):
            seen.setdefault(id(row), []).append(values.clone())
        return sample(logits, rows)

    monkeypatch.setattr("testbed.models.hf_decode.sample", spy)
    return seen


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_logits_are_those_of_one_pass_over_the_whole_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = logits_seen(monkeypatch)
    model, rng = random_model(kind), random.Random(0)
    prompts = [
        tuple(rng.choices(range(6, 400), k=rng.choice([1, rng.randint(7, 12), rng.randint(90, 120)])))
        for _ in range(30)
    ]
    rows = [Row(rng.choice(prompts), rng.choice([1, 3, 20, 60, 200]), stream=n) for n in range(90)]
    decoder, waiting = Decoder(model, never, 24), list(rows)
    while waiting or decoder.rows:  # rows join and leave at odd moments
        joining = [waiting.pop() for _ in range(min(len(waiting), decoder.free, rng.choice([0, 1, 5, 24])))]
        if joining:
            decoder.admit(joining)
        if decoder.rows:
            decoder.step()
    with torch.inference_mode():
        for row in rows:
            whole = model(torch.tensor([row.prompt + tuple(row.tokens)])).logits[0, len(row.prompt) - 1 : -1]
            torch.testing.assert_close(torch.stack(seen[id(row)]), whole, rtol=0, atol=1e-3)
            assert len(row.tokens) == row.limit


@pytest.mark.parametrize(("written", "more"), [(6, 14), (270, 20)])
def test_a_later_message_goes_on_in_the_attempts_stream(written: int, more: int) -> None:
    model, prompt = random_model(), (7, 8, 9)
    whole = Row(prompt, written + more, stream=3)
    decode(model, [whole])
    rest = Row((*prompt, *whole.tokens[:written]), more, stream=3, position=written)
    decode(model, [rest])
    assert rest.tokens == whole.tokens[written:]


def test_temperature_zero_takes_the_likeliest_token() -> None:
    model, row = random_model(), Row((7, 8, 9), 12, temperature=0.0)
    decode(model, [row])
    text = list(row.prompt)
    with torch.inference_mode():
        for token in row.tokens:
            assert token == int(model(torch.tensor([text])).logits[0, -1].argmax())
            text.append(token)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6)])
def test_tokens_are_drawn_in_proportion_to_their_probability(temperature: float, top_p: float) -> None:
    model, draws = random_model(), 4000
    rows = [Row((7, 8, 9), 1, temperature, top_p, stream=n) for n in range(draws)]
    decode(model, rows)
    with torch.inference_mode():
        logits = model(torch.tensor([[7, 8, 9]])).logits[0, -1].double().numpy()
    mass = np.exp(logits / temperature - (logits / temperature).max())
    mass /= mass.sum()
    order = np.argsort(-mass)
    kept = order[: int(np.searchsorted(mass[order].cumsum(), top_p)) + 1]
    expected = np.zeros_like(mass)
    expected[kept] = mass[kept] / mass[kept].sum()
    found = np.bincount([row.tokens[0] for row in rows], minlength=len(mass))
    spread = np.sqrt(draws * expected * (1 - expected))
    assert (np.abs(found - draws * expected) <= 5 * spread + 1).all()
    assert found[expected == 0].sum() == 0


def test_one_batch_may_mix_sampling_settings() -> None:
    model = random_model()
    settings = [(0.0, 1.0), (1.0, 1.0), (0.7, 0.5), (2.0, 0.9)]
    mixed = [Row((7, 8, 9), 20, *setting, stream=4) for setting in settings]
    decode(model, mixed)
    for row, setting in zip(mixed, settings, strict=True):
        alone = Row((7, 8, 9), 20, *setting, stream=4)
        decode(model, [alone])
        assert row.tokens == alone.tokens


def test_a_prompt_is_read_once_for_all_attempts_that_start_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, read, true = Decoder(random_model(), never, 8), list[int](), Plan.of_parts

    def counting(parts: Sequence[tuple[int, int, int]]) -> Plan:
        read.extend(last - first for _, first, last in parts)
        return true(parts)

    monkeypatch.setattr(Plan, "of_parts", counting)
    for wave in range(3):
        decoder.admit([Row((7, 8, 9, 10), 1, stream=8 * wave + n) for n in range(8)])
    assert read == [4]


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_rows_that_nobody_waits_for_leave_and_the_others_go_on(kind: str) -> None:
    model = random_model(kind)

    def rows() -> list[Row]:
        return [Row(tuple(range(6, 60 - 9 * (n // 3))), 20, stream=n) for n in range(9)]

    alone, together = rows(), rows()
    for row in alone:
        decode(model, [row])
    decoder = Decoder(model, never, 16)
    decoder.admit(together)
    for gone in ([0, 4], [8], []):
        decoder.step()
        decoder.drop(together[n] for n in gone)
    while decoder.rows:
        decoder.step()
    assert [len(row.tokens) for row in together] == [2, 20, 20, 20, 2, 20, 20, 20, 3]
    assert [row.tokens for row in together] == [a.tokens[: len(t.tokens)] for a, t in zip(alone, together, strict=True)]


def test_logits_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(ModelError, match="not finite"):
        sample(torch.full((1, 4), float("nan")), [Row((1,), 1)])


def test_a_temperature_next_to_zero_takes_the_likeliest_token() -> None:
    logits = torch.tensor([[3.0, 80.0, -90.0]] * 20)
    assert sample(logits, [Row((1,), 1, temperature=1e-37, stream=n) for n in range(20)]) == [1] * 20


def test_a_draw_next_to_one_stays_in_the_vocabulary() -> None:
    class Last(Row):
        def draw(self) -> float:
            return float(np.nextafter(1.0, 0.0))

    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 30
    assert max(sample(logits, [Last((1,), 1)] * 50)) < 1000


@pytest.mark.parametrize(("kind", "rows"), [("llama", 15), ("llama", 16), ("llama", 17), ("llama", 40), ("gpt2", 40)])
def test_rows_write_the_same_numbers_in_any_company(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, not only to the same tokens: nothing is added in another order."""
    seen = logits_seen(monkeypatch)
    model, rng = random_model(kind), random.Random(rows)
    common = tuple(rng.choices(range(6, 400), k=40))
    prompts = [
        (*common[: rng.choice([0, 20, 40])], *rng.choices(range(6, 400), k=rng.choice([2, 30]))) for _ in range(rows)
    ]
    alone, together = ([Row(prompt, 8, stream=n) for n, prompt in enumerate(prompts)] for _ in range(2))
    decoder = Decoder(model, never, 64)
    for row in alone[:15]:
        decoder.clear()
        decoder.admit([row])
        while decoder.rows:
            decoder.step()
    decoder.clear()
    decode(model, together)
    for one, other in zip(alone[:15], together, strict=False):
        assert one.tokens == other.tokens
        assert torch.equal(torch.stack(seen[id(one)]), torch.stack(seen[id(other)]))
