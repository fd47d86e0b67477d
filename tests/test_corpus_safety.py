"""What building must not touch, what damage must not become, and who may read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed import corpus_store, lexical
from testbed.budget import Budget, Meter
from testbed.cli import app
from testbed.corpus import Corpus, Document
from testbed.corpus_build import build
from testbed.corpus_folder import FOLDER, MARK
from testbed.corpus_store import DOCUMENTS, LEXICAL, MANIFEST, open_corpus, read_corpus, verify
from testbed.errors import DataError, InfrastructureError, UsageError
from testbed.lexical import LexicalIndex
from testbed.registry import make_corpus, make_tool
from testbed.tool import ToolSet
from testbed.types import ToolCall


def made(count: int, text: str = "grey stone") -> Iterator[tuple[str, Document]]:
    return ((f"document {n}", Document(f"d{n:03}", f"{text} number {n}")) for n in range(count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(made(30), tmp_path / "c")
    return tmp_path / "c"


def data_of(folder: Path) -> Path:
    return folder / str(json.loads((folder / MANIFEST).read_bytes())["data"])


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def as_built_by_an_earlier_version(folder: Path) -> Path:
    """Renames the data to what they used to be called, without the mark and with the lock that readers left."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    former = folder / "data-x1y2z3"
    (folder / manifest["data"]).rename(former)
    (former / MARK).unlink()
    (former / LEXICAL / ".tantivy-meta.lock").touch()
    (folder / MANIFEST).write_text(json.dumps({**manifest, "data": former.name}))
    return former


@pytest.mark.parametrize("name", ["data-mine", ".build-mine", "data-x.csv", "corpus.json", ".lock"])
@pytest.mark.parametrize("beside", [False, True])
def test_no_file_of_others_is_touched_whatever_its_name(tmp_path: Path, name: str, beside: bool) -> None:
    out = tmp_path / "c"
    if beside:
        if name in (MANIFEST, ".lock"):
            pytest.skip("a corpus has these itself")
        build(made(3), out)
    mine = out / name / "thesis.tex" if name.endswith("mine") else out / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("[1, 2]")
    before = sorted(out.rglob("*"))
    with pytest.raises(DataError, match=f"holds other files, such as {name}"):
        build(made(5), out)
    assert mine.read_text() == "[1, 2]"
    assert sorted(out.rglob("*")) == before


def test_a_file_of_the_manifests_name_beside_an_empty_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"{FOLDER}mine").mkdir()
    (tmp_path / MANIFEST).write_text("[1, 2]")
    with pytest.raises(DataError, match="other files"):
        build(made(5), tmp_path)
    assert (tmp_path / MANIFEST).read_text() == "[1, 2]"


def test_a_link_to_a_marked_folder_is_not_followed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other").mkdir()
    (folder / f"{FOLDER}link").symlink_to(data_of(folder))
    with pytest.raises(DataError, match="other files"):
        build(made(5), folder)
    assert verify(folder) == []


@pytest.mark.parametrize(
    ("source", "out"),
    [("c/x.jsonl", "c"), ("c/deep/x.jsonl", "c"), ("notes", "notes"), ("notes", "notes/c"), ("notes/deep", "notes")],
)
def test_a_corpus_and_its_source_lie_apart(tmp_path: Path, source: str, out: str) -> None:
    place = tmp_path / source
    (place.parent if place.suffix else place).mkdir(parents=True)
    (place if place.suffix else place / "a.txt").write_text('{"id": "a", "text": "b"}')
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["corpus", "build", str(place), str(tmp_path / out)])
    assert isinstance(done.exception, UsageError)
    assert "lie within one another" in str(done.exception)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_corpus_of_an_earlier_version_opens_and_is_renewed(folder: Path) -> None:
    former = as_built_by_an_earlier_version(folder)
    assert verify(folder) == []
    assert LexicalIndex.of(open_corpus(folder)).size == 30
    (former / "thesis.tex").write_text("mine")
    assert build(made(31), folder).indexed == 1
    assert verify(folder) == []
    assert [p.name for p in former.rglob("*")] == ["thesis.tex"]
    shutil.rmtree(former)
    assert build(made(32), folder).indexed == 1


def test_of_an_earlier_version_only_what_it_listed_is_removed(folder: Path) -> None:
    former = as_built_by_an_earlier_version(folder)
    build(made(31, "salt"), folder)
    assert not former.exists()
    assert sorted(p.name for p in folder.iterdir()) == sorted([data_of(folder).name, ".lock", MANIFEST])


@pytest.mark.parametrize("change", [{"data": "../mine"}, {"data": "/etc"}, {"data": ""}, {"files": {"../x": [1, ""]}}])
def test_a_manifest_cannot_lead_elsewhere(folder: Path, change: dict[str, object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **change}))
    with pytest.raises(DataError, match="does not describe a corpus"):
        open_corpus(folder)


def test_a_full_disk_is_named_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("testbed.corpus_build.np.save", full)
    with pytest.raises(DataError, match=rf"cannot build a corpus in {tmp_path}/c.*: No space left on device"):
        build(made(5), tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("at", [0, 30, -1])
def test_a_changed_text_is_never_used_with_or_without_a_hash(folder: Path, at: int) -> None:
    sound = read_corpus(folder).hash
    flip(data_of(folder) / DOCUMENTS, at)
    sources: list[object] = [str(folder), {"path": str(folder)}, {"path": str(folder), "hash": sound}]
    for source in sources:
        with pytest.raises(DataError, match=r"is damaged: .*documents\.jsonl is not what was written"):
            make_corpus(source)
    with pytest.raises(DataError, match="is damaged"):
        Corpus.read(folder)


def test_a_text_that_changed_within_the_clocks_tick_is_seen(folder: Path) -> None:
    file = data_of(folder) / DOCUMENTS
    for _ in range(4):
        read_corpus(folder)
        before = file.stat()
        flip(file, 30)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(DataError, match="is damaged"):
            read_corpus(folder)
        flip(file, 30)


def test_a_corpus_that_stays_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_store, "_TICK", -1.0)
    read = []
    of = corpus_store.file_fingerprint
    monkeypatch.setattr(corpus_store, "file_fingerprint", lambda file: (read.append(file), of(file))[1])
    for _ in range(3):
        read_corpus(folder)
    assert len(read) == len(json.loads((folder / MANIFEST).read_bytes())["files"])


def test_a_changed_index_is_never_used_and_never_inherited(folder: Path) -> None:
    for file in sorted((data_of(folder) / LEXICAL).iterdir()):
        if file.stat().st_size and file.suffix in (".idx", ".term", ".fieldnorm"):
            flip(file, file.stat().st_size // 2)
            with pytest.raises(DataError, match="is damaged"):
                read_corpus(folder)
    assert build(made(31), folder).indexed == 31
    assert verify(folder) == []


def test_building_again_repairs(folder: Path) -> None:
    flip(data_of(folder) / DOCUMENTS, 0)
    assert build(made(30), folder).indexed == 30
    assert verify(folder) == []


@pytest.mark.parametrize("row", [b"", b"[", b"[]", b'["a", "b"]', b'["a", null, "c"]', b"\xff", b"{}", b"[" * 10_000])
def test_a_broken_line_says_that_the_corpus_is_damaged(row: bytes) -> None:
    with pytest.raises(DataError, match=r"documents\.jsonl is damaged"):
        corpus_store.parse_row(row)


def test_info_of_a_damaged_corpus_is_an_error_and_ids_cannot_command_a_terminal(tmp_path: Path, folder: Path) -> None:
    flip(data_of(folder) / DOCUMENTS, 0)
    done = CliRunner().invoke(app, ["corpus", "info", str(folder)])
    assert isinstance(done.exception, DataError)
    build([("f:1", Document("a", "\x1b]0;mine\x07 text\u202e"))], tmp_path / "e")
    shown = CliRunner().invoke(app, ["corpus", "info", str(tmp_path / "e")]).stdout
    assert "first      [a] \\x1b]0;mine\\x07 text\\u202e" in shown


async def test_damage_during_a_run_is_never_the_models_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):  # as the engine's binding raises it
        pass

    def panic(*_: object, **__: object) -> None:
        raise PanicException("range end index out of range")

    tools = ToolSet([make_tool("search", corpus=str(folder)), make_tool("open", corpus=str(folder))])
    await tools.start()
    flip(data_of(folder) / DOCUMENTS, 0)
    box = tools.open(Meter(Budget()), len)
    with pytest.raises(DataError, match="is damaged"):
        await box.call(ToolCall("open", {"id": "d000"}))
    for raised in (panic, lambda *_: (_ for _ in ()).throw(ValueError("corrupt"))):
        monkeypatch.setattr(lexical.LexicalIndex, "_best", raised)
        with pytest.raises(InfrastructureError, match="search index failed"):
            await box.call(ToolCall("search", {"query": "stone"}))
    await tools.aclose()


def test_reading_writes_nothing(folder: Path) -> None:
    """So neither a read-only mount nor another owner stops a reader."""
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert make_tool("search", corpus=str(folder)).invoke({"query": "stone"}).startswith("[d000]")
    assert verify(folder) == []
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_may_read() -> None:
    code = (
        "import os, sys, tempfile\n"
        "from testbed.corpus_store import read_corpus\n"
        "from testbed.lexical import LexicalIndex\n"
        "os.chdir(sys.argv[1]); os.setuid(65534)\n"
        "print(LexicalIndex.of(read_corpus('c')).size)"
    )
    with tempfile.TemporaryDirectory() as place:  # pytest's own are for nobody else
        Path(place).chmod(0o755)
        build(made(30), Path(place, "c"))
        for path in (Path(place, "c"), *Path(place, "c").rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("30\n", "")


def test_whoever_reads_while_a_corpus_is_renewed_sees_one_or_the_other(folder: Path) -> None:
    wrong: list[BaseException] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                assert make_tool("search", corpus=str(folder)).invoke({"query": "number 7"}).startswith("[d007]")
            except BaseException as error:  # noqa: BLE001 (reported below)
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(6):
        build(made(30 + n % 7), folder)
    over.set()
    reader.join()
    assert wrong == []
