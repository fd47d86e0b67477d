"""What every table of the report is made of: rows of cells, and how a figure fills one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from testbed.report.words import interval, number, span
from testbed.stats import Estimate, Range

Cell = tuple[str, ...]  # lines: a figure, and its interval under it where it has one


@dataclass(frozen=True)
class Row:
    """A row: what it is about, its cells, and its kind ("", "null", "whole" or "part") for emphasis."""

    head: str
    cells: tuple[Cell, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: short name, unique in a report.
        title: what it shows.
        head: heading of the first column.
        columns: headings of the others.
        rows: its rows.
        notes: what one must know to read it.
        cautions: what one must know before reading it, as it makes figures worth little.
    """

    key: str
    title: str
    head: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


def estimate(found: Estimate, *, signed: bool = False) -> Cell:
    """A figure with its interval under it."""
    return (number(found.value, signed=signed), interval(found, signed=signed))


def either_way(bounds: Range | None) -> Cell:
    """Where a figure could be had the missing attempts ended otherwise; empty where none are missing."""
    return (span(bounds),) if bounds else ("",)


def told(notes: Iterable[str]) -> tuple[str, ...]:
    """Those of the notes that say something."""
    return tuple(note for note in notes if note)
