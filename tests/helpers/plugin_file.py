"""A file that brings an environment and tools."""

from __future__ import annotations

from pathlib import Path

PLUGIN = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain_core.tools import tool
from pydantic import BaseModel

from testbed.env import Environment
from testbed.tool import Tool
from testbed.types import Grade


@dataclass
class Word:
    text: str


class Args(BaseModel):
    word: str


class Length(Environment):
    """How long is a word?"""

    id = "Length-v0"

    def make_tasks(self):
        yield self.task("How long is cat?", reference="3")

    def grade(self, task, answer):
        return Grade(answer == task.reference)


class Measure(Tool):
    """Measures a word."""

    name: str = "measure"
    description: str = "Measures."
    args_schema: Any = Args

    def _run(self, word: str) -> str:
        return str(len(Word(word).text))


class Quiet(Measure):
    """No name of its own: a base for others."""


@tool
def spell(word: str) -> str:
    """Spells a word."""
    return " ".join(word)
'''


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
