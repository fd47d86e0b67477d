from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from testbed import corpus_sources
from testbed.corpus import Document
from testbed.corpus_sources import read_documents
from testbed.errors import DataError, UnknownName

JSONL = '{"id": "a", "text": "one", "title": "T"}\n{"_id": "b", "contents": "two"}\n'
CSV = 'id,title,text\na,T,"one, with\na break"\nb,,two\n'
TREC = """<DOC>
<DOCNO> a </DOCNO>
<HEADLINE>A &amp; B</HEADLINE>
<TEXT>
one <P>two</P> 3 < 4
</TEXT>
</DOC>
<doc><docno>b</docno><text>three</text></doc>
"""


def read(path: Path, form: str = "") -> list[Document]:
    return [document for _, document in read_documents(path, form)]


def test_jsonl(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(JSONL)
    assert read(tmp_path / "x.jsonl") == [Document("a", "one", "T"), Document("b", "two")]


def test_csv_with_line_breaks_in_fields(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(CSV)
    assert read(tmp_path / "x.csv") == [Document("a", "one, with\na break", "T"), Document("b", "two")]


def test_tsv_and_other_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("doc_id\tabstract\na\tone, two\n")
    assert read(tmp_path / "x.tsv") == [Document("a", "one, two")]


def test_trec(tmp_path: Path) -> None:
    (tmp_path / "x.trec").write_text(TREC)
    assert read(tmp_path / "x.trec") == [Document("a", "one two 3 < 4", "A & B"), Document("b", "three")]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<![CDATA[in <b> & ]] it]]> x", "in <b> & ]] it x"),
        ("<script>a</script> b <style>c", "a b c"),
        ("<textarea>a <plaintext>b", "a b"),
        ("a <![foo x", "a <![foo x"),
        ("a <!foo> b <? c > d", "a <!foo> b <? c > d"),
        ("a <!-- b --> c", "a  c"),
    ],
)
def test_trec_is_no_html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, text: str, chunk: int) -> None:
    monkeypatch.setattr(corpus_sources, "_CHUNK", chunk)
    (tmp_path / "x.trec").write_text(
        f"<!DOCTYPE trec>\n<DOC><DOCNO>a</DOCNO>{body}\n</DOC><DOC><DOCNO>b</DOCNO>end</DOC>"
    )
    assert read(tmp_path / "x.trec") == [Document("a", text), Document("b", "end")]


def test_trec_documents_across_chunks(tmp_path: Path) -> None:
    (tmp_path / "x.sgml").write_text(TREC + "".join(f"<DOC><DOCNO>c{n}</DOCNO>word{n}</DOC>\n" for n in range(60_000)))
    documents = read(tmp_path / "x.sgml")
    assert len(documents) == 60_002
    assert all(document == Document(f"c{n}", f"word{n}") for n, document in enumerate(documents[2:]))


@pytest.mark.parametrize(("name", "content"), [("x.jsonl", JSONL), ("x.csv", CSV), ("x.trec", TREC)])
def test_gzipped_files_and_unknown_endings(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "x.data").write_text(content)
    assert read(tmp_path / f"{name}.gz") == read(tmp_path / name) == read(tmp_path / "x.data", name.split(".")[1])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.jsonl", b"{broken", "x.jsonl:1: not JSON"),
        ("x.csv", b"id,title\na,b\n", "x.csv:1: no column 'text'"),
        ("x.csv", b"ident,text\na,b\n", "x.csv:1: no column 'id'.*Did you mean 'ident'"),
        ("x.csv", b"id,text\na,b\nc\n", "x.csv:3: 2 fields"),
        ("x.csv", b"id,text\na,b,c\n", "x.csv:2: 2 fields"),
        ("x.csv", b'id,text\na,"b\n', "x.csv:2: not CSV"),
        ("x.csv", b"id,text\na,\xff\n", "x.csv: not UTF-8"),
        ("x.csv.gz", b"garbage", "cannot read .*x.csv.gz"),
        ("x.csv.gz", gzip.compress(b"id,text\na,b\n" * 99, mtime=0)[:-12], "cannot read .*x.csv.gz"),
        ("x.trec", b"<DOC>\n<DOCNO>a</DOCNO> text", "x.trec:1: this <DOC> is not closed"),
        ("x.trec", b"\n<DOC><DOCNO>a</DOCNO> text\n<DOC>", "x.trec:3: <DOC> within the <DOC> of line 2"),
        ("x.trec", b"<DOC>\xff</DOC>", "x.trec: not UTF-8"),
        ("x.trec", b"<DOC><DOCNO>a</DOCNO>\n<DOCNO>b</DOCNO>x</DOC>", "x.trec:2: a second <DOCNO> .* of line 1"),
        ("x.csv", b"id,text,text\na,b,c\n", "x.csv:1: 2 columns are named 'text'"),
        ("x.csv", b"id,text,title,title\na,b,c,d\n", "x.csv:1: 2 columns are named 'title'"),
        ("x.data", b"a", "add --format with one of jsonl, csv, tsv, trec"),
    ],
)
def test_malformed_files_are_named_with_the_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        read(tmp_path / name)


def test_missing_files_and_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "x").write_text("")
    with pytest.raises(UnknownName, match="Did you mean 'jsonl'"):
        read(tmp_path / "x", "jsnl")


def test_a_folder_of_text_and_markdown(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.txt").write_text("hidden")
    (tmp_path / "b.txt").write_text("\ufeffplain\ntext\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "deep" / "a.md").write_text(
        "# The *title*\n\nSome [link](http://x.org) and `code`\non two lines.\n\n## Part\n\n- item\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nx = 1\n```\n"
    )
    assert read(tmp_path) == [
        Document("b.txt", "plain\ntext\n"),
        Document(
            "deep/a.md", "Some link and code on two lines.\n\nPart\n\nitem\n\na\n\nb\n\n1\n\n2\n\nx = 1", "The title"
        ),
    ]


def test_a_folder_names_the_file_that_is_broken(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"b\.txt: not UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_folder_with_what_is_no_file_is_refused_at_once(tmp_path: Path, hidden: bool) -> None:
    os.mkfifo(tmp_path / (".x.txt" if hidden else "x.txt"))
    (tmp_path / "y.txt").write_text("text")
    if hidden:
        assert len(read(tmp_path)) == 1
    else:
        with pytest.raises(DataError, match=r"x\.txt: not a regular file"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["link", "link.txt"])
def test_a_folder_with_links_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "secret.txt").write_text("not in the folder")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")
    (tmp_path / "in" / name).symlink_to(tmp_path / ("elsewhere" if name == "link" else "secret.txt"))
    with pytest.raises(DataError, match=f"{name}: a link"):
        read(tmp_path / "in")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("text")
    listed = os.scandir

    def refuse(place: Any) -> Any:  # tests may run as root, whom no mode stops
        if str(place).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read .*deep: Permission denied"):
        read(tmp_path)


def pdf(text: str) -> bytes:
    """A PDF of one page, written by hand."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return content + b"xref\n0 5\n0000000000 65535 f \n%strailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(content),
    )


def test_pdf_files(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="the extra pdf is not installed")
    (tmp_path / "a.pdf").write_bytes(pdf("The capital of Draistor is Vexi."))
    assert read(tmp_path) == [Document("a.pdf", "The capital of Draistor is Vexi.")]


@pytest.mark.parametrize(
    ("content", "says"),
    [(pdf(""), "hold no text"), (b"%PDF-1.4 cut", "not a readable PDF"), (b"", "not a readable PDF")],
)
def test_pdf_files_without_text_or_damaged(tmp_path: Path, content: bytes, says: str) -> None:
    pytest.importorskip("pypdf", reason="the extra pdf is not installed")
    (tmp_path / "a.pdf").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.pdf: .*{says}"):
        read(tmp_path)


def test_pdf_files_that_need_another_package_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pypdf = pytest.importorskip("pypdf", reason="the extra pdf is not installed")
    from pypdf.errors import DependencyError

    def refuse(*_: object) -> None:
        raise DependencyError("cryptography>=3.1 is required for AES algorithm")

    monkeypatch.setattr(pypdf, "PdfReader", refuse)
    (tmp_path / "a.pdf").write_bytes(pdf("x"))
    with pytest.raises(DataError, match=r"a\.pdf: it is encrypted, and cryptography>=3.1 is required"):
        read(tmp_path)
