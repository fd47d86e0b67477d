"""Lexical search over a fixed corpus: BM25 through tantivy, with English stemming and stop words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, PrivateAttr, model_validator

from testbed.corpus import (
    NO_RESULTS,
    SNIPPET,
    Corpus,
    Document,
    check_passage_count,
    check_placebo,
    check_snippet,
    passages,
)
from testbed.lexical import ANALYSER, LexicalIndex, engine
from testbed.tool import Tool


class Query(BaseModel):
    """Arguments of the search tools."""

    query: str = Field(description="What to look for, in a few words.")


class Search(Tool):
    """Finds the documents that share the rarest words with a query.

    Queries are words and nothing else: no operator, quotation mark or field name has a meaning, so no query can be
    wrong. Equal scores are ordered by id. The first 256 different words of the first 20,000 characters count.

    Of a longer document the result shows the part with the most and rarest of the query's words in its first 250,000
    characters; the tool `open` reads the rest.

    Attributes:
        corpus: what is searched.
        k: most passages in a result, from 1 to 10,000.
        tokens: most tokens of a document that are shown, counted as 4 characters each, from 1 to 1,000,000.
    """

    name: str = "search"
    description: str = "Searches a collection of documents by words. Returns the best matching passages, best first."
    args_schema: Any = Query
    version: str = "2"
    corpus: Corpus
    k: int = Field(3, strict=True)
    tokens: int = Field(SNIPPET, strict=True)

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

    def check_inert(self) -> None:
        """Refuses to be a placebo over fewer than 2·k documents.

        Raises:
            UsageError: there are so few.
        """
        check_placebo(len(self.corpus), self.k, self.name)

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """`k` passages that share no word with the query or, where these are rare, are not among the best.

        The best are 50, in corpora of less than 100 documents half of all. Nothing is found only where the query has no
        word that counts, whatever the corpus: how many passages there are must not say which words it holds.
        """
        documents, index = self.corpus.documents, self._built()
        words = index.words(arguments["query"])
        if not words:
            return NO_RESULTS
        near = {at for at, _ in index.best(words, min(50, (len(documents) + 1) // 2))}
        chosen: dict[int, None] = {}
        for _ in range(min(50 * self.k, 5000 + 2 * self.k)):
            at = int(rng.integers(len(documents)))
            if at not in near and set(words).isdisjoint(index.words(documents[at].content)):
                chosen[at] = None
            if len(chosen) == self.k:
                break
        else:  # almost all share a word
            left = [at for at in range(len(documents)) if at not in near and at not in chosen]
            more = rng.permutation(len(left))[: self.k - len(chosen)]
            chosen |= dict.fromkeys(left[int(n)] for n in more)
        return passages(
            (documents[at] for at in chosen), self.tokens, lambda text, characters: _anywhere(text, characters, rng)
        )

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


def _anywhere(text: str, characters: int, rng: np.random.Generator) -> str:
    """A part of a text that begins and ends with a word, as the parts do that hold words of a query."""
    start = int(rng.integers(0, max(1, len(text) - characters)))
    cut = text[start : start + characters]
    whole = cut if start == 0 else cut.partition(" ")[2]
    return whole.rpartition(" ")[0] or cut
