from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from testbed.errors import ContextFull, ModelError, ModelUnavailable, UnknownName, UsageError
from testbed.models import Model, Reply, Request, Sampling, make_model
from testbed.models.hf import HuggingFace
from testbed.models.hf_decode import Decoder, Row, sample
from testbed.models.hf_text import TextCodec
from testbed.models.hf_worker import _out_of_memory
from testbed.models.reference_model import reference_path
from testbed.protocol import ANSWER_INSTRUCTION, parse

TEMPLATE = (
    "{% if tools %}<|system|>tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %} in <tool_call></tool_call>"
    "{% endif %}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TURNS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
TOOL = {"type": "function", "function": {"name": "lookup", "description": "d", "parameters": {"type": "object"}}}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4}

has_reference = pytest.mark.skipif(
    not (Path(__file__).parents[1] / "testbed" / "models" / "reference" / "model.safetensors").is_file(),
    reason="the reference model's weights are not in this checkout",
)


# -- tiny models, made when asked for ---------------------------------------------------------------------------------


def make_tokenizer(template: str | None = TEMPLATE) -> Any:
    """Byte-level BPE, in which the protocol's tags are ordinary text of several tokens."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(400)]
    texts = [" ".join(rng.choices(words, k=30)) + " What is 12*34? <answer>" for _ in range(50)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", *TURNS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|end|>")
    fast.chat_template = template
    return fast


def random_model(kind: str = "llama", context: int = 512) -> Any:
    """Random weights, spread so that next-token distributions are neither flat nor certain."""
    torch.manual_seed(0)
    common = {"vocab_size": 400, "bos_token_id": None, "eos_token_id": 5, "pad_token_id": 0}
    model: Any
    if kind == "gpt2":
        config = GPT2Config(n_positions=context, n_embd=32, n_layer=2, n_head=4, **common)
        model = GPT2LMHeadModel(config)
    elif kind == "mistral":
        config = MistralConfig(
            num_key_value_heads=2, max_position_embeddings=context, sliding_window=9, **SIZES, **common
        )
        model = MistralForCausalLM(config)
    else:
        config = LlamaConfig(num_key_value_heads=2, max_position_embeddings=context, **SIZES, **common)
        model = LlamaForCausalLM(config)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.4)
    return model.eval()


def save(model: Any, tokenizer: Any, path: Path) -> Path:
    logging.disable_progress_bar()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def parrot(path: Path, reply: Sequence[int], tokenizer: Any) -> Path:
    """A model that replies to `ask()` with these tokens and then repeats the last one for ever.

    It has a learned position for each dimension and nothing else, so that the position alone decides the token.
    """
    begin = len(TextCodec(tokenizer, [5], None, "parrot").prompt(ask().messages, ())) - 1
    positions = 128
    common = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 5, "tie_word_embeddings": False}
    model = GPT2LMHeadModel(GPT2Config(n_positions=positions, n_embd=positions, n_layer=1, n_head=1, **common))
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(torch.eye(positions))
        model.transformer.ln_f.weight.fill_(1.0)
        for at in range(positions):
            model.lm_head.weight[reply[min(max(at - begin, 0), len(reply) - 1)], at] = 100.0
    return save(model, tokenizer, path)


def ask(content: str = "Go.", **fields: Any) -> Request:
    return Request([{"role": "user", "content": content}], **fields)


async def reply_of(path: Path, request: Request, **options: Any) -> Reply:
    model = HuggingFace(path, device="cpu", **options)
    try:
        return await model.generate(request)
    finally:
        await model.aclose()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_model(), make_tokenizer(), tmp_path_factory.mktemp("llama"))


@pytest.fixture
async def tiny(llama: Path) -> AsyncIterator[HuggingFace]:
    model = HuggingFace(llama, device="cpu", system="")
    yield model
    await model.aclose()


def never(tokens: Sequence[int]) -> bool:
    return False


def decode(model: Any, rows: Sequence[Row], slots: int = 64, stops: Callable[[Sequence[int]], bool] = never) -> None:
    decoder, waiting = Decoder(model, stops, slots), list(rows)
    while waiting or decoder.rows:
        now, waiting = waiting[: decoder.free], waiting[decoder.free :]
        if now:
            decoder.admit(now)
        if decoder.rows:
            decoder.step()


# -- decoding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_logits_are_those_of_one_pass_over_the_whole_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[torch.Tensor]] = {}

    def spy(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        for row, values in zip(rows, logits, strict=True):
            seen.setdefault(id(row), []).append(values.clone())
        return sample(logits, rows)

    monkeypatch.setattr("testbed.models.hf_decode.sample", spy)
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
    model = random_model()
    decoder, read = Decoder(model, never, 8), 0
    forward = model.forward

    def counting(**inputs: Any) -> Any:
        nonlocal read
        if inputs["input_ids"].shape[1] > 1:
            read += inputs["input_ids"].numel()
        return forward(**inputs)

    monkeypatch.setattr(decoder, "_model", counting)
    for wave in range(3):
        decoder.admit([Row((7, 8, 9, 10), 1, stream=8 * wave + n) for n in range(8)])
    assert read == 4


def test_logits_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(ModelError, match="not finite"):
        sample(torch.full((1, 4), float("nan")), [Row((1,), 1)])


def test_a_draw_next_to_one_stays_in_the_vocabulary() -> None:
    class Last(Row):
        def draw(self) -> float:
            return float(np.nextafter(1.0, 0.0))

    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 30
    assert max(sample(logits, [Last((1,), 1)] * 50)) < 1000


# -- attempts -----------------------------------------------------------------------------------------


@has_reference
async def test_a_reference_attempt_writes_the_same_in_any_company() -> None:
    prompts = [f"What is {3 * n}*{7 * n + 1}?" for n in range(16)]
    requests = [ask(prompts[n % 16], stream=1000 + n, max_tokens=80) for n in range(64)]
    model = make_model("reference")
    alone = [(await model.generate(request)).text for request in requests]
    for size in (8, 64):
        batches = [requests[at : at + size] for at in range(0, 64, size)]
        texts = [r.text for batch in batches for r in await asyncio.gather(*map(model.generate, batch))]
        assert texts == alone
    order = random.Random(0).sample(range(64), 64)
    shuffled = await asyncio.gather(*(model.generate(requests[n]) for n in order))
    assert {n: reply.text for n, reply in zip(order, shuffled, strict=True)} == dict(enumerate(alone))
    assert len(set(alone)) > 16
    await model.aclose()


@has_reference
async def test_the_reference_model_acts_in_the_text_protocol() -> None:
    model = make_model("reference", {"threads": 1})
    replies = await asyncio.gather(*(model.generate(ask("What is 2+3?", stream=n, max_tokens=60)) for n in range(32)))
    actions = [parse(reply.text) for reply in replies]
    assert sum(action.answer is not None or bool(action.calls) for action in actions) >= 16
    await model.aclose()


@has_reference
def test_the_reference_model_is_asked_by_its_own_template_alone() -> None:
    codec = make_model("reference").codec  # type: ignore[attr-defined]
    text = codec.render([("user", "What is 2+3?")], [TOOL])
    assert codec.rendering.tools == "template"
    assert "lookup" in text
    assert ANSWER_INSTRUCTION not in text


async def test_a_random_models_attempts_do_not_depend_on_their_company(tiny: HuggingFace) -> None:
    requests = [ask(f"What is {n}?", stream=n, max_tokens=25) for n in range(40)]
    alone = [(await tiny.generate(request)).text for request in requests]
    together = [reply.text for reply in await asyncio.gather(*map(tiny.generate, requests))]
    # The distributions of a random model are flat, so that rounding may now and then move a draw to the next token.
    assert sum(a != b for a, b in zip(alone, together, strict=True)) <= 1


async def test_tokens_are_an_attempts_own(tiny: HuggingFace) -> None:
    contents = ["a", "b " * 100, "c " * 10]
    replies = await asyncio.gather(*(tiny.generate(ask(content, max_tokens=9)) for content in contents))
    for content, reply in zip(contents, replies, strict=True):
        assert reply.usage.prompt_tokens == len(tiny.codec.encode(f"<|user|>{content}<|end|><|assistant|>"))
        assert 1 <= reply.usage.generated_tokens <= 9


@pytest.mark.parametrize("limit", [1, 2, 13])
async def test_a_limit_stops_at_exactly_that_token(tmp_path: Path, limit: int) -> None:
    tokenizer = make_tokenizer()
    letters = tokenizer.encode("abcdefgh" * 5)
    path = parrot(tmp_path, letters, tokenizer)
    reply = await reply_of(path, ask(max_tokens=limit))
    assert (reply.usage.generated_tokens, reply.finish) == (limit, "length")
    assert reply.text == tokenizer.decode(letters[:limit])


async def test_the_end_token_is_counted_and_not_shown(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    said = tokenizer.encode("no answer")
    reply = await reply_of(parrot(tmp_path, [*said, 5], tokenizer), ask())
    assert (reply.text, reply.usage.generated_tokens, reply.finish) == ("no answer", len(said) + 1, "stop")


@pytest.mark.parametrize("text", ["so <answer>42</answer>", '<tool_call>{"name":"f"}</tool_call>'])
async def test_a_closing_tag_of_several_tokens_ends_the_message_and_is_kept(tmp_path: Path, text: str) -> None:
    tokenizer = make_tokenizer()
    said = tokenizer.encode(text)
    assert len(tokenizer.encode("</answer>")) > 1
    reply = await reply_of(parrot(tmp_path, [*said, *tokenizer.encode(" and more")], tokenizer), ask())
    assert (reply.text, reply.usage.generated_tokens, reply.finish) == (text, len(said), "stop")


async def test_what_a_token_holds_beyond_the_closing_tag_is_left_out(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([">tail"])
    said = [*tokenizer.encode("<answer>42</answer"), tokenizer.convert_tokens_to_ids(">tail")]
    reply = await reply_of(parrot(tmp_path, said, tokenizer), ask(max_tokens=60))
    assert (reply.text, reply.usage.generated_tokens) == ("<answer>42</answer>", len(said))


async def test_a_closing_tag_that_is_a_special_token_ends_the_message_and_is_kept(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<answer>", "</answer>"]})
    said = tokenizer.encode("<answer>42</answer>")
    reply = await reply_of(parrot(tmp_path, [*said, 9], tokenizer), ask())
    assert (reply.text, reply.usage.generated_tokens) == ("<answer>42</answer>", len(said))


async def test_a_model_that_writes_only_special_tokens_says_nothing(tmp_path: Path) -> None:
    reply = await reply_of(parrot(tmp_path, [1, 2, 3, 4, 0], make_tokenizer()), ask(max_tokens=20))
    assert (reply.text, reply.usage.generated_tokens, reply.finish) == ("", 20, "length")


async def test_pieces_that_are_no_utf8_become_replacement_characters(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    broken = tokenizer.encode("é")[:1] * 3
    reply = await reply_of(parrot(tmp_path, [*broken, 5], tokenizer), ask())
    assert set(reply.text) == {"\ufffd"}
    reply.text.encode("utf-8")


async def test_a_prompt_that_fills_the_context_is_refused_by_its_length(tmp_path: Path) -> None:
    path = save(random_model(context=64), make_tokenizer(), tmp_path)
    with pytest.raises(ContextFull, match=r"has \d{3} tokens.* takes 64"):
        await reply_of(path, ask("abc " * 100))


async def test_a_reply_ends_where_the_context_does(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    path = parrot(tmp_path, tokenizer.encode("a"), tokenizer)  # 128 positions
    reply = await reply_of(path, ask(max_tokens=10_000))
    assert reply.finish == "length"
    assert reply.usage.prompt_tokens + reply.usage.generated_tokens == 128


async def test_a_cancelled_request_leaves_the_batch(tmp_path: Path) -> None:
    network = random_model(context=10**6)
    with torch.no_grad():
        network.lm_head.weight[5] = 0.0  # the end is never the likeliest token
    model = HuggingFace(save(network, make_tokenizer(), tmp_path), device="cpu", batch=1)
    await model.start()
    greedy = Sampling(temperature=0, max_tokens=10**6)
    endless = asyncio.create_task(model.generate(ask(sampling=greedy, max_tokens=900_000)))
    await asyncio.sleep(0.3)
    assert not endless.done()
    endless.cancel()
    reply = await asyncio.wait_for(model.generate(ask(max_tokens=3)), 20)
    assert reply.usage.generated_tokens <= 3
    await model.aclose()


def test_a_program_that_ends_in_the_middle_of_a_message_ends_as_it_wants(llama: Path) -> None:
    program = f"""
import asyncio, sys
from testbed.models import Request, make_model

async def main():
    model = make_model("hf:{llama}", {{"device": "cpu"}})
    await model.start()
    asks = [Request([{{"role": "user", "content": str(n)}}], max_tokens=400, stream=n) for n in range(200)]
    tasks = [asyncio.create_task(model.generate(ask)) for ask in asks]
    await asyncio.sleep(0.05)
    sys.exit(7)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 7, ended.stderr


async def test_a_tokenizer_that_does_not_fit_the_model_is_an_error(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["unheard-of"])
    path = save(random_model(), tokenizer, tmp_path)
    with pytest.raises(ModelError, match="do they match"):
        await reply_of(path, ask("unheard-of"))


async def test_half_precision_runs(llama: Path) -> None:
    reply = await reply_of(llama, ask(max_tokens=5), dtype="bfloat16")
    assert 1 <= reply.usage.generated_tokens <= 5


async def test_closing_the_model_lets_nobody_wait_for_ever(llama: Path) -> None:
    model = HuggingFace(llama, device="cpu", batch=2)
    await model.start()
    pending = [asyncio.create_task(model.generate(ask(stream=n, max_tokens=400))) for n in range(6)]
    await asyncio.sleep(0)
    await model.aclose()
    ended = await asyncio.wait_for(asyncio.gather(*pending, return_exceptions=True), 20)
    assert all(isinstance(end, ModelUnavailable | Reply) for end in ended)
    assert any(isinstance(end, ModelUnavailable) for end in ended)


async def test_more_requests_than_slots_are_all_served(llama: Path) -> None:
    model = HuggingFace(llama, device="cpu", batch=3)
    replies = await asyncio.gather(*(model.generate(ask(f"{n}", stream=n, max_tokens=5)) for n in range(20)))
    assert len(replies) == 20
    await model.aclose()


async def test_a_failing_request_fails_alone_in_time(tmp_path: Path) -> None:
    broken = random_model()
    with torch.no_grad():
        broken.lm_head.weight[0] = float("nan")
    model = HuggingFace(save(broken, make_tokenizer(), tmp_path), device="cpu")
    for _ in range(2):  # the thread lives on
        with pytest.raises(ModelError, match="not finite"):
            await asyncio.wait_for(model.generate(ask()), 20)
    await model.aclose()


def test_one_model_serves_several_event_loops_in_turn(llama: Path) -> None:
    model = HuggingFace(llama, device="cpu")
    texts = [asyncio.run(model.generate(ask(max_tokens=5, stream=1))).text for _ in range(2)]
    assert texts[0] == texts[1]
    asyncio.run(model.aclose())


@pytest.mark.parametrize("raised", ["host", "device"])
def test_running_out_of_memory_is_the_infrastructures(raised: str) -> None:
    error: Exception = torch.OutOfMemoryError("CUDA out of memory.")
    if raised == "host":
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 60)
        error = caught.value
    assert isinstance(_out_of_memory(error), ModelUnavailable)
    assert _out_of_memory(RuntimeError("shapes differ")) is None


# -- counting and rendering -----------------------------------------------------------------------------------------


def test_counting_adds_no_tokens_and_is_quick(llama: Path) -> None:
    model = HuggingFace(llama, device="cpu")
    text = "a passage of some length, such as a tool returns. " * 4
    assert model.count("") == 0
    assert model.count(text) == len(model.codec.encode(text))
    best = min(_timed(lambda: model.count(text)) for _ in range(20))
    assert best < 1e-3


def _timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def codec(template: str | None, system: str | None = None) -> TextCodec:
    return TextCodec(make_tokenizer(template), [5], system, "tiny")


CONVERSATION = [("user", "Q"), ("assistant", "C"), ("tool", "R"), ("user", "N")]
REFUSES = "{{ raise_exception('no such role') }}"
NO_TOOLS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}"
    + REFUSES
    + "{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
)
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    + REFUSES
    + "{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
)
OTHER_CALLS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}reply with bare JSON" + NO_TOOLS


def test_a_template_with_a_section_for_tools_gets_them_there() -> None:
    text = codec(TEMPLATE).render([("user", "Q")], [TOOL])
    assert codec(TEMPLATE).rendering.tools == "template"
    assert text.count('"lookup"') == 1
    assert text.startswith("<|system|>tools:")
    assert ANSWER_INSTRUCTION in text


@pytest.mark.parametrize("template", [NO_TOOLS, OTHER_CALLS], ids=["no section", "another way of calling"])
def test_other_templates_get_tools_in_the_system_text(template: str) -> None:
    text = codec(template).render([("user", "Q")], [TOOL])
    assert codec(template).rendering.tools == "protocol"
    assert text.count('"lookup"') == 1
    assert text.index("<tool_call>") < text.index("<|user|>")


def test_a_template_without_system_messages_gets_the_text_before_the_first_user_message() -> None:
    made = codec(NO_SYSTEM)
    assert made.rendering.system == "user"
    assert made.render([("user", "Q")], []) == f"<|user|>{ANSWER_INSTRUCTION}\n\nQ"


def test_a_template_that_insists_on_turns_gets_results_as_user_messages() -> None:
    made = codec(ALTERNATES)
    assert made.rendering.results == "user"
    text = made.render(CONVERSATION, [])
    assert text.endswith("<|assistant|>C<|user|><tool_result>R</tool_result>\nN<|assistant|>")


def test_a_tokenizer_without_a_template_gets_plain_turns() -> None:
    made = codec(None)
    text = made.render(CONVERSATION, [TOOL])
    assert made.rendering.turns == "plain"
    assert [text.index(part) for part in ("lookup", "User: Q", "Assistant: C", "Tool: R", "User: N")] == sorted(
        text.index(part) for part in ("lookup", "User: Q", "Assistant: C", "Tool: R", "User: N")
    )
    assert text.endswith("Assistant:")


@pytest.mark.parametrize("template", [TEMPLATE, NO_TOOLS, NO_SYSTEM, ALTERNATES, None])
def test_the_prompt_stands_in_every_rendering_word_for_word(template: str | None) -> None:
    prompt = "Ünïcode, <b>tags</b> & {{ braces }}\n  indented"
    for tools in ([], [TOOL]):
        assert prompt in codec(template).render([("user", prompt)], tools)


@pytest.mark.parametrize("template", [TEMPLATE, NO_TOOLS, NO_SYSTEM])
def test_an_empty_system_text_says_nothing_but_the_tools(template: str) -> None:
    assert ANSWER_INSTRUCTION not in codec(template, "").render([("user", "Q")], [TOOL])
    assert codec(template, "").render([("user", "Q")], []).startswith("<|user|>Q")


def test_a_system_text_takes_the_place_of_the_instruction() -> None:
    text = codec(NO_TOOLS, "Be brief.").render([("user", "Q")], [TOOL])
    assert "Be brief." in text
    assert ANSWER_INSTRUCTION not in text
    assert "<tool_call>" in text


def test_a_conversation_that_the_template_refuses_is_an_error_that_says_why() -> None:
    made = codec(ALTERNATES)
    with pytest.raises(ModelError, match=r"template of tiny refuses.*no such role"):
        made.prompt(
            [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}] * 2
            + [{"role": "assistant", "content": "B"}],
            (),
        )


# -- files -----------------------------------------------------------------------------------------


def test_the_fingerprint_is_the_contents_and_not_the_place(llama: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(llama, tmp_path / "elsewhere")
    mine, theirs = HuggingFace(llama, device="cpu").fingerprint(), HuggingFace(copy, device="cpu").fingerprint()
    assert mine == theirs
    assert str(llama) not in json.dumps(mine)
    assert isinstance(HuggingFace(llama, device="cpu"), Model)


def test_everything_that_changes_an_outcome_changes_the_fingerprint(llama: Path, tmp_path: Path) -> None:
    other = shutil.copytree(llama, tmp_path / "other")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    retuned = shutil.copytree(llama, tmp_path / "retuned")
    (retuned / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    retold = shutil.copytree(llama, tmp_path / "retold")
    (retold / "chat_template.jinja").write_text(NO_TOOLS)
    made = [HuggingFace(path, device="cpu") for path in (llama, other, retuned, retold)]
    made += [HuggingFace(llama, device="cpu", system="x"), HuggingFace(llama, device="cpu", dtype="bfloat16")]
    prints = [json.dumps(model.fingerprint(), sort_keys=True) for model in made]
    assert all(a != b for a, b in itertools.combinations(prints, 2))


async def test_end_tokens_are_those_of_every_file(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    path = parrot(tmp_path, [*tokenizer.encode("yes"), 7, 8, 9], tokenizer)
    (path / "generation_config.json").write_text('{"eos_token_id": [7]}')
    reply = await reply_of(path, ask())
    assert (reply.finish, reply.usage.generated_tokens) == ("stop", len(tokenizer.encode("yes")) + 1)


@pytest.mark.parametrize("name", ["./no/such/place", "/no/such/place", "no/such/deep/place"])
def test_a_directory_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=r"no model directory.*such") as caught:
        make_model(f"hf:{name}")
    assert caught.value.exit_code == 2


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        HuggingFace(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no weights"):
        HuggingFace(tmp_path)


def truncate(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])


def scramble(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"not a model at all" * 100)


def forget_layer(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1" not in k}, path / "model.safetensors", {"format": "pt"})


def unknown_architecture(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "nosuch"}))


def broken_config(path: Path) -> None:
    (path / "config.json").write_text("{")


def broken_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").write_text('{"version": "1.0"}')


def no_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [truncate, scramble, forget_layer, unknown_architecture, broken_config, broken_tokenizer, no_tokenizer],
)
async def test_damaged_files_are_an_error_that_names_the_place(
    llama: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = shutil.copytree(llama, tmp_path / "damaged")
    damage(path)
    with pytest.raises(ModelError, match="damaged"):
        await reply_of(path, ask())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float23"}, UnknownName, "Did you mean 'float32'"),
        ({"batch": 0}, UsageError, "batch must be"),
        ({"threads": 1.5}, UsageError, "threads must be"),
    ],
)
def test_bad_options_are_refused(llama: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HuggingFace(llama, **options)


async def test_a_device_that_is_not_there_is_named(llama: Path) -> None:
    with pytest.raises(UsageError, match="device 'cuda:77' was asked for"):
        await reply_of_device(llama, "cuda:77")
    with pytest.raises(UnknownName, match="Did you mean 'cpu'"):
        await reply_of_device(llama, "cpuu")


async def reply_of_device(path: Path, device: str) -> None:
    await HuggingFace(path, device=device).start()


@has_reference
def test_the_reference_model_is_found_in_the_package() -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in reference_path().iterdir()}
