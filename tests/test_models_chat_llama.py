"""Chat models against llama.cpp, by llama-cpp-python's server, beside the same weights in this process."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.served_llama import needs_llama_cpp, served_llama, write_gguf
from helpers.tiny_models import TEMPLATE, has_reference, make_tokenizer, random_model, save
from testbed.errors import ContextFull, ModelError
from testbed.experiment_file import parse_experiment
from testbed.models import Request
from testbed.models.chat import Chat
from testbed.models.hf import HuggingFace
from testbed.models.reference_model import reference_path
from testbed.runner import Runner
from testbed.scoring import Scoring
from testbed.store import Store
from testbed.types import Message

pytestmark = needs_llama_cpp

SAID: list[Message] = [
    {"role": "user", "content": "What is 12*34? é🙂"},
    {"role": "assistant", "content": "abc fed <answer>3</answer>"},
    {"role": "user", "content": "🙂 dcab x"},
]
EXACT = ("--n_ctx", "1024", "--type_k", "0", "--type_v", "0")  # keys and values in float32
WHOLE = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}  # as the model has it, not as the server cuts it


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose conversations begin with a beginning-of-text token."""
    tokenizer = make_tokenizer("{{ bos_token }}" + TEMPLATE)
    tokenizer.bos_token = "<|system|>"
    return save(random_model(context=1024), tokenizer, tmp_path_factory.mktemp("begun"))


@pytest.fixture(scope="module")
def server(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_llama(write_gguf(begun, tmp_path_factory.mktemp("served") / "begun.gguf"), *EXACT) as url:
        yield url


@asynccontextmanager
async def chat(url: str, **options: Any) -> AsyncIterator[Chat]:
    settings = {"system": "", "native": False, "extra_body": WHOLE, **options}
    model = Chat("openai:tiny", base_url=url, **settings)
    try:
        yield model
    finally:
        await model.aclose()


async def test_its_echo_gives_the_figures_of_teacher_forcing(server: str, begun: Path) -> None:
    here = HuggingFace(begun, device="cpu", system="")
    async with chat(server, tokenizer=str(begun)) as there:
        found, expected = [await model.score(SAID, [], [2, 0, 1]) for model in (there, here)]
    await here.aclose()
    for theirs, ours in zip(found, expected, strict=True):
        assert theirs.message == ours.message
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4)
        assert theirs.end == pytest.approx(ours.end, abs=1e-4)


async def test_another_template_of_as_many_tokens_is_refused(server: str, begun: Path, tmp_path: Path) -> None:
    other = shutil.copytree(begun, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    template = other / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("{% if add_generation_prompt %}<|assistant|>", "<|tool|>{% if 0 %}")
    )
    async with chat(server, tokenizer=str(other)) as model:
        with pytest.raises(ModelError, match="is not the server's: after the same conversation"):
            await model.score(SAID, [], [0])


async def test_without_a_tokenizer_and_off_by_one_it_is_refused_by_name(llama: Path, tmp_path: Path) -> None:
    with served_llama(write_gguf(llama, tmp_path / "plain.gguf"), *EXACT) as url:
        async with chat(url) as model:
            with pytest.raises(ModelError, match=r"/apply-template .* 404.*tokenizer = NAME_OR_PATH"):
                await model.score(SAID, [], [0])
        async with chat(url, tokenizer=str(llama)) as model:
            with pytest.raises(ModelError, match="after it was read, not before"):
                await model.score(SAID, [], [0])


async def test_limits_seeds_and_a_full_context(server: str) -> None:
    async with chat(server) as model:
        one, again, other = [
            await model.generate(Request(SAID[:1], max_tokens=12, stream=stream)) for stream in (1, 1, 2)
        ]
        with pytest.raises(ContextFull, match="maximum context length"):
            await model.generate(Request([{"role": "user", "content": "ab " * 800}], max_tokens=4))
    assert one.text == again.text != other.text
    assert all(0 < reply.usage.generated_tokens <= 12 + 3 for reply in (one, other))  # a character is ended


async def test_logprobs_of_what_was_written_are_the_models(server: str, begun: Path) -> None:
    async with chat(server, tokenizer=str(begun)) as model:
        reply = await model.generate(Request(SAID[:1], max_tokens=3, stream=5, logprobs=True))
        said: Message = {"role": "assistant", "content": reply.text}
        (score,) = await model.score([*SAID[:1], said], [], [1])
    assert reply.finish == "length"
    assert reply.logprobs == pytest.approx(score.logprobs, abs=1e-4)


@has_reference
async def test_it_stops_at_the_protocols_tags(tmp_path: Path) -> None:
    with served_llama(write_gguf(reference_path(), tmp_path / "reference.gguf"), *EXACT) as url:
        async with chat(url) as model:
            reply = await model.generate(Request([{"role": "user", "content": "What is 21*37?"}], max_tokens=60))
    assert reply.finish == "stop"
    assert reply.text.startswith("<answer>")
    assert reply.text.endswith("</answer>")


async def test_a_run_against_it_is_scored_whole(server: str, begun: Path, tmp_path: Path) -> None:
    options = {"base_url": server, "native": False, "extra_body": WHOLE, "tokenizer": str(begun)}
    experiment = parse_experiment(
        {
            "name": "llama",
            "samples": 2,
            "model": {"id": "chat:openai:tiny", "max_tokens": 16, **options},
            "env": [{"id": "Multiplication-v0", "tasks": 2}],
            "arm": [{"name": "bare"}, {"name": "sums", "tools": ["calculator"]}],
            "budget": {"turns": 2},
        }
    )
    with Store.open(tmp_path / "s.sqlite") as store:
        await Runner(experiment, store).run()
        scored = await Scoring(store, "llama").run()
    assert [(arm.arm, arm.done, arm.total, dict(arm.left_out)) for arm in scored] == [
        ("bare", 4, 4, {}),
        ("sums", 4, 4, {}),
    ]
