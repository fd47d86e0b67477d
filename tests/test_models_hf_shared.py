"""Rows that begin alike: what they share is read and kept once, and changes nothing but the time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.tiny_models import SIZES, never, random_model
from testbed.models import hf_aligned, hf_attention, hf_decode
from testbed.models.hf_attention import Groups, Step
from testbed.models.hf_decode import Decoder, Row
from testbed.models.hf_paged import PagedBatch
from testbed.models.hf_paged_attention import PagedAttention
from testbed.models.hf_plan import Plan
from testbed.models.hf_prefix import KeptReads, Layout, Read

COMMON = {"vocab_size": 400, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None} | SIZES
OTHERS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "gpt_neox": {},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma2": {"head_dim": 8},  # caps its scores
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4},  # has sinks
    "bloom": {"n_layer": 2, "n_head": 4},  # adds the distance to its scores
}


def other_model(kind: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **COMMON, **OTHERS[kind])).eval()
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    return model


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows lie side by side, as on other devices."""
    monkeypatch.setattr(Decoder, "_may_use_pages", lambda self: False)


@pytest.fixture
def logits_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Row], torch.Tensor]:
    """What each row's tokens were drawn from."""
    seen: dict[Row, list[torch.Tensor]] = {}
    draw = hf_decode.sample

    def spy(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        for row, values in zip(rows, logits, strict=True):
            seen.setdefault(row, []).append(values.clone())
        return draw(logits, rows)

    monkeypatch.setattr(hf_decode, "sample", spy)
    return lambda row: torch.stack(seen[row])


def write(decoder: Decoder, rows: Sequence[Row], at_once: int = 5) -> None:
    waiting = list(rows)
    while waiting or decoder.rows:
        joining, waiting = waiting[: min(at_once, decoder.free)], waiting[min(at_once, decoder.free) :]
        if joining:
            decoder.admit(joining)
        if decoder.rows:
            decoder.step()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.usefixtures("without_pages")
def test_logits_over_shared_prompts_are_right_side_by_side_too(
    kind: str, logits_of: Callable[[Row], torch.Tensor]
) -> None:
    logits_are_right(kind, logits_of, shares=True, pages=False)


@pytest.mark.parametrize(
    ("kind", "shares"),
    [(kind, True) for kind in ("llama", "gpt2", "qwen2", "gpt_neox", "olmo2", "mixtral", "qwen3_moe")]
    + [(kind, False) for kind in ("mistral", "gemma2", "gpt_oss", "bloom")],
)
def test_logits_over_shared_prompts_and_in_later_turns_are_those_of_one_pass_over_the_whole_text(
    kind: str, shares: bool, logits_of: Callable[[Row], torch.Tensor]
) -> None:
    logits_are_right(kind, logits_of, shares=shares, pages=shares)


def logits_are_right(kind: str, logits_of: Callable[[Row], torch.Tensor], *, shares: bool, pages: bool) -> None:
    model, rng = random_model(kind) if kind not in OTHERS else other_model(kind), random.Random(0)
    begin = tuple(rng.choices(range(6, 400), k=40))
    prompts = [(*begin, *rng.choices(range(6, 400), k=size)) for size in (1, 30, 70)] + [(7, 8)]
    decoder = Decoder(model, never, 12)
    assert (decoder.shares, isinstance(decoder._batch, PagedBatch)) == (shares, pages)
    first = [Row(prompts[n % 4], rng.choice([2, 8, 30]), stream=n, keep=True) for n in range(20)]
    write(decoder, first)
    # Not all of what was written comes back word for word: a tool call may be rendered with other tokens.
    cuts = [rng.randint(0, len(row.tokens)) for row in first]
    later = [
        Row((*row.prompt, *row.tokens[:cut], *rng.choices(range(6, 400), k=5)), 6, stream=n, position=len(row.tokens))
        for n, (row, cut) in enumerate(zip(first, cuts, strict=True))
    ]
    write(decoder, later)
    with torch.inference_mode():
        for row in (*first, *later):
            whole = model(torch.tensor([row.prompt + tuple(row.tokens)])).logits[0, len(row.prompt) - 1 : -1]
            torch.testing.assert_close(logits_of(row), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.usefixtures("without_pages")
def test_writing_over_shared_prompts_and_over_copies_brings_the_same_tokens(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    prompts = [tuple(rng.choices(range(6, 400), k=60)) for _ in range(5)]
    written = []
    for enough in (0, 1 << 40):
        monkeypatch.setitem(hf_aligned._SHARE_FROM, "cpu", enough)
        rows = [Row(prompts[n % 5], 20, stream=n) for n in range(5 * count)]
        write(Decoder(random_model(), never, 64), rows, at_once=64)
        assert all((row.trunk is None) == bool(enough) for row in rows)
        written.append([row.tokens for row in rows])
    assert written[0] == written[1]


@pytest.mark.usefixtures("without_pages")
def test_few_rows_of_a_short_prompt_get_copies_and_many_share_it() -> None:
    decoder, prompt = Decoder(random_model(), never, 64), tuple(range(6, 40))
    few, many = [Row(prompt, 2, stream=n) for n in range(3)], [Row(prompt, 2, stream=n) for n in range(30)]
    decoder.admit(few)
    decoder.admit(many)
    assert {row.trunk for row in few} == {None}
    assert {row.trunk.tokens for row in many if row.trunk} == {prompt}


def test_half_precision_shares_too() -> None:
    decoder = Decoder(random_model().to(torch.bfloat16), never, 16)
    assert decoder.shares
    rows = [Row(tuple(range(6, 60)), 8, stream=n) for n in range(16)]
    write(decoder, rows, at_once=16)
    assert all(row.trunk and len(row.tokens) == 8 for row in rows)


@pytest.mark.usefixtures("without_pages")
def test_a_model_whose_own_attention_gives_other_logits_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    true = hf_attention._with_mass

    def slightly_wrong(*args: Any, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        part, mass = true(*args, **more)
        return part, mass + 0.01

    monkeypatch.setattr(hf_attention, "_with_mass", slightly_wrong)
    model = random_model()
    assert not Decoder(model, never, 4).shares
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_that_hides_one_token_too_many_is_found_out(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Step):
        def __init__(self, groups: Groups, mask: torch.Tensor) -> None:
            hidden = mask.clone()
            first = (mask == 0).int().argmax(1)
            super().__init__(
                groups, hidden.index_put_((torch.arange(len(mask)), first), torch.tensor(-torch.inf).to(dtype))
            )

    monkeypatch.setattr(Decoder, "_may_use_pages", lambda self: False)
    assert Decoder(random_model().to(dtype), never, 4).shares
    monkeypatch.setattr(hf_aligned, "Step", Wrong)
    assert not Decoder(random_model().to(dtype), never, 4).shares


def test_attention_over_pages_that_is_slightly_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    true = PagedAttention.attend

    def short_sighted(self: PagedAttention, *args: Any) -> torch.Tensor:
        return true(self, *args) * 1.001

    assert isinstance(Decoder(random_model(), never, 4)._batch, PagedBatch)
    monkeypatch.setattr(PagedAttention, "attend", short_sighted)
    decoder = Decoder(random_model(), never, 4)
    assert decoder.shares
    assert not isinstance(decoder._batch, PagedBatch)


def test_rows_are_grouped_by_trunk_whatever_their_order() -> None:
    one, two = text((1,)), text((2,))
    groups = Groups.of([two, None, one, two, one, None], torch.device("cpu"))
    assert groups.order is not None
    assert groups.back is not None
    order = groups.order.tolist()
    assert [(trunk.tokens, sorted(order[a:b])) for trunk, a, b in groups.trunks] == [((2,), [0, 3]), ((1,), [2, 4])]
    assert sorted(order[-groups.alone :]) == [1, 5]
    assert [order[place] for place in groups.back.tolist()] == list(range(6))
    assert Groups.of([one, one, None], torch.device("cpu")).order is None


# -- what is read again ----------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Decoder, list[int]]:
    """A decoder, and how many tokens each reading of prompts took."""
    decoder, read, true = Decoder(random_model(), never, 16), list[int](), Plan.of_parts

    def counting(parts: Sequence[tuple[Sequence[int], int, int]]) -> Plan:
        read.append(sum(last - first for _, first, last in parts))
        return true(parts)

    monkeypatch.setattr(Plan, "of_parts", counting)
    return decoder, read


def test_a_later_turn_reads_only_what_is_new(counted: tuple[Decoder, list[int]]) -> None:
    decoder, read = counted
    first = Row(tuple(range(6, 66)), 20, stream=1, keep=True)
    write(decoder, [first])
    # The last token that was written has no keys yet; then come seven new ones.
    second = Row((*first.prompt, *first.tokens, *range(70, 77)), 10, stream=1, position=20, keep=True)
    write(decoder, [second])
    third = Row((*second.prompt, *second.tokens, *range(80, 85)), 4, stream=1, position=30, keep=True)
    write(decoder, [third])
    assert read == [60, 1 + 7, 1 + 5]


def test_only_the_beginning_that_is_the_same_tokens_is_used_again(counted: tuple[Decoder, list[int]]) -> None:
    decoder, read = counted
    first = Row(tuple(range(6, 66)), 20, stream=1, keep=True)
    write(decoder, [first])
    changed = (first.tokens[12] + 1) % 400
    write(decoder, [Row((*first.prompt, *first.tokens[:12], changed, *first.tokens[13:]), 4, stream=1, position=20)])
    assert read == [60, 8]


def test_prompts_of_other_tasks_are_read_from_where_they_differ(counted: tuple[Decoder, list[int]]) -> None:
    decoder, read = counted
    tools = tuple(range(6, 106))
    for n in range(3):
        write(decoder, [Row((*tools, 200 + n, 300, 301), 2, stream=n)])
    assert read == [103, 3, 3]


def test_an_attempt_that_will_not_go_on_leaves_nothing_behind(counted: tuple[Decoder, list[int]]) -> None:
    decoder, _ = counted
    write(decoder, [Row(tuple(range(6, 66)), 20, stream=n) for n in range(4)])
    assert [text.tokens for text in decoder._batch.kept._used] == [tuple(range(6, 66))]


def text(tokens: Sequence[int], size: int = 100) -> Read:
    block = torch.zeros(1, 1, size // 4, 1)
    return Read(Layout.of([(block, block)]), tuple(tokens), (block,), logits=torch.zeros(0))


def test_texts_used_longest_ago_make_room_and_memory_stays_within_its_limit() -> None:
    kept = KeptReads(1000)
    for n in range(40):
        kept.add(text((n, n + 1)))
        kept.longest((7, 8, 9))
        assert kept._bytes == sum(read.bytes for read in kept._kept.values()) <= 1000
        assert sorted(kept._kept) == kept._sorted
    assert len(kept._kept) == 10
    assert kept.get((7, 8)) is not None
    assert kept.get((1, 2)) is None


def test_the_text_with_the_longest_common_beginning_is_found() -> None:
    rng, kept = random.Random(0), KeptReads(1 << 20)
    texts = [tuple(rng.choices(range(3), k=rng.randint(1, 9))) for _ in range(200)]
    for each in texts:
        kept.add(text(each))
    for _ in range(300):
        wanted = tuple(rng.choices(range(4), k=rng.randint(1, 9)))
        sizes = [
            next((i for i in range(min(len(t), len(wanted))) if t[i] != wanted[i]), min(len(t), len(wanted)))
            for t in texts
        ]
        found, size = kept.longest(wanted)
        assert size == max(sizes)
        assert (found is None) == (size == 0)
        assert found is None or found.tokens[:size] == wanted[:size]
