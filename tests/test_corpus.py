from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.corpus import NO_RESULTS, Corpus, Document, passages, read_jsonl
from testbed.errors import DataError


def write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "docs.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def test_documents_are_in_order_of_id_whatever_the_order_given() -> None:
    corpus = Corpus.of([("b", "two"), ("a", "one")])
    assert [d.id for d in corpus.documents] == ["a", "b"]
    assert corpus == Corpus.of([("a", "one"), ("b", "two")])
    assert len(corpus) == 2


@pytest.mark.parametrize(
    "other",
    [
        [Document("a", "one!"), Document("b", "two")],
        [Document("a", "one"), Document("c", "two")],
        [Document("a", "one", "title"), Document("b", "two")],
        [Document("a", "one")],
        [Document("a", 'one"]\n["b","","two')],
    ],
)
def test_hash_changes_with_any_content(other: list[Document]) -> None:
    assert Corpus.of(other).hash != Corpus.of([("a", "one"), ("b", "two")]).hash


def test_hash_is_the_same_in_every_release() -> None:
    assert Corpus.of([("a", "one"), ("b", "zwei äöü")]).hash == "c307e96ca42863e0f7dfe0545a849930"


def test_read_takes_the_field_names_in_use(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"_id": "x", "contents": "first", "title": "T"}',
        "",
        '\ufeff{"id": 7, "text": "second", "title": null}',
    )
    assert Corpus.read(path).documents == (Document("7", "second"), Document("x", "first", "T"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{broken", "docs.jsonl:2: not JSON"),
        ("[1]", "docs.jsonl:2: list instead of an object"),
        (b'{"id": "b", "text": "\xff"}', "docs.jsonl:2: not UTF-8"),
        ('{"id": "b", "txt": "x"}', "docs.jsonl:2: there is no 'text'"),
        ('{"text": "x", "ident": 3}', "docs.jsonl:2: there is no 'id'"),
        ('{"id": "b", "text": ["x"]}', "docs.jsonl:2: 'text' \\(or 'contents'\\) must be text"),
        ('{"id": "b", "text": " \\n"}', "docs.jsonl:2: document 'b' is empty"),
        ('{"id": "", "text": "x"}', "docs.jsonl:2: the id ''"),
        ('{"id": "b\\nc", "text": "x"}', "docs.jsonl:2: the id"),
        ('{"id": "b\\n", "text": "x"}', "docs.jsonl:2: the id 'b.n' has outer blanks"),
        ('{"id": " b", "text": "x"}', "docs.jsonl:2: the id ' b' has outer blanks"),
        ('{"id": "\\u001b[31mb", "text": "x"}', "docs.jsonl:2: the id .* control characters"),
        ('{"id": "b\\u0000c", "text": "x"}', "docs.jsonl:2: the id .* control characters"),
        ('{"id": "b", "text": "x", "title": ["q"]}', "docs.jsonl:2: 'title' must be text"),
        ('{"id": "b", "text": "x", "title": {}}', "docs.jsonl:2: 'title' must be text"),
        ('{"id": "b", "text": "x", "n": ' + "9" * 5000 + "}", "docs.jsonl:2: not JSON"),
        ('{"id": "a", "text": "x"}', "docs.jsonl:2: id 'a' is taken by .*docs.jsonl:1"),
        ('{"id": "b", "text": "\\ud800"}', "docs.jsonl:2: .* half a surrogate pair"),
        ("[" * 100_000, "docs.jsonl:2: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str | bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Corpus.read(write(tmp_path, '{"id": "a", "text": "one"}', line))


def test_a_missing_field_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'texts'"):
        Corpus.read(write(tmp_path, '{"id": "b", "texts": "x"}'))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: No such file"):
        Corpus.read("nowhere.jsonl")


def test_a_folder_without_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no corpus"):
        Corpus.read(tmp_path)


def test_read_jsonl_numbers_lines_of_the_file(tmp_path: Path) -> None:
    assert list(read_jsonl(write(tmp_path, "", '{"a": 1}', "  ", "{}"))) == [(2, {"a": 1}), (4, {})]


def test_passages_stay_on_one_line_each() -> None:
    shown = passages([Document("a", "one\n two\u2028three\r\n"), Document("b", "four", "The\nTitle")])
    assert shown == "[a] one two three\n[b] The Title: four"
    assert passages([]) == NO_RESULTS


text = st.text(min_size=1).filter(lambda s: s == s.strip() and s.isprintable())


@given(st.dictionaries(text, text, min_size=1, max_size=8))
def test_what_was_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, documents: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("corpus") / "docs.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in documents.items()), encoding="utf-8")
    assert Corpus.read(path) == Corpus.of(documents.items())


def test_reads_the_hotpot_passages(data_dir: Path) -> None:
    corpus = Corpus.read(data_dir / "hotpot100" / "corpus.jsonl")
    assert len(corpus) == 1_000
    assert corpus.documents[0].line.startswith(
        "[d0000] Constantin Medien: Constantin Medien AG (formerly EM.Entertainment"
    )
