"""Where the transcripts of a report lie, relative to its page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote

HASH = 16  # characters of a task's hash in a file name


def task_page(task: str) -> str:
    """The file of a task, by its hash."""
    return f"task-{task[:HASH]}.html"


def arm_page(position: int, part: int = 0) -> str:
    """The file of an arm, by its position among the report's arms; a long one has further parts."""
    return f"arm-{position + 1}.html" if part == 0 else f"arm-{position + 1}-{part + 1}.html"


def pair_page(task: str, position: int) -> str:
    """The file of the bare arm's attempt beside that of another arm, at a task."""
    return f"pair-{task[:HASH]}-{position + 1}.html"


@dataclass(frozen=True)
class TranscriptLinks:
    """A folder of transcripts beside the page.

    Attributes:
        folder: its name, as a URL relative to the page.
        arms: the arms that have a page in it, in the order of the report.
    """

    folder: str
    arms: tuple[str, ...]

    @classmethod
    def beside(cls, name: str, arms: tuple[str, ...]) -> TranscriptLinks:
        """Links into a folder of that name."""
        return cls(quote(os.fsencode(name)), arms)

    def arm(self, name: str) -> str:
        """Where an arm's transcripts are; empty for an arm without."""
        return f"{self.folder}/{arm_page(self.arms.index(name))}" if name in self.arms else ""
