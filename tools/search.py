"""Lexical search over a fixed corpus: BM25 through tantivy, with English stemming and stop words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, PrivateAttr, model_validator

from testbed.corpus import SNIPPET, Corpus, Document, check_passage_count, check_snippet, passages
from testbed.lexical import ANALYSER, LexicalIndex, engine
from testbed.tool import Tool


class Query(BaseModel):
    """Arguments of the search tools."""

    query: str = Field(description="What to look for, in a few words.")


class Search(Tool):
    """Finds the documents that share the rarest words with a query.

    Queries are words and nothing else: no operator, quotation mark or field name has a meaning, so no query can be
    wrong. Equal scores are ordered by id. The first 256 different words of the first 20,000 characters count.

    Of a longer document the result shows the part with the most and rarest of the query's words; the tool `open` reads
    the rest.

    Attributes:
        corpus: what is searched.
        k: passages in a result, at least 1.
        tokens: most tokens of a document that are shown, counted as 4 characters each, at least 1.
    """

    name: str = "search"
    description: str = "Searches a collection of documents by words. Returns the best matching passages, best first."
    args_schema: Any = Query
    corpus: Corpus
    k: int = 3
    tokens: int = SNIPPET

    _index: LexicalIndex | None = PrivateAttr(None)
    _building: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @model_validator(mode="after")
    def _check(self) -> Search:
        check_passage_count(self.k, self.name)
        check_snippet(self.tokens, self.name)
        return self

    def fingerprint(self) -> dict[str, Any]:
        """Corpus, k, tokens, analyser, and the engine's version: BM25's details are its own."""
        options = {"corpus": self.corpus.hash, "k": self.k, "tokens": self.tokens}
        return {**options, "analyser": ANALYSER, "engine": engine()}

    async def start(self) -> None:
        """Opens the stored index, or builds one in memory: a second per 100,000 short documents."""
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
        return passages((documents[at] for at in chosen), self.tokens)

    def _run(self, query: str) -> str:
        index = self._built()
        words = index.words(query)
        found = (self.corpus.documents[at] for at, _ in index.best(words, self.k))
        return self._shown(found, index, words)

    def _shown(self, found: Iterable[Document], index: LexicalIndex, words: list[str]) -> str:
        return passages(found, self.tokens, lambda text, characters: index.fragment(words, text, characters))

    def _built(self) -> LexicalIndex:
        with self._building:
            if self._index is None:
                self._index = LexicalIndex.of(self.corpus)
            return self._index
