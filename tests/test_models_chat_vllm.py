"""Chat models against vLLM with the reference model, beside the same weights in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.served_model import write_model
from helpers.served_vllm import NAME, needs_vllm, served_vllm
from helpers.tiny_models import has_reference
from testbed.errors import ContextFull
from testbed.experiment_file import parse_experiment
from testbed.models import Request, Sampling, make_model
from testbed.models.chat import Chat
from testbed.protocol import parse
from testbed.runner import Runner
from testbed.scoring import Scoring
from testbed.store import Store
from testbed.types import Message

pytestmark = [needs_vllm, has_reference, pytest.mark.slow]

WHOLE = {"skip_special_tokens": False}  # the reference model's tags are special tokens
PYTHON = {"type": "function", "function": {"name": "python", "description": "", "parameters": {"type": "object"}}}
QUESTION: Message = {"role": "user", "content": "What is 4821*9377?"}
SAID: list[Message] = [
    {"role": "user", "content": "é🙂 What is 12*34? é🙂"},
    {"role": "assistant", "content": "abc 🙂fed <answer>3</answer>"},
    {"role": "user", "content": "🙂 dcab x"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("vllm") / "reference")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with served_vllm(folder, folder.with_name("log"), "--max-model-len", "1024", *tools) as url:
        yield url


@pytest.fixture
async def here() -> AsyncIterator[Any]:
    model = make_model("reference")
    yield model
    await model.aclose()


@asynccontextmanager
async def chat(url: str, **options: Any) -> AsyncIterator[Chat]:
    model = Chat(f"openai:{NAME}", base_url=url, **{"system": "", "extra_body": WHOLE, **options})
    try:
        yield model
    finally:
        await model.aclose()


@pytest.mark.parametrize("stated", [False, True])
async def test_it_gives_the_figures_of_teacher_forcing_also_of_characters_of_several_tokens(
    server: str, folder: Path, here: Any, stated: bool
) -> None:
    options = {"tokenizer": str(folder)} if stated else {}
    async with chat(server, native=False, **options) as there:
        found, expected = [await model.score(SAID, [], [2, 0, 1]) for model in (there, here)]
    for theirs, ours in zip(found, expected, strict=True):
        assert theirs.message == ours.message
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4)


async def test_the_model_calls_a_tool_natively_and_answers_with_what_it_said(server: str, here: Any) -> None:
    greedy: dict[str, Any] = {"sampling": Sampling(temperature=0.0, max_tokens=64), "max_tokens": 64}
    messages = [QUESTION]
    async with chat(server) as there:
        for _ in range(2):
            theirs, ours = [await model.generate(Request(messages, [PYTHON], **greedy)) for model in (there, here)]
            assert (parse(theirs.text).calls, parse(theirs.text).answer) == (
                parse(ours.text).calls,
                parse(ours.text).answer,
            )
            said: Message = {"role": "assistant", "content": theirs.text}
            messages = [*messages, said, {"role": "tool", "name": "python", "content": "45206517\n"}]
    assert parse(theirs.text).answer == "45206517"


async def test_logprobs_of_what_was_written_are_the_models(server: str, here: Any) -> None:
    async with chat(server, native=False) as there:
        reply = await there.generate(Request([QUESTION], max_tokens=64, stream=5, logprobs=True))
    said: Message = {"role": "assistant", "content": reply.text}
    (score,) = await here.score([QUESTION, said], [], [1])
    assert reply.finish == "stop"
    assert parse(reply.text).answer is not None
    assert reply.logprobs == pytest.approx(score.logprobs, abs=1e-4)


async def test_limits_seeds_and_a_full_context(server: str) -> None:
    async with chat(server, native=False) as model:
        one, again, other = [
            await model.generate(Request([QUESTION], max_tokens=3, stream=stream)) for stream in (1, 1, 7)
        ]
        with pytest.raises(ContextFull, match="maximum context length"):
            await model.generate(Request([{"role": "user", "content": "ab " * 1800}], max_tokens=4))
    assert one.text == again.text != other.text
    assert [reply.usage.generated_tokens for reply in (one, other)] == [3, 3]
    assert one.finish == "length"


async def test_a_run_against_it_is_scored_whole(server: str, folder: Path, tmp_path: Path) -> None:
    options = {"base_url": server, "system": "", "extra_body": WHOLE, "tokenizer": str(folder)}
    experiment = parse_experiment(
        {
            "name": "vllm",
            "samples": 2,
            "model": {"id": f"chat:openai:{NAME}", "max_tokens": 48, "native": False, **options},
            "env": [{"id": "Multiplication-v0", "tasks": 2}],
            "arm": [{"name": "bare"}, {"name": "sums", "tools": ["calculator"]}],
            "budget": {"turns": 2},
        }
    )
    with Store.open(tmp_path / "s.sqlite") as store:
        await Runner(experiment, store).run()
        scored = await Scoring(store, "vllm").run()
    assert [(arm.arm, arm.done, arm.total, dict(arm.left_out)) for arm in scored] == [
        ("bare", 4, 4, {}),
        ("sums", 4, 4, {}),
    ]
