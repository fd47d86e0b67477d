"""Reads a document of a corpus in pages: what `search` and `retrieve` show are parts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, model_validator

from testbed.corpus import TOKEN_CHARS, Corpus, Document, check_snippet
from testbed.errors import LONGEST_NAME, FaultKind, ToolFault
from testbed.tool import Tool


class Place(BaseModel):
    """What to read."""

    id: str = Field(description="Id of a document, as search results show it in brackets.")
    offset: int = Field(0, ge=0, description="Character to start at; a page says where the next one starts.")


class Open(Tool):
    """Shows a page of a document, found by its id.

    Attributes:
        corpus: where documents are; the same as that of the tool that finds them.
        tokens: size of a page, in tokens of 4 characters each, from 1 to 1,000,000.
    """

    name: str = "open"
    description: str = "Reads a document of the collection by its id, a page at a time."
    args_schema: Any = Place
    corpus: Corpus
    tokens: int = Field(512, strict=True)

    @model_validator(mode="after")
    def _check(self) -> Open:
        check_snippet(self.tokens, self.name)
        return self

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """A page of a document drawn at random, never the one that was asked for; the same faults as live."""
        documents = self.corpus.documents
        offset = int(arguments.get("offset", 0))
        asked = self._located(str(arguments["id"]), offset)
        if len(documents) == 1:
            return "(empty page)"
        drawn = documents[(asked + int(rng.integers(1, len(documents)))) % len(documents)]
        return self._page(drawn, offset if offset < len(drawn.text) else 0)

    def _run(self, id: str, offset: int = 0) -> str:
        return self._page(self.corpus.documents[self._located(id, offset)], offset)

    def _located(self, identity: str, offset: int) -> int:
        """The document's place in order of id, which is the order of a corpus.

        Raises:
            ToolFault: there is no such document, or it ends before the offset.
        """
        documents = self.corpus.documents
        place = bisect_left(documents, identity, key=lambda document: document.id)
        if place == len(documents) or documents[place].id != identity:
            raise ToolFault(
                FaultKind.EXECUTION_ERROR,
                f"there is no document {identity[:LONGEST_NAME]!r}; ids stand in brackets in search results.",
            )
        length = len(documents[place].text)
        if offset >= length:
            raise ToolFault(
                FaultKind.EXECUTION_ERROR, f"document {identity!r} has {length} characters: none at {offset}."
            )
        return place

    def _page(self, document: Document, offset: int) -> str:
        page = document.text[offset : offset + self.tokens * TOKEN_CHARS]
        end = offset + len(page)
        words = page.rsplit(maxsplit=1)
        if end < len(document.text) and not document.text[end].isspace() and len(words) == 2:  # no half words
            end -= len(words[1])
            page = page[: end - offset]
        heading = f"[{document.id}]{' ' if document.title else ''}{' '.join(document.title.split())}"
        if (offset, end) != (0, len(document.text)):
            heading += f" (characters {offset} to {end} of {len(document.text)})"
        more = "" if end == len(document.text) else f"\n(next page: offset {end})"
        return f"{heading}\n{page.strip()}{more}"
