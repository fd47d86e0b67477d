"""Stated tokenizers whose chat templates write on which day it is."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from helpers.openai_process import Server, openai_server
from helpers.served_model import SAID, SAID_OR_CALLED
from testbed.errors import ModelError
from testbed.models.chat import Chat
from testbed.models.chat_tokenizer import StatedTokenizer
from testbed.models.reference_model import reference_path
from testbed.types import Message

TALK: list[Message] = [{"role": "user", "content": "What is 7*9?"}, {"role": "assistant", "content": "63"}]
BODY: dict[str, Any] = {"messages": TALK[:1]}
DATED = "{% if date_string is not defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
OF_2024_ALONE = "{% if strftime_now('%Y') == '2024' %}leap{% endif %}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server() as server:
        yield server


def tokenizer(path: Path, added: str = "") -> str:
    """The reference model's, as its server has it, with something more at the beginning of a conversation."""
    shutil.copytree(reference_path(), path, ignore=shutil.ignore_patterns("*.safetensors"))
    template = path / "chat_template.jinja"
    template.write_text(added + template.read_text().replace(SAID, SAID_OR_CALLED))
    return str(path)


@asynccontextmanager
async def chat(server: Server, name: str, **options: Any) -> AsyncIterator[Chat]:
    model = Chat(f"openai:{name}", base_url=server.url, system="", native=False, **options)
    try:
        yield model
    finally:
        await model.aclose()


def test_a_template_that_writes_the_day_is_known_by_what_it_writes(tmp_path: Path) -> None:
    plain, dated = StatedTokenizer(tokenizer(tmp_path / "plain")), StatedTokenizer(tokenizer(tmp_path / "dated", DATED))
    assert not plain.is_dated(BODY)
    assert dated.is_dated(BODY)
    assert not dated.is_dated({**BODY, "chat_template_kwargs": {"date_string": "26 Jul 2024"}})


def test_all_is_read_on_the_day_on_which_the_tokenizer_was_loaded(tmp_path: Path) -> None:
    dated = StatedTokenizer(tokenizer(tmp_path / "dated", DATED))
    dated._day = datetime(2025, 12, 31, 23, 59, tzinfo=UTC)
    assert dated.render(BODY, go_on=True).startswith("31 Dec 2025<|system|>")


@pytest.mark.parametrize("name", ["reader", "echo"])
async def test_another_day_than_the_servers_is_named_and_can_be_pinned(
    server: Server, tmp_path: Path, name: str
) -> None:
    stated = tokenizer(tmp_path / "dated", DATED)
    async with chat(server, name, tokenizer=stated) as model:
        with pytest.raises(ModelError, match=r"on which day it is, .* pin it .*date_string"):
            await model.score(TALK, [], [1])
    pinned = {"chat_template_kwargs": {"date_string": "26 Jul 2024"}}
    async with chat(server, name, tokenizer=stated, extra_body=pinned) as model:
        assert await model.score(TALK, [], [1])


async def test_a_day_that_changes_while_attempts_are_read_is_named_too(server: Server, tmp_path: Path) -> None:
    stated = tokenizer(tmp_path / "dated", OF_2024_ALONE)  # as on a day when it writes what the server's does
    async with chat(server, "reader", tokenizer=stated) as model:
        assert await model.score(TALK, [], [1])
        assert model._stated is not None
        model._stated._day = datetime(2024, 7, 26, tzinfo=UTC)
        with pytest.raises(ModelError, match=r"the server read .* on which day it is"):
            await model.score(TALK, [], [1])


async def test_of_templates_without_a_day_none_is_spoken(server: Server, tmp_path: Path) -> None:
    async with chat(server, "reader", tokenizer=tokenizer(tmp_path / "other", "more")) as model:
        with pytest.raises(ModelError, match="the server read") as raised:
            await model.score(TALK, [], [1])
    assert "day" not in str(raised.value)


async def test_how_much_of_a_wrong_count_is_the_opening_of_a_reply_is_told(server: Server, tmp_path: Path) -> None:
    folder = Path(tokenizer(tmp_path / "other"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt %}<|end|><|assistant|>{% endif %}")
    async with chat(server, "echo", tokenizer=str(folder)) as model:
        with pytest.raises(
            ModelError, match=r"\d+ tokens with the opening of a reply, not \d+, of which the opening is 3"
        ):
            await model.score(TALK, [], [1])
