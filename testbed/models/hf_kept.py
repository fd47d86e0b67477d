"""Texts that were read and may be asked again, whose pages are held: prompts, and what attempts wrote.

What an attempt wrote is found by who wrote it: nobody else goes on from there, and a search among hundreds of texts
that begin alike would take longer than anything else that its next message needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakMethod

import torch

from testbed.beginnings import in_common
from testbed.models.hf_pages import Pages
from testbed.models.hf_prefix import Prefixes, Tokens
from testbed.models.hf_row import Row

Tensor = torch.Tensor
Author = tuple[int, int]  # an attempt's stream, and how many tokens it had written in all


@dataclass(eq=False)
class Text:
    """A text that was read.

    Attributes:
        tokens: all of it.
        pages: that hold its keys and values.
        logits: after the last token; None where nobody has them.
        start: tokens of it that were read before.
        line: of the table in which its pages stand while it is read.
        author: whose words it ends with; None for a prompt.
    """

    tokens: Tokens
    pages: list[int]
    logits: Tensor | None = None
    start: int = 0
    line: int = 0
    author: Author | None = None

    @property
    def logits_bytes(self) -> int:
        """Memory that its logits take."""
        return 0 if self.logits is None else self.logits.nbytes


class KeptPages(Prefixes[Text]):
    """The texts read last.

    Args:
        pages: where they lie.
        limit: memory they may take, in bytes; what several have in common counts once.
    """

    def __init__(self, pages: Pages, limit: int) -> None:
        super().__init__(limit)
        self._pages, self._held = pages, dict[int, int]()
        self._own: dict[Author, list[Text]] = {}  # attempts of several arms may have one stream
        forget = WeakMethod(
            self.forget
        )  # else pages and texts would hold each other, and a batch that was given up stay
        pages.make_room = lambda: (own := forget()) is not None and own()

    def remember(self, row: Row) -> None:
        """Keeps what a row read and wrote, and takes its pages from it."""
        author = row.stream, row.position + len(row.tokens)
        text = Text((*row.prompt, *row.tokens[:-1]), row.pages, author=author)
        row.pages = []
        self._own.setdefault(author, []).append(text)
        self._bytes += self._count(text)
        self._note(text)

    def own(self, row: Row) -> tuple[Text | None, int]:
        """What a row's attempt wrote before, and how many tokens of it the row's prompt begins with; None and 0."""
        found, most = None, 0
        for text in self._own.get((row.stream, row.position), ()):
            size = in_common(text.tokens, row.prompt)
            if size > most:
                found, most = text, size
        if found is not None:
            self._touch(found)
        return found, most

    def gone_on(self, row: Row) -> None:
        """Lets go of what a row's attempt wrote, where it has gone on from there in pages that it shares."""
        text, size = self.own(row)
        if text is not None and size == len(text.tokens):
            self.remove(text)

    def hand_over(self, text: Text) -> list[int]:
        """A kept text's pages, for whoever goes on from it; it is not kept any more."""
        self._bytes -= self._let_go(text)
        self._strike(text)
        return text.pages

    def _enter(self, text: Text) -> int:
        self._pages.hold(text.pages)
        return self._count(text)

    def _leave(self, text: Text) -> int:
        gone = self._let_go(text)
        self._pages.release(text.pages)
        return gone

    def _strike(self, text: Text) -> None:
        if text.author is None:
            super()._strike(text)
            return
        del self._used[text]
        texts = self._own[text.author]
        texts.remove(text)
        if not texts:
            del self._own[text.author]

    def _count(self, text: Text) -> int:
        """Bytes that it takes besides the others, its logits and pages that only it holds; counted from now on."""
        new = 0
        for page in text.pages:
            others = self._held.get(page, 0)
            self._held[page] = others + 1
            new += not others
        return new * self._pages.stride * 4 + text.logits_bytes

    def _let_go(self, text: Text) -> int:
        """Bytes that it took besides the others; it is not counted any more."""
        gone = 0
        for page in text.pages:
            others = self._held[page] - 1
            if others:
                self._held[page] = others
            else:
                del self._held[page]
                gone += 1
        return gone * self._pages.stride * 4 + text.logits_bytes
