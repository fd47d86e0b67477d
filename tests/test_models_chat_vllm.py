"""Chat models against vLLM with the reference model, beside the same weights in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.asked_elsewhere import QUESTION, chat, check_figures, check_native_call, check_run
from helpers.served_model import write_model
from helpers.served_vllm import needs_vllm, served_vllm
from helpers.tiny_models import has_reference
from testbed.errors import ContextFull
from testbed.models import Request, make_model
from testbed.protocol import parse
from testbed.types import Message

pytestmark = [needs_vllm, has_reference, pytest.mark.slow]


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


@pytest.mark.parametrize("stated", [False, True])
async def test_it_gives_the_figures_of_teacher_forcing_also_of_characters_of_several_tokens(
    server: str, folder: Path, here: Any, stated: bool
) -> None:
    options = {"tokenizer": str(folder)} if stated else {}
    async with chat(server, native=False, **options) as there:
        await check_figures(there, here)


async def test_the_model_calls_a_tool_natively_and_answers_with_what_it_said(server: str, here: Any) -> None:
    async with chat(server) as there:
        await check_native_call(there, here)


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
    await check_run(server, folder, tmp_path / "s.sqlite")
