"""`testbed corpus`: builds corpora for search tools, and says what is in them."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from testbed.corpus_build import Built
    from testbed.corpus_sources import Entries

app = typer.Typer(
    help="Document collections for the tools search, open and retrieve: build one, look into it, check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

CorpusArgument = Annotated[Path, typer.Argument(help="Folder that `testbed corpus build` made.")]
HashOption = Annotated[str, typer.Option("--hash", help="Hash that the corpus must have.")]


@app.command(
    epilog="Example: testbed corpus build documents.jsonl my_corpus    or: testbed corpus build notes/ my_corpus"
)
def build(
    source: Annotated[
        Path,
        typer.Argument(
            help="JSONL, CSV, TSV or TREC file, folder of .txt, .md and .pdf files, or an environment with documents."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the corpus: a new one, or a corpus to renew.")],
    form: Annotated[
        str, typer.Option("--format", help="jsonl, csv, tsv or trec, if the file's ending does not say.")
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="KEY=VALUE: option of the environment; may be given several times."),
    ] = None,
) -> None:
    """Check and index documents; where they were only added to what is there, only these are indexed.

    What is there stays until the new corpus is complete.
    """
    from testbed.corpus_folder import refuse_overlap

    refuse_overlap(source, out)
    built = _build(_documents(source, form, option or []), out)
    corpus = built.corpus
    print(f"{out}: {len(corpus)} documents, {built.indexed} indexed, hash {corpus.hash}")


@app.command(epilog="Example: testbed corpus info my_corpus")
def info(corpus: CorpusArgument, hash: HashOption = "") -> None:
    """Say what a corpus holds, in figures and with its first document."""
    from testbed.corpus_store import open_corpus, read_manifest

    opened, manifest = open_corpus(corpus, hash), read_manifest(corpus)
    size = sum(file[0] for file in manifest["files"].values())
    print(f"documents  {len(opened)}\nhash       {opened.hash}\nbytes      {size}")
    print(f"analyser   {manifest['analyser']}\nengine     {manifest['engine']}")
    print(f"first      {_printable(opened.documents[0].line[:100])}")


@app.command(epilog="Example: testbed corpus verify my_corpus --hash c307e96ca42863e0f7dfe0545a849930")
def verify(corpus: CorpusArgument, hash: HashOption = "") -> None:
    """Read all of a corpus and compare it with its checksums. Exit code 1 if it is damaged."""
    from testbed.corpus_store import read_manifest
    from testbed.corpus_store import verify as problems_of

    problems = problems_of(corpus, hash)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    print(f"{corpus}: {read_manifest(corpus)['documents']} documents as they were written")


def _printable(text: str) -> str:
    """A text without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _documents(source: Path, form: str, options: list[str]) -> Entries:
    """The documents of a file or folder or, where there is none of that name, of an environment.

    Raises:
        UsageError: options are given for a file, or one has another form than KEY=VALUE.
    """
    from testbed.builtin import ENV_ID
    from testbed.corpus_sources import environment_documents, read_documents
    from testbed.errors import UsageError

    name = str(source).removeprefix("testbed/")
    if not source.exists() and ENV_ID.fullmatch(name):
        return environment_documents(name, dict(map(_option, options)))
    if options:
        raise UsageError(f"--option is for environments, such as Facts-v0; {source} is none.")
    return read_documents(source, form)


def _option(text: str) -> tuple[str, Any]:
    """Key and value, the latter as an experiment file has it or, where it is none such, as text."""
    from testbed.errors import UsageError

    key, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f"--option {text!r:.80}: write KEY=VALUE, such as documents=1000.")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _build(documents: Entries, out: Path) -> Built:
    """Builds, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from testbed.corpus_build import build as build_corpus

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("reading", total=None)

        def tell(what: str, done: int, total: int | None) -> None:
            bar.update(row, description=what, completed=done, total=total)

        return build_corpus(documents, out, tell)
