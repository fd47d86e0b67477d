"""BM25 over documents, in memory or in a folder that is memory-mapped: tantivy, English stop words and stemming."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from testbed.corpus import Corpus, Document, StoredCorpus
from testbed.edges import Foreign
from testbed.errors import DataError, InfrastructureError, TestbedError

ANALYSER = "simple+lower+fold+stop:en+stem:en/1"
QUERY_CHARS = 20_000  # longer queries are cut: no question is that long, and a megabyte of words would take seconds
QUERY_TERMS = 256
_TOKENIZER = "testbed_en"
_FAILED = "the search index failed; `testbed corpus verify` says whether it is damaged"
_MEMORY, _ON_DISK = 50_000_000, 800_000_000  # bytes that postings may take before they become a segment


def engine() -> str:
    """The engine and the format of its files: BM25's details are its own."""
    import tantivy

    version: str = tantivy.__version__
    return version


class LexicalIndex:
    """An index; reading it is safe from any thread. Make one by `of` or, in a folder, by `write`.

    Args:
        index: a tantivy index with `_schema`'s fields.
        ranks: a document's place in order of id by its number in the index; None where these are the same.
    """

    def __init__(self, index: Any, ranks: Sequence[int] | None = None) -> None:
        import tantivy

        self._tantivy = tantivy
        self._analyser = analyser()
        index.register_tokenizer(_TOKENIZER, self._analyser)
        self._schema = index.schema
        self._ranks = ranks
        index.reload()
        self._searcher = index.searcher()
        self.size: int = self._searcher.num_docs
        # The engine orders equal scores by where it stored them, which in a single segment is the order of ids.
        self._in_order = ranks is None and self._searcher.num_segments <= 1

    @classmethod
    def of(cls, corpus: Corpus) -> LexicalIndex:
        """The index of a corpus: that of a stored one, else built in memory, a second per 100,000 documents."""
        import tantivy

        if isinstance(corpus, StoredCorpus):
            stored: LexicalIndex = corpus.index
            return stored
        index = tantivy.Index(_schema())
        _add(index, corpus.documents, 0, _MEMORY)
        return cls(index)

    @classmethod
    def open(cls, folder: Path, ranks: Sequence[int] | None = None) -> LexicalIndex:
        """The index that `write` made in a folder, memory-mapped; it outlives the removal of its files.

        It is read through links elsewhere: the engine puts a lock beside what it opens, and a corpus is not the
        reader's to write into.

        Raises:
            DataError: the engine that is installed cannot read it.
        """
        import tantivy

        with (
            _guarded(DataError, f"the index in {folder} cannot be opened, build the corpus again"),
            _scratch() as links,
        ):
            files = [file for file in folder.resolve().iterdir() if file.suffix != ".lock"]
            for file in files:
                (links / file.name).symlink_to(file)
            found = cls(tantivy.Index.open(str(links)), ranks)
            for file in files:  # the engine takes some that it does not find for empty, and fails at a query
                file.stat()
            return found

    def words(self, text: str) -> list[str]:
        """The different words of a text as they are indexed: folded, without stop words, stemmed."""
        sound = text[:QUERY_CHARS].encode("utf-8", "replace").decode()
        return list(dict.fromkeys(self._analyser.analyze(sound)))[:QUERY_TERMS]

    def best(self, words: Iterable[str], k: int) -> list[tuple[int, float]]:
        """The k best documents as (place in order of id, score): by score, equal scores by place.

        Raises:
            InfrastructureError: the engine failed, as it does over files that were damaged since they were opened.
        """
        k = min(k, self.size)
        with _guarded(InfrastructureError, _FAILED):
            query = self._query(words)
            return [] if query is None or k < 1 else self._best(query, k)

    def _best(self, query: Any, k: int) -> list[tuple[int, float]]:
        limit = k if self._in_order else k + 8
        while True:
            hits = self._searcher.search(query, limit=limit, count=False).hits
            # Elsewhere, see all that tie with the k-th before the cut.
            if self._in_order or len(hits) < limit or limit >= self.size or hits[-1][0] < hits[k - 1][0]:
                break
            limit *= 4
        numbers = self._searcher.fast_field_values("at", [address for _, address in hits])
        places = numbers if self._ranks is None else [int(self._ranks[number]) for number in numbers]
        if max(places, default=0) >= self.size:
            raise ValueError("it names a document that does not exist")
        ranked = sorted(zip(places, (score for score, _ in hits), strict=True), key=lambda hit: (-hit[1], hit[0]))
        return ranked[:k]

    def fragment(self, words: Iterable[str], text: str, characters: int) -> str:
        """The part of a text, at most so many characters, with the most and rarest of the words; its start if none.

        Raises:
            InfrastructureError: the engine failed.
        """
        with _guarded(InfrastructureError, _FAILED):
            query = self._query(words)
            if query is not None:
                generator = self._tantivy.SnippetGenerator.create(self._searcher, query, self._schema, "content")
                generator.set_max_num_chars(characters)
                row = self._tantivy.Document()
                row.add_text("content", text)
                found: str = generator.snippet_from_doc(row).fragment()
                if found:
                    return found
        return text[:characters]

    def _query(self, words: Iterable[str]) -> Any:
        """Any of the words, made of terms rather than parsed, so that no word is an operator; None without words."""
        t = self._tantivy
        terms = [(t.Occur.Should, t.Query.term_query(self._schema, "content", word, "freq")) for word in words]
        return t.Query.boolean_query(terms) if terms else None


def write(folder: Path, documents: Iterable[Document], first: int = 0) -> None:
    """Indexes documents in a folder, under the numbers from `first` on; with 0 the folder must hold no index yet.

    Raises:
        DataError: it cannot be written.
    """
    import tantivy

    with _guarded(DataError, f"the index in {folder} cannot be written"):
        _add(tantivy.Index(_schema(), path=str(folder), reuse=first > 0), documents, first, _ON_DISK)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder, also where the engine's watching thread puts its lock there once more in the meantime."""
    folder = Path(tempfile.mkdtemp(prefix="testbed-index-"))
    try:
        yield folder
    finally:
        for _ in range(100):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break


def _guarded(kind: type[TestbedError], what: str) -> Foreign:
    """Raises an error of ours for one of the engine's: its panics are no `Exception`."""

    def told(error: BaseException) -> BaseException:
        engines = isinstance(error, ValueError | OSError | LookupError | RuntimeError)
        return kind(f"{what}: {error}.") if engines or type(error).__name__ == "PanicException" else error

    return Foreign(told, BaseException)


def _add(index: Any, documents: Iterable[Document], first: int, memory: int) -> None:
    import tantivy

    index.register_tokenizer(_TOKENIZER, analyser())
    writer = index.writer(memory, num_threads=1)  # one thread: the same segments in every run
    for number, document in enumerate(documents, first):
        row = tantivy.Document()
        row.add_text("content", document.content)
        row.add_unsigned("at", number)
        writer.add_document(row)
    writer.commit()
    writer.wait_merging_threads()


def _schema() -> Any:
    import tantivy

    schema = tantivy.SchemaBuilder()
    schema.add_text_field("content", tokenizer_name=_TOKENIZER, index_option="freq")
    schema.add_unsigned_field("at", fast=True)
    return schema.build()


def analyser() -> Any:
    """What makes words of a text, see `ANALYSER`: its method `analyze` gives them in order."""
    import tantivy

    english = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (
        tantivy.Filter.remove_long(100),
        tantivy.Filter.lowercase(),
        tantivy.Filter.ascii_fold(),
        tantivy.Filter.stopword("english"),
        tantivy.Filter.stemmer("english"),
    ):
        english = english.filter(step)
    return english.build()
