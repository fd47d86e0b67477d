"""The report in the terminal: 80 columns, piped or not, with or without colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from testbed.report.cells import Cell, Row, Table
from testbed.report.findings import findings, headline, unflagged
from testbed.report.header import Header, header
from testbed.report.record import Analysis
from testbed.report.tables import every_table
from testbed.report.words import joined, reading

_GAP = 1  # columns between cells, on each side
_TERM = 16  # columns of a term with its text beside it, at most
_STYLES = {"null": "dim", "whole": "bold", "part": "", "": ""}


def print_report(analysis: Analysis, console: Console | None = None) -> None:
    """Prints the report.

    Args:
        analysis: what to show.
        console: where to; by default standard output.
    """
    console = console or Console(highlight=False)
    for part in _report(analysis, console):
        console.print(_Trimmed(part))
        console.print()


def print_tables(title: str, remarks: Sequence[str], tables: Sequence[Table], console: Console | None = None) -> None:
    """Prints tables in the form of the report, under a title and remarks; those without rows are left out."""
    console = console or Console(highlight=False)
    say = _Sayer(console)
    console.print(_Trimmed(say(title, "bold")))
    for remark in remarks:
        console.print(_Trimmed(say(remark)))
    for table in tables:
        if table.rows:
            console.print()
            console.print(_Trimmed(Group(*_laid_out(table, console, say))))


def _report(analysis: Analysis, console: Console) -> Iterator[RenderableType]:
    say = _Sayer(console)
    yield say(f"{analysis.name or 'Report'}: {joined([arm.name for arm in analysis.arms])}", "bold")
    head = header(analysis)
    if head.facts:
        yield Group(*_of(head, say))
    for warning in analysis.warnings:
        yield say(f"! {warning}", "yellow")
    if how := reading(analysis):
        yield say(how)
    for table in every_table(analysis):
        yield Group(*_laid_out(table, console, say))
    for comparison in analysis.comparisons:
        told = (headline(analysis, comparison), unflagged(analysis, comparison))
        lines = [_indent(say(sentence), 2) for sentence in told if sentence]
        for finding in findings(analysis, comparison):
            lines.append(_indent(say(finding.verb, "bold"), 2))
            lines += [_indent(say(phrase), 4) for phrase in finding.phrases]
        yield Group(say(comparison.arm, "bold"), *lines)


def _of(head: Header, say: _Sayer) -> Iterator[RenderableType]:
    """What the report is of: terms, each with its text beside it."""
    yield _beside(head.facts, say)
    yield say("arms")
    yield _indent(_beside(head.arms, say), 2)


def _beside(pairs: Sequence[tuple[str, str]], say: _Sayer) -> RichTable:
    rich = RichTable.grid(padding=(0, 2 * _GAP, 0, 0))
    rich.add_column(max_width=_TERM, overflow="fold")
    rich.add_column(overflow="fold")
    for term, text in pairs:
        rich.add_row(say(term), say(text))
    return rich


class _Trimmed:
    """Something without the blanks that it is filled up with at the ends of lines: a file or a mail would keep them."""

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in console.render_lines(self._content, options, pad=False):
            while line and not line[-1].control and not line[-1].text.rstrip(" "):
                line.pop()
            if line:
                line[-1] = line[-1]._replace(text=line[-1].text.rstrip(" "))
            yield from line
            yield Segment.line()


class _Sayer:
    """Makes text that the terminal can show: no markup, no control characters, nothing its encoding lacks."""

    def __init__(self, console: Console) -> None:
        self._encoding = console.encoding

    def __call__(self, text: str, style: str = "") -> Text:
        shown = "".join(c if c.isprintable() else "?" for c in text)
        return Text(shown.encode(self._encoding, "replace").decode(self._encoding), style=style)


def _laid_out(table: Table, console: Console, say: _Sayer) -> Iterator[RenderableType]:
    yield say(table.title, "bold")
    for caution in table.cautions:
        yield _indent(say(f"! {caution}", "yellow"), 2)
    if table.columns:
        yield from _grid(table, console, say)
    for note in table.notes:
        yield _indent(say(note, "dim"), 2)


def _grid(table: Table, console: Console, say: _Sayer) -> Iterator[RenderableType]:
    """Its rows, in as many parts below one another as its columns need."""
    head = max(len(table.head), *(len(_indented(row)) for row in table.rows))
    widths = [_width(heading, [row.cells[i] for row in table.rows]) for i, heading in enumerate(table.columns)]
    head = min(head, max(12, console.width // 3))
    room = console.width - head - 2 * _GAP
    for n, columns in enumerate(_fitting(widths, room)):
        if n:
            yield say("")
        yield _rich(table, _spread(table, {i: min(widths[i], room) for i in columns}, room), head, say)


def _rich(table: Table, widths: Mapping[int, int], head: int, say: _Sayer) -> RichTable:
    rich = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP, 0, 0), show_edge=False)
    rich.add_column(say(table.head), width=head, overflow="fold")
    for i, width in widths.items():
        rich.add_column(say(table.columns[i]), width=width, justify="right", overflow="fold")
    for row in table.rows:
        style = _STYLES[row.kind]
        cells = [Text("\n", justify="right").join(say(line) for line in row.cells[i]) for i in widths]
        rich.add_row(say(_indented(row)), *cells, style=style)
    return rich


def _fitting(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns in batches that fit side by side: a wide table becomes several, each with the row headings."""
    batch: list[int] = []
    used = 0
    for i, width in enumerate(widths):
        if batch and used + width + 2 * _GAP > room:
            yield batch
            batch, used = [], 0
        batch.append(i)
        used += width + 2 * _GAP
    yield batch


def _spread(table: Table, widths: dict[int, int], room: int) -> dict[int, int]:
    """Gives room that is left to columns whose headings would break."""
    spare = room - sum(width + 2 * _GAP for width in widths.values())
    for i, width in widths.items():
        more = min(max(len(table.columns[i]) - width, 0), max(spare, 0))
        widths[i], spare = width + more, spare - more
    return widths


def _indent(text: RenderableType, by: int) -> Padding:
    return Padding(text, (0, 0, 0, by), expand=False)


def _width(heading: str, cells: Sequence[Cell]) -> int:
    """A heading may break between words, a cell only between its lines."""
    return max(*(len(word) for word in heading.split()), *(len(line) for cell in cells for line in cell), 1)


def _indented(row: Row) -> str:
    return f"  {row.head}" if row.kind == "part" else row.head
