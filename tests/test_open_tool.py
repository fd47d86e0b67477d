from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.corpus import Corpus, Document
from testbed.errors import ToolFault, UsageError
from testbed.tools.open import Open

LONG = " ".join(f"word{n}" for n in range(1000))
CORPUS = Corpus.of([Document("a", "Short.\nTwo lines."), Document("b", LONG, "The\ntitle"), Document("c", "Third.")])


@pytest.fixture(scope="module")
def tool() -> Open:
    return Open(corpus=CORPUS)


def test_a_short_document_is_one_page(tool: Open) -> None:
    assert tool._run("a") == "[a]\nShort.\nTwo lines."


def test_a_long_document_says_where_it_goes_on(tool: Open) -> None:
    first = tool._run("b")
    heading, text, more = first.splitlines()
    assert heading == f"[b] The title (characters 0 to 2042 of {len(LONG)})"
    assert text == LONG[:2042].strip()
    assert more == "(next page: offset 2042)"


@given(text=st.text(alphabet="ab \n漢", min_size=1, max_size=300).filter(str.strip), tokens=st.integers(1, 20))
def test_pages_together_are_the_document(text: str, tokens: int) -> None:
    tool, offset, read = Open(corpus=Corpus.of([("x", text)]), tokens=tokens), 0, ""
    while True:
        page = tool._run("x", offset)
        more = re.search(r"\n\(next page: offset (\d+)\)$", page)
        end = int(more[1]) if more else len(text)
        assert offset < end <= offset + tokens * 4
        body = page.partition("\n")[2].removesuffix(more[0] if more else "")
        assert body == text[offset:end].strip()
        read, offset = read + text[offset:end], end
        if not more:
            break
    assert read == text


@pytest.mark.parametrize("identity", ["", "A", "aa", "\0", "\ud800", "x" * 100_000])
def test_unknown_documents_are_the_models_fault(tool: Open, identity: str) -> None:
    with pytest.raises(ToolFault, match="there is no document") as caught:
        tool._run(identity)
    assert len(str(caught.value)) < 1000


def test_an_offset_beyond_the_end_is_the_models_fault(tool: Open) -> None:
    with pytest.raises(ToolFault, match="has 17 characters: none at 17"):
        tool._run("a", 17)


def test_the_placebo_shows_a_page_of_another_document(tool: Open) -> None:
    shown = {tool.inert_result({"id": "b", "offset": 4000}, np.random.default_rng(seed))[:3] for seed in range(20)}
    assert shown == {"[a]", "[c]"}
    assert Open(corpus=Corpus.of([("a", "one")])).inert_result({"id": "a"}, np.random.default_rng(0)) == "(empty page)"
    for wrong in ({"id": "zz"}, {"id": "a", "offset": 17}):
        with pytest.raises(ToolFault):
            tool.inert_result(wrong, np.random.default_rng(0))


def test_fingerprint_names_what_can_change_a_result(tool: Open) -> None:
    json.dumps(tool.fingerprint())
    assert tool.fingerprint() == Open(corpus=CORPUS).fingerprint()
    assert tool.fingerprint() != Open(corpus=CORPUS, tokens=9).fingerprint()
    assert tool.fingerprint() != Open(corpus=Corpus.of([("a", "one")])).fingerprint()


def test_a_page_without_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="tokens must be at least 1"):
        Open(corpus=CORPUS, tokens=0)
