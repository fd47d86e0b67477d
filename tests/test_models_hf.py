"""Attempts of local models: stops, limits, company, failures."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_models import TOOL, ask, has_reference, make_tokenizer, parrot, random_model, reply_of, save
from testbed.errors import ContextFull, ModelError, ModelUnavailable
from testbed.experiment_file import parse_experiment
from testbed.models import Reply, Request, Sampling, make_model
from testbed.models.hf import HuggingFace
from testbed.models.hf_memory import out_of_memory
from testbed.protocol import ANSWER_INSTRUCTION, parse
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import Message


@pytest.fixture
async def tiny(llama: Path) -> AsyncIterator[HuggingFace]:
    model = HuggingFace(llama, device="cpu", system="")
    yield model
    await model.aclose()


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
@pytest.mark.parametrize("prompts", [2, 16])
async def test_an_attempt_of_several_turns_is_the_same_in_any_company_and_after_a_resume(prompts: int) -> None:
    """Of two prompts, the attempts share what they read of them; of sixteen, each has a copy."""
    model, later = make_model("reference"), make_model("reference")

    async def attempt(number: int) -> list[Message]:
        said: list[Message] = [
            {"role": "user", "content": f"What is {123 + number % prompts}*{77 * (number % prompts)}?"}
        ]
        written = 0
        for _ in range(3):
            reply = await model.generate(Request(said, [TOOL], stream=number, max_tokens=40, position=written))
            written += reply.usage.generated_tokens
            said = [*said, {"role": "assistant", "content": reply.text}, {"role": "tool", "content": f"{number}"}]
            lengths[number, len(said)] = written
        return said

    lengths: dict[tuple[int, int], int] = {}
    alone = [await attempt(number) for number in range(24)]
    for size in (8, 24):
        batches = [range(at, at + size) for at in range(0, 24, size)]
        assert [a for batch in batches for a in await asyncio.gather(*map(attempt, batch))] == alone
    order = random.Random(0).sample(range(24), 24)
    assert dict(zip(order, await asyncio.gather(*map(attempt, order)), strict=True)) == dict(enumerate(alone))
    # A process that goes on in the middle of an attempt has read none of what stands before.
    for number in range(0, 24, 5):
        request = Request(alone[number][:5], [TOOL], stream=number, max_tokens=40, position=lengths[number, 5])
        assert (await later.generate(request)).text == alone[number][5]["content"]
    await asyncio.gather(model.aclose(), later.aclose())


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


async def test_a_tool_call_of_100_kilobytes_is_read_and_the_next_turn_says_that_it_does_not_fit(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    begin, end = '<tool_call>{"name": "f", "arguments": {"q": "', '"}}</tool_call>'
    tokenizer.add_tokens([begin, "y" * 5000])
    long = [len(tokenizer) - 2, *[len(tokenizer) - 1] * 20, *tokenizer.encode(end)]
    model = HuggingFace(parrot(tmp_path, long, tokenizer), device="cpu")
    reply = await model.generate(ask(max_tokens=120))
    assert reply.usage.generated_tokens == len(long)
    assert len(parse(reply.text).calls[0].arguments["q"]) == 100_000
    result = "z" * 100_000
    said: list[Message] = [
        *ask().messages,
        {"role": "assistant", "content": reply.text},
        {"role": "tool", "content": result},
    ]
    with pytest.raises(ContextFull, match="takes 128"):
        await model.generate(Request(said, position=len(long)))
    await model.aclose()


async def test_a_model_that_never_stops_is_stopped_at_its_limit_and_takes_nobody_along(tmp_path: Path) -> None:
    network = random_model(context=4096)
    with torch.no_grad():
        network.lm_head.weight[5] = 0.0
    model = HuggingFace(save(network, make_tokenizer(), tmp_path), device="cpu", batch=2)
    greedy = Sampling(temperature=0)
    endless = [model.generate(ask(sampling=greedy, max_tokens=600, stream=n)) for n in range(2)]
    short = [model.generate(ask(sampling=greedy, max_tokens=5, stream=n)) for n in range(2, 6)]
    replies = await asyncio.wait_for(asyncio.gather(*endless, *short), 60)
    assert [(reply.usage.generated_tokens, reply.finish) for reply in replies] == [(600, "length")] * 2 + [
        (5, "length")
    ] * 4
    await model.aclose()


async def test_seconds_are_wall_time_and_shares_add_up_to_no_more_than_it(tiny: HuggingFace) -> None:
    await tiny.start()
    begun = time.monotonic()
    replies = await asyncio.gather(*(tiny.generate(ask(f"{n}", stream=n, max_tokens=5 * n + 1)) for n in range(12)))
    passed = time.monotonic() - begun
    assert all(0 < reply.usage.share < reply.usage.seconds <= passed for reply in replies)
    assert sum(reply.usage.share for reply in replies) <= passed
    assert sum(reply.usage.seconds for reply in replies) > passed


async def test_pieces_that_are_no_utf8_become_replacement_characters(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    broken = tokenizer.encode("é")[:1] * 3
    reply = await reply_of(parrot(tmp_path, [*broken, 5], tokenizer), ask())
    assert set(reply.text) == {"\ufffd"}
    reply.text.encode("utf-8")


async def test_a_prompt_that_fills_the_context_is_refused_by_its_length(tmp_path: Path) -> None:
    path = save(random_model(context=64), make_tokenizer(), tmp_path)
    with pytest.raises(ContextFull, match=r"has \d{3} tokens.* takes 64 .* a longer context\.$"):
        await reply_of(path, ask("abc " * 100))
    asked = ask("abc " * 100)
    told = [*asked.messages, {"role": "assistant", "content": "?"}, {"role": "tool", "name": "t", "content": "abc"}]
    with pytest.raises(ContextFull, match=r"where tools said much, limit that"):
        await reply_of(path, replace(asked, messages=told))


async def test_a_reply_ends_where_the_context_does(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    path = parrot(tmp_path, tokenizer.encode("a"), tokenizer)  # 128 positions
    reply = await reply_of(path, ask(max_tokens=10_000))
    assert reply.finish == "context"
    assert reply.usage.prompt_tokens + reply.usage.generated_tokens == 128
    short = await reply_of(path, ask(max_tokens=2))
    assert (short.finish, short.usage.generated_tokens) == ("length", 2)


def test_an_attempt_whose_only_message_the_context_cut_says_so(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    path = parrot(tmp_path, tokenizer.encode("a"), tokenizer)  # 128 positions, and it never ends
    data = {
        "name": "cut",
        "samples": 1,
        "model": {"id": f"hf:{path}", "device": "cpu", "system": "", "max_tokens": 512},
        "env": [{"id": "Addition-v0", "digits": 2, "tasks": 1}],
        "arm": [{"name": "bare"}],
        "budget": {"turns": 1},
    }
    with Store.open(tmp_path / "s.sqlite") as store:
        asyncio.run(Runner(parse_experiment(data), store).run())
        (attempt,) = store.attempts("cut")
    assert attempt.ended == "limit:context"
    assert attempt.cost.prompt_tokens + attempt.cost.generated_tokens == 128
    assert "context was full" in attempt.transcript[-1]["content"]


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
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 7, ended.stderr


async def test_a_tokenizer_that_does_not_fit_the_model_is_an_error(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["unheard-of"])
    path = save(random_model(), tokenizer, tmp_path)
    with pytest.raises(ModelError, match="do they match"):
        await reply_of(path, ask("unheard-of"))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
async def test_positions_that_follow_the_longest_text_of_a_batch_are_refused_where_they_would(
    tmp_path: Path, kind: str
) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {"original_max_position_embeddings": 100, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    network = random_model(context=256)
    config = type(network.config)(**(network.config.to_dict() | {"rope_parameters": rope}))
    path = save(type(network)(config), make_tokenizer(), tmp_path)
    if kind == "longrope":
        with pytest.raises(ModelError, match=r"more than 100 tokens.*context = 100 "):
            await reply_of(path, ask(max_tokens=5))
        with pytest.raises(ContextFull, match=r"takes 100 .* Use a model with a longer context\.$"):  # no more is taken
            await reply_of(path, ask("abc " * 100), context=100)
    # Within its own context, a model of the other kind never changes them.
    reply = await reply_of(path, ask(max_tokens=5), **({"context": 100} if kind == "longrope" else {}))
    assert 1 <= reply.usage.generated_tokens <= 5


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
    assert isinstance(out_of_memory(error), ModelUnavailable)
    assert out_of_memory(RuntimeError("shapes differ")) is None
