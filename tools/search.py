"""Lexical search over a fixed corpus: BM25 through tantivy, with English stemming and stop words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, PrivateAttr, model_validator

from testbed.corpus import Corpus, Document, check_passage_count, passages
from testbed.tool import Tool

ANALYSER = "simple+lower+fold+stop:en+stem:en/1"
QUERY_CHARS = 20_000  # longer queries are cut: no question is that long, and a megabyte of words would take seconds
QUERY_TERMS = 256


class Query(BaseModel):
    """Arguments of the search tools."""

    query: str = Field(description="What to look for, in a few words.")


class Search(Tool):
    """Finds the documents that share the rarest words with a query.

    Queries are words and nothing else: no operator, quotation mark or field name has a meaning, so no query can be
    wrong. Equal scores are ordered by id. The first `QUERY_TERMS` different words of the first `QUERY_CHARS`
    characters count.

    Attributes:
        corpus: what is searched.
        k: passages in a result, at least 1.
    """

    name: str = "search"
    description: str = "Searches a collection of documents by words. Returns the best matching passages, best first."
    args_schema: Any = Query
    corpus: Corpus
    k: int = 3

    _index: _Index | None = PrivateAttr(None)
    _building: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @model_validator(mode="after")
    def _check(self) -> Search:
        check_passage_count(self.k, self.name)
        return self

    def fingerprint(self) -> dict[str, Any]:
        """Corpus, k, analyser, and the engine's version: BM25's details are its own."""
        import tantivy

        return {"corpus": self.corpus.hash, "k": self.k, "analyser": ANALYSER, "engine": tantivy.__version__}

    async def start(self) -> None:
        """Builds the index: a second per 100,000 short documents."""
        await asyncio.to_thread(self._built)

    async def aclose(self) -> None:
        """Frees the index."""
        self._index = None

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """`k` passages that share no word with the query or, where these are rare, are not among its 50 best."""
        documents, index = self.corpus.documents, self._built()
        words = index.words(arguments["query"])
        near = {at for at, _ in index.best(words, 50)}
        chosen: dict[int, None] = {}
        for tries in range(100 * self.k):
            at = int(rng.integers(len(documents)))
            apart = at not in near and (
                tries > 50 * self.k or set(words).isdisjoint(index.words(documents[at].content))
            )
            if apart:
                chosen[at] = None
            if len(chosen) == self.k:
                break
        return passages(documents[at] for at in chosen)

    def _run(self, query: str) -> str:
        index = self._built()
        return passages(self.corpus.documents[at] for at, _ in index.best(index.words(query), self.k))

    def _built(self) -> _Index:
        with self._building:
            if self._index is None:
                self._index = _Index(self.corpus.documents)
            return self._index


class _Index:
    """An index in memory; reading it is safe from any thread.

    Args:
        documents: in order of id; a document's number is its place here.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        import tantivy

        self._tantivy = tantivy
        english = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        for step in (
            tantivy.Filter.remove_long(100),
            tantivy.Filter.lowercase(),
            tantivy.Filter.ascii_fold(),
            tantivy.Filter.stopword("english"),
            tantivy.Filter.stemmer("english"),
        ):
            english = english.filter(step)
        self._analyser = english.build()
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("content", tokenizer_name="testbed_en", index_option="freq")
        schema.add_unsigned_field("at", fast=True)
        self._schema = schema.build()
        index = tantivy.Index(self._schema)
        index.register_tokenizer("testbed_en", self._analyser)
        writer = index.writer(50_000_000, num_threads=1)  # one thread: the same segments in every run
        self.size = 0
        for document in documents:
            row = tantivy.Document()
            row.add_text("content", document.content)
            row.add_unsigned("at", self.size)
            writer.add_document(row)
            self.size += 1
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self._searcher = index.searcher()

    def words(self, text: str) -> list[str]:
        """The different words of a text as they are indexed: folded, without stop words, stemmed."""
        sound = text[:QUERY_CHARS].encode("utf-8", "replace").decode()
        return list(dict.fromkeys(self._analyser.analyze(sound)))[:QUERY_TERMS]

    def best(self, words: Iterable[str], k: int) -> list[tuple[int, float]]:
        """The k best documents as (number, score): by score, equal scores by number."""
        t = self._tantivy
        terms = [(t.Occur.Should, t.Query.term_query(self._schema, "content", word, "freq")) for word in words]
        if not terms:
            return []
        query = t.Query.boolean_query(terms)
        limit = k + 8
        while True:
            hits = self._searcher.search(query, limit=limit, count=False).hits
            # The engine orders equal scores by where it stored them: see all that tie with the k-th before the cut.
            if len(hits) < limit or limit >= self.size or hits[-1][0] < hits[k - 1][0]:
                break
            limit *= 4
        numbers = self._searcher.fast_field_values("at", [address for _, address in hits])
        ranked = sorted(zip(numbers, (score for score, _ in hits), strict=True), key=lambda hit: (-hit[1], hit[0]))
        return ranked[:k]
