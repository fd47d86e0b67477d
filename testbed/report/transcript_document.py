"""Transcripts as one HTML file that works offline, without script."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2

from testbed.report.files import write_file
from testbed.report.transcript_page import render_side_by_side, render_transcript, transcript_css
from testbed.report.transcript_view import TranscriptView
from testbed.report.unseen import visible

_LONGEST = 80  # characters of a prompt in the title


def render_document(views: Sequence[TranscriptView]) -> str:
    """A page of one attempt, or of two side by side; the reference answer is on it.

    Args:
        views: one or two attempts.
    """
    if len(views) == 2:
        body = render_side_by_side(views[0], views[1], reveal_reference=True)
    else:
        body = render_transcript(views[0], reveal_reference=True)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = (files("testbed.report") / "transcript_document.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(source)
    return page.render(title=_title(views), wide=len(views) == 2, css=transcript_css(), body=body)


def write_document(views: Sequence[TranscriptView], path: str | Path) -> None:
    """Writes the page.

    Raises:
        UsageError: the file cannot be written.
    """
    write_file(Path(path), render_document(views).encode("utf-8"))


def _title(views: Sequence[TranscriptView]) -> str:
    """The beginning of the task's prompt, which is what a transcript opens with."""
    prompt = views[0].steps[0].blocks[0].text if views[0].steps else ""
    words = " ".join(prompt.split())
    return visible(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…") or views[0].environment
