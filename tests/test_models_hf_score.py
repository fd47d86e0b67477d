"""Log-probabilities of what was sampled, and of any text: one number, whichever way it is had."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from helpers.tiny_models import TEMPLATE, ask, countable, decode, has_reference, make_tokenizer, random_model, save
from testbed.errors import ContextFull, ModelError, ModelUnavailable
from testbed.models import Sampling, hf_score, make_model
from testbed.models.base import Scorer
from testbed.models.hf import HuggingFace
from testbed.models.hf_decode import Row
from testbed.models.hf_sample import logprobs_of
from testbed.models.hf_score import forced, score

CONVERSATION = [
    {"role": "user", "content": "Where is the sea?"},
    {"role": "assistant", "content": '<tool_call>{"name": "lookup", "arguments": {}}</tool_call>'},
    {"role": "tool", "content": "west of the hills, é 漢字 and 🙂"},
    {"role": "assistant", "content": "<answer>west</answer>"},
]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.6}])
def test_sampled_tokens_have_the_log_probabilities_that_teacher_forcing_gives_them(kind, sampling) -> None:
    model = random_model(kind)
    rows = [Row(tuple(range(6, 8 + n)), 3 + 5 * n, stream=n, logprobs=[], **sampling) for n in range(12)]
    decode(model, rows, slots=5)
    forced = score(model, [(*row.prompt, *row.tokens) for row in rows])
    for row, logprobs in zip(rows, forced, strict=True):
        assert len(row.logprobs) == len(row.tokens)
        assert row.logprobs == pytest.approx(logprobs[len(row.prompt) :], abs=1e-4)


def test_rows_that_do_not_want_log_probabilities_have_none() -> None:
    rows = [Row((7, 8), 4, stream=1), Row((7, 8), 4, stream=1, logprobs=[])]
    decode(random_model(), rows)
    assert rows[0].logprobs is None
    assert rows[0].tokens == rows[1].tokens


def test_every_sequence_listed_they_add_up_to_one_and_to_the_product_of_the_steps() -> None:
    model, prompt, vocabulary = countable(3), (1, 2), range(5)
    texts = [(*prompt, *rest) for rest in itertools.product(vocabulary, repeat=3)]
    total = [sum(logprobs[2:]) for logprobs in score(model, texts)]
    assert sum(map(math.exp, total)) == pytest.approx(1.0, abs=1e-5)
    with torch.inference_mode():
        for text, found in zip(texts, total, strict=True):
            steps = [torch.softmax(model(torch.tensor([text[:n]])).logits[0, -1], -1)[text[n]] for n in (2, 3, 4)]
            assert found == pytest.approx(math.log(math.prod(map(float, steps))), abs=1e-4)


def test_logits_are_widened_in_parts_and_what_they_say_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = random_model(), [tuple(range(6, 6 + n)) for n in (1, 2, 7, 30)]
    whole, widest = forced(model, texts, [5, 6]), []

    def noting(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        widest.append(logits.numel())
        return logprobs_of(logits, tokens)

    monkeypatch.setattr(hf_score, "logprobs_of", noting)
    for most in (400, 3 * 400, 1):
        monkeypatch.setattr(hf_score, "_MOST_WIDENED", most)
        assert forced(model, texts, [5, 6]) == whole
    assert max(widest) <= 3 * 400


def test_sequences_are_sampled_as_often_as_their_score_says() -> None:
    model, prompt, n = countable(3), (1, 2), 6000
    rows = [Row(prompt, 2, stream=stream) for stream in range(n)]
    decode(model, rows, slots=512)
    seen = Counter(tuple(row.tokens) for row in rows)
    pairs = list(itertools.product(range(5), repeat=2))
    chances = [math.exp(sum(found[2:])) for found in score(model, [(*prompt, *pair) for pair in pairs])]
    chi = sum((seen[pair] - n * p) ** 2 / (n * p) for pair, p in zip(pairs, chances, strict=True))
    assert chi < 51.2  # .999 of chi-square with 24 degrees of freedom


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_model(), make_tokenizer(), tmp_path_factory.mktemp("llama"))


@pytest.fixture
async def model(path: Path):
    model = HuggingFace(path, device="cpu", system="")
    yield model
    await model.aclose()


async def test_replies_bring_log_probabilities_when_asked_and_the_same_text_either_way(model) -> None:
    with_them, without = [
        await model.generate(ask(max_tokens=9, stream=5, logprobs=wanted)) for wanted in (True, False)
    ]
    assert with_them.text == without.text
    assert without.logprobs is None
    assert len(with_them.logprobs) == with_them.usage.generated_tokens
    assert all(value <= 0 for value in with_them.logprobs)


async def test_temperature_zero_still_brings_the_models_own_log_probabilities(model) -> None:
    reply = await model.generate(ask(max_tokens=6, sampling=Sampling(temperature=0), logprobs=True))
    assert all(-10 < value < 0 for value in reply.logprobs)


async def test_messages_are_scored_by_their_own_tokens_given_all_before_them(model) -> None:
    await model.start()
    assert isinstance(model, Scorer)
    found = await model.score(CONVERSATION, (), [2, 1])
    tokens, spans = model.codec.spans(CONVERSATION, (), [2, 1])
    assert [each.message for each in found] == [2, 1]
    for each, span in zip(found, spans, strict=True):
        assert model.codec.text([tokens[i] for i in span]) == CONVERSATION[each.message]["content"]
        assert len(each.logprobs) == len(span)
        assert each.nats == pytest.approx(-sum(each.logprobs))
    before = await model.score(CONVERSATION[:3], (), [2])
    assert found[0].nats == pytest.approx(before[0].nats, abs=1e-4)  # what comes later changes nothing


@pytest.mark.parametrize("content", ["", " ", "a", "<|end|>", "zq7sentinel", "a\nb\n", "  leading", "trailing  "])
async def test_any_content_is_found_even_empty_or_like_the_markup(model, content) -> None:
    conversation = [CONVERSATION[0], {"role": "tool", "content": content}, CONVERSATION[3]]
    tokens, spans = model.codec.spans(conversation, (), [1])
    shown = model.codec._tokenizer.decode([tokens[i] for i in spans[0]], skip_special_tokens=False)
    assert shown == content


async def test_many_texts_at_once_score_as_each_alone(model) -> None:
    conversations = [[{"role": "user", "content": "word " * n}, CONVERSATION[3]] for n in range(1, 30)]
    together = await asyncio.gather(*(model.score(c, (), [1]) for c in conversations))
    for conversation, found in zip(conversations, together, strict=True):
        alone = await model.score(conversation, (), [1])
        assert found[0].nats == pytest.approx(alone[0].nats, abs=1e-4)


async def test_scoring_beside_writing_changes_no_text(model) -> None:
    requests = [ask(max_tokens=30, stream=n) for n in range(8)]
    alone = [(await model.generate(request)).text for request in requests]
    beside = asyncio.gather(*(model.score(CONVERSATION, (), [2]) for _ in range(20)))
    assert [reply.text for reply in await asyncio.gather(*map(model.generate, requests))] == alone
    assert len({round(found[0].nats, 3) for found in await beside}) == 1


@pytest.mark.parametrize(
    "template",
    [
        None,
        TEMPLATE,
        TEMPLATE.replace("tool", "instrument"),  # no section for tools, results as user messages where refused
        "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no') }}{% endif %}"
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
    ],
)
async def test_every_rendering_tells_whose_tokens_are_whose(tmp_path, template) -> None:
    model = HuggingFace(save(random_model(), make_tokenizer(template), tmp_path), device="cpu")
    tokens, spans = model.codec.spans(CONVERSATION, (), [0, 2])
    for n, span in zip((0, 2), spans, strict=True):
        assert CONVERSATION[n]["content"] in model.codec._tokenizer.decode([tokens[i] for i in span])


@pytest.mark.parametrize("content", ["\n two words \n", "words\n", " words", " "])
async def test_blanks_that_a_template_takes_off_are_nobodys(tmp_path, content) -> None:
    template = TEMPLATE.replace("{{ message.content }}", "{{ message.content | trim }}")
    model = HuggingFace(save(random_model(), make_tokenizer(template), tmp_path), device="cpu")
    tokens, spans = model.codec.spans([CONVERSATION[0], {"role": "tool", "content": content}], (), [1])
    assert model.codec._tokenizer.decode([tokens[i] for i in spans[0]]) == content.strip()


async def test_a_template_that_rewrites_messages_is_an_error(tmp_path) -> None:
    template = TEMPLATE.replace("{{ message.content }}", "{{ message.content | upper }}")
    model = HuggingFace(save(random_model(), make_tokenizer(template), tmp_path), device="cpu")
    with pytest.raises(ModelError, match="word for word"):
        await model.score(CONVERSATION, (), [2])
    await model.aclose()


async def test_a_conversation_beyond_the_context_is_an_error_that_says_how_long_it_is(model) -> None:
    with pytest.raises(ContextFull, match="512"):
        await model.score([{"role": "user", "content": "word " * 600}], (), [0])


async def test_closing_the_model_lets_no_score_wait_for_ever(path) -> None:
    model = HuggingFace(path, device="cpu", system="")
    await model.start()
    waiting = [asyncio.create_task(model.score(CONVERSATION, (), [2])) for _ in range(50)]
    await asyncio.sleep(0)
    await model.aclose()
    for outcome in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10):
        assert isinstance(outcome, list | ModelUnavailable)


@has_reference
async def test_the_reference_model_finds_its_own_style_likelier_than_noise() -> None:
    model = make_model("reference")
    await model.start()
    question = {"role": "user", "content": "What is 12 * 34?"}
    own = await model.generate(ask(question["content"], max_tokens=40, logprobs=True))
    said = await model.score([question, {"role": "assistant", "content": own.text}], (), [1])
    noise = await model.score([question, {"role": "assistant", "content": own.text[::-1]}], (), [1])
    assert said[0].nats < noise[0].nats
    await model.aclose()
