"""Transcripts as HTML: one attempt, or two side by side with their differences marked.

A transcript is hostile input: a model wrote it, and so did the documents and programs that it read. Every byte of it is
escaped, characters that do not show or turn the direction of writing are made visible, and halves of surrogate pairs,
which no page can hold, become their numbers. The fragments need neither script nor inline style, so that they stand
under a content security policy that allows none; their style sheet is `transcript_css()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from testbed.report.differing_words import Run
from testbed.report.side_by_side import MarkedBlock, both_facts, how_alike, names_of, side_by_side, unmarked
from testbed.report.transcript_view import Step, TranscriptView, amounts
from testbed.report.unseen import visible

FOLD = 65_536  # characters of one text; of a longer one the beginning is shown, and the rest on request
BEGINNING = 4_096  # characters that are shown of a folded text
PART = 16_384  # characters in an element of the rest: a browser lays out those alone that it shows
MOST_MARKS = 2_000  # elements in one text, since a browser keeps each in memory: beyond, what is marked stands unmarked
_ROLES = ("system", "user", "assistant", "tool")

__all__ = ["FOLD", "TranscriptView", "render_side_by_side", "render_transcript", "transcript_css"]


def transcript_css() -> str:
    """The style sheet of the fragments; light and dark by the reader's preference."""
    return (files("testbed.report") / "transcript.css.j2").read_text(encoding="utf-8")


def render_transcript(view: TranscriptView, *, reveal_reference: bool, level: int = 2) -> Markup:
    """One attempt as an HTML fragment: a section with a heading, and one below it for each step.

    Args:
        view: the attempt.
        reveal_reference: whether the task's reference answer is shown; it must not be while others still try the task.
        level: of its heading, 2 or 4.
    """
    facts = [*view.facts(reveal_reference=reveal_reference), *view.given]
    return _rendered(view=view, right=None, facts=facts, steps=unmarked(view), level=level)


def render_side_by_side(left: TranscriptView, right: TranscriptView, *, reveal_reference: bool) -> Markup:
    """Two attempts as an HTML fragment, steps that belong together in one row, differing words marked.

    Args:
        left: one attempt.
        right: the other, usually at the same task; where not, that is said.
        reveal_reference: as in `render_transcript`.
    """
    rows = side_by_side(left, right)
    names = names_of(left, right)
    return _rendered(
        view=left,
        right=right,
        facts=both_facts(left, right, reveal_reference=reveal_reference),
        rows=rows,
        names=names,
        alike=how_alike(left, right, same=sum(row.same for row in rows)),
        level=2,
    )


def _rendered(**values: Any) -> Markup:
    return Markup(_template().render(**values))  # the template escapes


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(amounts=amounts, shown=_shown, body=_body, body_of=_body_of, role=_role, anchor=_anchor)
    return environment.from_string((files("testbed.report") / "transcript.html.j2").read_text(encoding="utf-8"))


def _role(step: Step) -> str:
    """The role as part of a class name: it may be any text in a transcript that somebody sent."""
    return step.role if step.role in _ROLES else "other"


def _anchor(view: TranscriptView) -> str:
    """An attempt's id as part of an element's: the letters and digits that every id should consist of."""
    return "".join(c for c in view.id[:64] if c.isascii() and c.isalnum())


def _shown(text: str) -> Markup:
    """A short text, safe to show."""
    return _Marks().shown(text)


def _body_of(text: str) -> Markup:
    """A text that may be long, on its own."""
    if len(text) <= FOLD and "\n" not in text:
        return _shown(text)
    return _body(MarkedBlock("", False, (Run(text),)))


def _body(block: MarkedBlock) -> Markup:
    """A block's text; folded where it is long."""
    length = sum(len(run.text) for run in block.runs)
    if not length:
        return Markup()
    kind = "tx-text tx-only" if block.only else "tx-text"
    marks = _Marks()
    # The first line break of such an element is not shown, so that it begins with one.
    pre = Markup('<pre class="{}" dir="auto">\n{}</pre>')
    if length <= FOLD:
        return pre.format(kind, marks.all(block.runs))
    beginning, rest = _parted(block.runs, BEGINNING)
    hidden = sum(run.differs for run in rest)
    differing = f", {hidden} differing stretch{'' if hidden == 1 else 'es'} among them" if hidden else ""
    told = f"show all: {length - BEGINNING:,} more characters{differing}"
    more = Markup('<details class="tx-more"><summary>{}</summary>{}</details>')
    parts = Markup("").join(pre.format(f"{kind} tx-part", marks.all(part)) for part in _parts(rest, PART))
    return pre.format(kind, marks.all(beginning)) + more.format(told, parts)


def _parted(runs: Sequence[Run], at: int) -> tuple[list[Run], list[Run]]:
    """Stretches before and after a place in the text."""
    before: list[Run] = []
    after: list[Run] = []
    for run in runs:
        before += [Run(run.text[:at], run.differs)] if at > 0 else []
        after += [Run(run.text[max(at, 0) :], run.differs)] if len(run.text) > at else []
        at -= len(run.text)
    return before, after


def _parts(runs: Sequence[Run], size: int) -> Iterator[list[Run]]:
    """A text in parts of at most `size` characters, cut at a line break where there is one near."""
    part: list[Run] = []
    room = size
    for run in runs:
        at = 0
        while len(run.text) - at > room:
            cut = run.text.rfind("\n", at + max(0, room - size // 2), at + room) + 1 or at + room
            yield [*part, Run(run.text[at:cut], run.differs)]
            part, room, at = [], size, cut
        part.append(Run(run.text[at:], run.differs))
        room -= len(run.text) - at
    yield part


class _Marks:
    """Elements that may still be put into one text."""

    def __init__(self) -> None:
        self._left = MOST_MARKS

    def all(self, runs: Sequence[Run]) -> Markup:
        return Markup("").join(self._each(runs))

    def _each(self, runs: Sequence[Run]) -> Iterator[Markup]:
        for run in runs:
            text = self.shown(run.text)
            yield Markup("<mark>{}</mark>").format(text) if run.differs and self._take() else text

    def shown(self, text: str) -> Markup:
        return Markup(visible(str(escape(text)), self._unseen))  # what is put in is made here

    def _unseen(self, names: str) -> str:
        return f'<span class="tx-unseen">{names}</span>' if self._take() else names

    def _take(self) -> bool:
        self._left -= 1
        return self._left >= 0
