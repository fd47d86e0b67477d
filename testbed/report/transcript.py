"""Transcripts in the terminal: one attempt whole, or two side by side.

What a model wrote, or a tool returned, never begins a line: it stands indented, so that none of it can be taken for a
heading, an outcome or a reference of the testbed's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from testbed.report.differing_words import Run
from testbed.report.side_by_side import (
    MarkedBlock,
    MarkedStep,
    Row,
    both_facts,
    how_alike,
    names_of,
    side_by_side,
    unmarked,
)
from testbed.report.transcript_view import TranscriptView, amounts
from testbed.report.unseen import visible

FOLD = 20_000  # characters of one text that a terminal shows; of a longer one the beginning
BEGINNING = 2_000
NARROWEST = 60  # columns in which two attempts stand beside each other
DIFFERS, DIFFERS_PLAIN = "bold underline", "⟦{}⟧"
_STYLE = {"user": "bold", "assistant": "cyan", "tool": "green", "system": "red"}
_INLINE = 60  # characters of an argument that stand beside its name
_TERM = 14  # columns of a term with its text beside it
_INDENT = 2  # columns before what was said


def print_transcript(view: TranscriptView, console: Console | None = None, *, full: bool = False) -> None:
    """Prints an attempt: what its model was told, what was said and returned, what was left, why it ended, its grade.

    Args:
        view: the attempt.
        console: where to; by default standard output.
        full: whether long texts are shown whole on a terminal; elsewhere they are in any case.
    """
    console = console or Console(highlight=False)
    writer = _Writer(console, full)
    console.print(_rule(f"{view.title}: {view.outcome}"))
    if view.budget:
        writer.say(f"budget: {amounts(view.budget)}", "dim")
    for term, text in view.given:
        writer.fact(term, text)
    for step in unmarked(view):
        writer.lines(writer.step(step))
    console.print(_rule("end"))
    for term, text in view.facts(reveal_reference=True):
        writer.fact(term, text)


def print_side_by_side(
    left: TranscriptView, right: TranscriptView, console: Console | None = None, *, full: bool = False
) -> None:
    """Prints two attempts beside each other, what differs marked; below each other where there is no room or terminal.

    Args:
        left: one attempt.
        right: the other.
        console: where to; by default standard output.
        full: as in `print_transcript`.
    """
    console = console or Console(highlight=False)
    wide = console.is_terminal and console.width >= NARROWEST
    writer, names, rows = _Writer(console, full), names_of(left, right), side_by_side(left, right)
    console.print(_rule(f"{left.title} beside {right.title}"))
    writer.say(
        how_alike(left, right, same=sum(row.same for row in rows), marks="" if wide else DIFFERS_PLAIN.format("…"))
    )
    for row in rows:
        if row.same and row.left is not None and row.right is not None:
            writer.lines(writer.both(row.left, row.right, names))
        elif wide:
            console.print(_beside(*(list(writer.cell(step, name)) for step, name in _cells(row, names))))
        else:
            for step, name in _cells(row, names):
                writer.lines(writer.step(step, name) if step is not None else ())
    console.print(_rule("end"))
    facts = both_facts(left, right, reveal_reference=True)
    if wide:
        console.print(
            _fact_table([(term, writer.cut(ours), writer.cut(theirs)) for term, ours, theirs in facts], names)
        )
        return
    for term, ours, theirs in facts:
        if ours == theirs:
            writer.fact(term, ours)
        else:
            writer.fact(term, f"{names[0]}: {ours}")
            writer.fact("", f"{names[1]}: {theirs}")


class _Writer:
    """Steps as lines of text; every byte of them is shown and none is read as markup or as a command.

    Args:
        console: where they go.
        full: whether long texts are shown whole on a terminal, too.
    """

    def __init__(self, console: Console, full: bool) -> None:
        self._console, self._most = console, FOLD if console.is_terminal and not full else None

    def say(self, text: str, style: str = "") -> None:
        """Prints a line that the terminal breaks where it likes."""
        self._console.print(Text(visible(self.cut(text)), style), soft_wrap=True)

    def cut(self, text: str) -> str:
        """A text that stands on its own; of a long one the beginning, where that is what is shown."""
        if self._most is None or len(text) <= self._most:
            return text
        return f"{text[:BEGINNING]} …\n{len(text) - BEGINNING:,} more characters; --full shows them"

    def fact(self, term: str, text: str) -> None:
        """Prints a term with its text, whose lines all stand to the right of it."""
        self.lines([self._indented(Text(visible(self.cut(text))), _TERM + 1, f"{term:<{_TERM}} ")])

    def lines(self, made: Iterable[Text]) -> None:
        """Prints lines likewise."""
        for one in made:
            self._console.print(one, soft_wrap=True)

    def _indented(self, text: Text, by: int = _INDENT, first: str = "") -> Text:
        """A text each of whose lines begins so many columns from the left, those that a terminal breaks, too."""
        lines = list(text.split("\n", allow_blank=True))
        if self._console.is_terminal:
            lines = [piece for line in lines for piece in _folded(line, self._console.width - by)]
        made = Text(first or " " * by)
        for n, line in enumerate(lines):
            made.append_text(line if n == 0 else Text("\n" + " " * by).append_text(line))
        return made

    def cell(self, marked: MarkedStep | None, name: str) -> Iterator[Text | Padding]:
        """A step in its column."""
        if marked is None:
            yield Text(visible(f"(no such step in {name})"), "dim italic")
        else:
            yield self._heading(marked, name)
            for text in self._said(marked):
                yield Padding(text, (0, 0, 0, _INDENT))
            yield from self._left(marked)

    def step(self, marked: MarkedStep, whose: str = "") -> Iterator[Text]:
        """A step: who speaks, what is said, and what was left after it."""
        yield self._heading(marked, whose)
        yield from map(self._indented, self._said(marked))
        yield from self._left(marked)

    def _left(self, marked: MarkedStep) -> Iterator[Text]:
        if marked.step.left:
            yield Text(visible(f"left: {amounts(marked.step.left)}"), "dim")

    def both(self, left: MarkedStep, right: MarkedStep, names: tuple[str, str]) -> Iterator[Text]:
        """Two steps that say the same, once; what was left after them may differ."""
        elsewhere = "" if left.number == right.number else f" (step {right.number} of {names[1]})"
        if left.step.left == right.step.left:
            yield from self.step(left, f"the same in both{elsewhere}")
            return
        yield self._heading(left, f"the same in both{elsewhere}")
        yield from map(self._indented, self._said(left))
        for marked, name in ((left, names[0]), (right, names[1])):
            yield Text(visible(f"left in {name}: {amounts(marked.step.left) or 'not known'}"), "dim")

    def _heading(self, marked: MarkedStep, whose: str) -> Text:
        heading = f"── {marked.number} · {marked.step.heading}" + (f" · {whose}" if whose else "")
        return Text(_in_one_line(heading), _STYLE.get(marked.step.role, ""))

    def _said(self, marked: MarkedStep) -> Iterator[Text]:
        for block in marked.blocks:
            yield from self._block(block)

    def _block(self, block: MarkedBlock) -> Iterator[Text]:
        text, style = self._text(block.runs), "red" if block.fault else ""
        if not block.label:
            yield text
        elif not text:
            yield Text(_in_one_line(block.label), style or "bold")
        elif len(text) <= _INLINE and "\n" not in text.plain:
            yield Text.assemble((f"{_in_one_line(block.label)}: ", style or "bold"), text)
        else:
            yield Text(f"{_in_one_line(block.label)}:", style or "bold")
            yield text

    def _text(self, runs: Sequence[Run]) -> Text:
        """A text with what differs marked; of a long one the beginning."""
        whole, shown, room = sum(len(run.text) for run in runs), Text(), BEGINNING
        folded = self._most is not None and whole > self._most
        for run in runs:
            said = run.text[:room] if folded else run.text
            if not self._console.is_terminal and run.differs:
                shown.append(DIFFERS_PLAIN.format(visible(said)))
            else:
                shown.append(visible(said), DIFFERS if run.differs else None)
            room -= len(said)
            if folded and room <= 0:
                shown.append(f" …\n{whole - BEGINNING:,} more characters; --full shows them", "dim")
                break
        return shown


def _folded(line: Text, width: int) -> Iterable[Text]:
    """A line in pieces that a terminal does not break; of wide characters, half as many have room."""
    room = max(1, width if line.plain.isascii() else width // 2)
    return line.divide(range(room, len(line), room)) if len(line) > room else [line]


def _in_one_line(text: str) -> str:
    return visible(text).replace("\n", " ")


def _cells(row: Row, names: tuple[str, str]) -> tuple[tuple[MarkedStep | None, str], tuple[MarkedStep | None, str]]:
    return (row.left, names[0]), (row.right, names[1])


def _beside(left: Sequence[Text | Padding], right: Sequence[Text | Padding]) -> Table:
    table = Table.grid(expand=True)
    for _ in range(2):
        table.add_column(ratio=1, overflow="fold")
    table.add_row(Padding(Group(*left), (0, 1, 0, 0)), Group(*right))
    return table


def _fact_table(facts: Sequence[tuple[str, str, str]], names: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("", max_width=_TERM)
    for name in names:
        table.add_column(Text(visible(name)), ratio=1, overflow="fold")
    for term, ours, theirs in facts:
        style = DIFFERS if ours != theirs and term not in ("attempt", "cost") else ""
        table.add_row(term, *(Text(visible(text), style) for text in (ours, theirs)))
    return table


def _rule(title: str) -> Rule:
    return Rule(Text(visible(title)), align="left")
