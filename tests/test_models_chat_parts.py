"""Characters of several tokens, as a server tells them that writes their parts as bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from helpers.openai_process import Server, openai_server
from helpers.served_model import write_model
from testbed.models import make_model
from testbed.models.chat import Chat
from testbed.models.chat_echo import Echo
from testbed.models.chat_parts import in_characters, is_part, put_together
from testbed.types import Message

ACCENTS: list[Message] = [
    {"role": "user", "content": "é🙂 and what is 7*9🙂"},
    {"role": "assistant", "content": "🙂<answer>63</answer>"},
    {"role": "user", "content": "Go on."},
]
ALIKE: list[Message] = [
    {"role": "user", "content": "What is 7*9?"},
    {"role": "assistant", "content": "Ã© «63» \x9f"},
]
OWN_PART: list[Message] = [  # "Ã" is written as itself, and then its second byte
    {"role": "user", "content": "IRMÃ"},
    {"role": "assistant", "content": "Ã"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server() as server:
        yield server


@pytest.fixture
async def here() -> AsyncIterator[Any]:
    model = make_model("reference")
    yield model
    await model.aclose()


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("messages", [ACCENTS, ALIKE, OWN_PART])
async def test_a_server_that_writes_parts_as_bytes_gives_the_figures_of_teacher_forcing(
    server: Server, here: Any, tmp_path: Path, messages: list[Message], stated: bool
) -> None:
    options = {"tokenizer": str(write_model(tmp_path / "reference"))} if stated else {}
    which = list(range(len(messages)))
    async with aclosing(Chat("openai:echo-bytes", base_url=server.url, system="", native=False, **options)) as there:
        found, expected = [await model.score(messages, [], which) for model in (there, here)]
    for theirs, ours in zip(found, expected, strict=True):
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("told", "texts"),
    [
        (("a", "Ã", "©", "b"), ("a", "", "é", "b")),
        ((" Ã", "©", "Ã", "©!"), (" ", "é", "", "é!")),
        (("ð\x9f", "\x99\x82"), ("", "🙂")),
        (("Ã", "©ð", "\x9f\x99", "\x82"), ("", "é", "", "🙂")),  # a token with parts of two characters
        (("à", " la", " carte"), ("à", " la", " carte")),  # a letter of its own, whose byte begins no character here
        (("«", "é", "»"), ("«", "é", "»")),
        (("Ã©", "x"), ("Ã©", "x")),  # one token: a text
        (("Ã", "€"), ("Ã", "€")),  # no byte
        (("a", "Ã"), ("a", "Ã")),  # the rest is not told
        (("", "Ã", "", "©"), ("", "", "", "é")),
        ((), ()),
    ],
)
def test_parts_that_are_a_character_together_stand_at_its_last_token(
    told: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    assert put_together(told) == texts


def test_letters_that_look_like_parts_are_letters_where_they_were_said() -> None:
    read = Echo(("Ã", "©"), (None, -1.0), (), 2)
    assert in_characters(read, ["Ã©"]).tokens == ("Ã", "©")
    assert in_characters(read, ["é"]).tokens == ("", "é")


def test_parts_are_bytes_of_what_their_tokens_cover() -> None:
    assert is_part("Ã", "é")
    assert is_part("©", "é")
    assert is_part("\x9f\x99", "🙂")
    assert not is_part("Ã", "🙂")
    assert not is_part("", "é")
    assert not is_part("€", "é€")
