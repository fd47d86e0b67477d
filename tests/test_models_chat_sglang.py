"""Chat models against SGLang with the reference model, beside the same weights in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.asked_elsewhere import PYTHON, QUESTION, SAID, WHOLE, chat, check_figures, check_native_call, check_run
from helpers.served_model import write_model
from helpers.served_sglang import needs_sglang, served_sglang
from helpers.tiny_models import has_reference
from testbed.errors import ContextFull, ModelError
from testbed.models import Request, make_model
from testbed.protocol import parse
from testbed.types import Message

pytestmark = [needs_sglang, has_reference, pytest.mark.slow]

SUM: Message = {"role": "user", "content": "What is 12*34?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("sglang") / "reference")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    few = ("--max-running-requests", "3", "--max-queued-requests", "3", "--max-total-tokens", "4096")
    with served_sglang(
        folder, folder.with_name("log"), "--context-length", "1024", "--tool-call-parser", "hermes", *few
    ) as url:
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


async def test_another_chat_template_of_as_many_tokens_is_refused(server: str, folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|assistant|>", "<|tool|>"))
    async with chat(server, native=False, tokenizer=str(other)) as model:
        with pytest.raises(ModelError, match="is not the server's: the server writes"):
            await model.score(SAID, [], [0])


async def test_the_model_calls_a_tool_natively_and_answers_with_what_it_said(server: str, here: Any) -> None:
    async with chat(server) as there:
        await check_native_call(there, here)


@pytest.mark.parametrize(("native", "tools"), [(False, []), (True, []), (True, [PYTHON])])
async def test_logprobs_of_what_was_written_are_the_models(
    server: str, here: Any, native: bool, tools: list[dict[str, Any]]
) -> None:
    async with chat(server, native=native) as there:
        reply = await there.generate(Request([QUESTION], tools, max_tokens=64, stream=5, logprobs=True))
    assert reply.finish == "stop"
    assert len(reply.logprobs or ()) == reply.usage.generated_tokens
    if not tools:
        said: Message = {"role": "assistant", "content": reply.text}
        (score,) = await here.score([QUESTION, said], [], [1])
        assert parse(reply.text).answer is not None
        assert reply.logprobs == pytest.approx(score.logprobs, abs=1e-4)


async def test_limits_and_a_full_context(server: str) -> None:
    async with chat(server, native=False) as model:
        reply = await model.generate(Request([SUM], max_tokens=3))
        for words, limit, said in ((600, 4, "context length"), (333, 48, "maximum context length")):
            with pytest.raises(ContextFull, match=said):
                await model.generate(Request([{"role": "user", "content": "ab " * words}], max_tokens=limit))
        # Though others of its kind were taken, it is about the limit and not about this conversation.
        with pytest.raises(
            ModelError, match=r"supports at most 1024 completion tokens.* lower max_tokens in \[model\]"
        ):
            await model.generate(Request([SUM], max_tokens=2000))
    assert (reply.finish, reply.usage.generated_tokens) == ("length", 3)


async def test_a_conversation_that_is_as_long_as_the_context_is_too_long_to_be_read(server: str) -> None:
    async with chat(server, native=False) as model:
        (score,) = await model.score([SUM, {"role": "user", "content": "ab " * 330}], [], [1])
        assert len(score.logprobs) == 990
        with pytest.raises(ContextFull, match="exceeds the maximum allowed length"):
            await model.score([SUM, {"role": "user", "content": "ab " * 335}], [], [1])


async def test_a_server_with_a_full_queue_is_asked_again(server: str) -> None:
    async with chat(server, extra_body={**WHOLE, "ignore_eos": True}) as model:
        replies = await asyncio.gather(
            *(model.generate(Request([SUM], max_tokens=100, stream=stream)) for stream in range(12))
        )
    assert [reply.finish for reply in replies] == ["length"] * 12
    assert model.refused > 0


async def test_a_run_against_it_is_scored_whole(server: str, folder: Path, tmp_path: Path) -> None:
    await check_run(server, folder, tmp_path / "s.sqlite")
