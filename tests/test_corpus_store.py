from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.processes import talking
from testbed import registry
from testbed.corpus import Corpus, Document
from testbed.corpus_build import build
from testbed.corpus_store import MANIFEST, open_corpus, verify
from testbed.errors import DataError, UnknownName
from testbed.lexical import LexicalIndex
from testbed.tools.search import Search

WORDS = [a + b for a in ("stone", "river", "moss", "grey", "salt") for b in ("", "gate", "land")] + ["iron", "candle"]


def made(count: int, seed: int = 0) -> list[Document]:
    draw = random.Random(seed)
    documents = [
        Document(f"d{n:05}", " ".join(draw.choices(WORDS, k=draw.randint(3, 30))), draw.choice(["", "Title"]))
        for n in range(count)
    ]
    draw.shuffle(documents)
    return documents


def placed(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    return ((f"document {n}", document) for n, document in enumerate(documents, 1))


def answers(corpus: Corpus) -> list[list[tuple[int, float]]]:
    index = LexicalIndex.of(corpus)
    return [index.best(index.words(f"{a} {b} title"), 20) for a in WORDS for b in WORDS[:3]]


def test_a_stored_corpus_is_the_same_corpus_and_answers_alike(tmp_path: Path) -> None:
    documents = made(500)
    stored = build(placed(documents), tmp_path / "c").corpus
    loose = Corpus.of(documents)
    assert stored.hash == loose.hash
    assert tuple(stored.documents) == loose.documents
    assert stored.documents[-1] == loose.documents[-1]
    assert stored.documents[3:9:2] == loose.documents[3:9:2]
    assert answers(stored) == answers(loose)
    assert Search(corpus=stored).fingerprint() == Search(corpus=loose).fingerprint()
    assert Search(corpus=stored)._run("iron candle") == Search(corpus=loose)._run("iron candle")


def test_places_beyond_the_end_are_refused(tmp_path: Path) -> None:
    stored = build(placed(made(3)), tmp_path / "c").corpus
    for at in (3, -4):
        with pytest.raises(IndexError):
            stored.documents[at]


@settings(max_examples=20, deadline=None)
@given(split=st.integers(1, 199), seed=st.integers(0, 3))
def test_added_documents_give_what_a_fresh_build_gives(
    tmp_path_factory: pytest.TempPathFactory, split: int, seed: int
) -> None:
    folder, documents = tmp_path_factory.mktemp("grown") / "c", made(200, seed)
    build(placed(documents[:split]), folder)
    grown = build(placed(documents), folder)
    assert grown.indexed == 200 - split
    assert verify(folder) == []
    assert grown.corpus.hash == Corpus.of(documents).hash
    assert answers(grown.corpus) == answers(Corpus.of(documents))


def test_it_can_grow_many_times(tmp_path: Path) -> None:
    documents = made(120)
    for end in range(20, 121, 20):
        grown = build(placed(documents[:end]), tmp_path / "c")
        assert grown.indexed == 20
    assert answers(grown.corpus) == answers(Corpus.of(documents))


def test_an_unchanged_source_indexes_nothing_and_changes_no_file(tmp_path: Path) -> None:
    build(placed(made(50)), tmp_path / "c")
    before = sorted((str(p), p.stat().st_mtime_ns) for p in (tmp_path / "c").glob(".build-*/*"))
    assert build(placed(made(50)[::-1]), tmp_path / "c").indexed == 0
    assert sorted((str(p), p.stat().st_mtime_ns) for p in (tmp_path / "c").glob(".build-*/*")) == before


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_a_corpus_that_lost_a_document_is_indexed_afresh(tmp_path: Path, change: str) -> None:
    documents = made(50)
    build(placed(documents), tmp_path / "c")
    now = documents[1:] if change == "gone" else [Document(documents[0].id, "salt", ""), *documents[1:]]
    renewed = build(placed(now), tmp_path / "c")
    assert renewed.indexed == len(now)
    assert answers(renewed.corpus) == answers(Corpus.of(now))


def test_a_reader_of_the_old_corpus_goes_on_while_it_is_renewed(tmp_path: Path) -> None:
    old = Search(corpus=build(placed(made(60)), tmp_path / "c").corpus)
    before = old._run("iron candle")
    build(placed(made(60, seed=9)), tmp_path / "c")
    assert old._run("iron candle") == before


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([("f:1", Document("a", "x")), ("f:2", Document("a", "y"))], "f:2: id 'a' is taken"),
        ([("f:1", Document("a", " \n"))], "f:1: document 'a' is empty"),
        ([("f:1", Document("a\nb", "x"))], "f:1: the id"),
        ([("f:1", Document("a", "\ud800"))], "f:1: .*surrogate"),
        ([], "no documents"),
    ],
)
def test_bad_documents_are_refused_and_what_was_there_stays(
    tmp_path: Path, entries: list[tuple[str, Document]], says: str
) -> None:
    build(placed(made(5)), tmp_path / "old")
    for folder in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(DataError, match=says):
            build(iter(entries), folder)
    assert tuple(open_corpus(tmp_path / "old").documents) == Corpus.of(made(5)).documents
    assert len(list((tmp_path / "old").glob(".build-*"))) == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match=r"other files, such as thesis\.tex"):
        build(placed(made(5)), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_builders_do_not_meet(tmp_path: Path) -> None:
    def entries() -> Iterator[tuple[str, Document]]:
        with pytest.raises(DataError, match="another build is under way"):
            build(placed(made(5)), tmp_path / "c")
        yield from placed(made(5))

    assert len(build(entries(), tmp_path / "c").corpus) == 5


KILLED = """
import sys
from testbed.corpus import Document
from testbed.corpus_build import build
def entries():
    n = 0
    while True:
        n += 1
        yield "x", Document(f"k{n}", "killed while building")
        if n == 2000: print("going", flush=True)
build(entries(), sys.argv[1])
"""


@pytest.mark.parametrize("there", [False, True])
def test_a_killed_build_leaves_what_was_there(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "c"
    if there:
        build(placed(made(5)), folder)
    with talking([sys.executable, "-c", KILLED, str(folder)]) as (process, _):
        process.kill()
    if there:
        assert verify(folder) == []
    else:
        with pytest.raises(DataError, match="build did not end"):
            open_corpus(folder)
    assert build(placed(made(7)), folder).indexed == (2 if there else 7)
    assert len(list(folder.glob(".build-*"))) == 1


def test_another_hash_than_expected_is_refused(tmp_path: Path) -> None:
    corpus = build(placed(made(5)), tmp_path / "c").corpus
    assert open_corpus(tmp_path / "c", corpus.hash).hash == corpus.hash
    for wanted in (open_corpus, verify):
        with pytest.raises(DataError, match=f"has the hash {corpus.hash}, not 0123"):
            wanted(tmp_path / "c", "0123")


def test_an_experiment_may_name_the_folder_and_the_hash(tmp_path: Path) -> None:
    corpus = build(placed(made(5)), tmp_path / "c").corpus
    where = str(tmp_path / "c")
    assert registry.make_corpus(where).hash == corpus.hash
    assert registry.make_corpus({"path": where, "hash": corpus.hash}).hash == corpus.hash
    with pytest.raises(DataError, match="not the one that was asked for"):
        registry.make_corpus({"path": where, "hash": "00"})
    with pytest.raises(UnknownName, match="Did you mean 'hash'"):
        registry.make_corpus({"path": where, "hsh": "00"})


def test_every_damage_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    build(placed(made(30)), folder)
    assert verify(folder) == []
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        file = folder / manifest["data"] / name
        content = file.read_bytes()
        if not content:
            continue
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert any(name in problem for problem in verify(folder)), name
        file.write_bytes(content[:-1])
        with pytest.raises(DataError, match="damaged"):
            open_corpus(folder)
        file.unlink()
        assert verify(folder)
        file.write_bytes(content)
    assert verify(folder) == []


def test_a_changed_hash_in_the_manifest_is_found(tmp_path: Path) -> None:
    build(placed(made(30)), tmp_path / "c")
    file = tmp_path / "c" / MANIFEST
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "hash": "0" * 32}))
    assert "has not the hash" in verify(tmp_path / "c")[0]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 99, "hash": "", "data": "", "files": {}, "documents": 1}']
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    build(placed(made(5)), tmp_path / "c")
    (tmp_path / "c" / MANIFEST).write_text(content)
    with pytest.raises(DataError, match="Build it again"):
        open_corpus(tmp_path / "c")
    assert build(placed(made(5)), tmp_path / "c").indexed == 5


def test_a_file_in_place_of_a_corpus_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "towns.jsonl").write_text('{"id": "a", "text": "b"}')
    with pytest.raises(DataError, match=r"towns\.jsonl is a file, not a corpus that was built from one"):
        open_corpus(tmp_path / "towns.jsonl")


def test_ties_are_in_order_of_id_also_where_documents_came_later(tmp_path: Path) -> None:
    same = [Document(f"{n:03}", "the same words") for n in range(100)]
    build(placed(same[50:]), tmp_path / "c")
    search = Search(corpus=build(placed(same), tmp_path / "c").corpus, k=4)
    assert [line[1:4] for line in search._run("same words").splitlines()] == ["000", "001", "002", "003"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot build a corpus in"):
        build(placed(made(5)), tmp_path / "file" / "c")


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    build(placed(made(1500)), tmp_path / "c", lambda *what: told.append(what))
    assert told == [
        ("reading", 1000, None),
        ("reading", 1500, 1500),
        ("indexing", 0, 1500),
        ("indexing", 1000, 1500),
        ("indexing", 1500, 1500),
    ]


def test_opening_does_not_depend_on_the_size(tmp_path: Path) -> None:
    build(placed(made(20_000)), tmp_path / "c")
    Search(corpus=open_corpus(tmp_path / "c"))._run("warm")
    started = time.process_time()
    Search(corpus=open_corpus(tmp_path / "c"))._run("iron")
    assert time.process_time() - started < 0.05


def test_many_processes_read_one_index(tmp_path: Path) -> None:
    expected = Search(corpus=build(placed(made(200)), tmp_path / "c").corpus)._run("iron candle")
    code = (
        "import sys; from testbed.corpus import Corpus; from testbed.tools.search import Search\n"
        "sys.stdout.write(Search(corpus=Corpus.read(sys.argv[1]))._run('iron candle'))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "c")], stdout=subprocess.PIPE, env={**os.environ})
        for _ in range(2)
    ]
    assert [process.communicate()[0].decode() for process in running] == [expected] * 2
