"""Transcripts in the terminal: one attempt whole, or the attempts of a run a line each."""

from __future__ import annotations

from itertools import islice

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from testbed.errors import UnknownName
from testbed.store import Store
from testbed.types import Attempt, Message

_STYLE = {"user": "bold", "assistant": "cyan", "tool": "green", "system": "red"}


def print_attempt(store: Store, id_: str) -> None:
    """Prints an attempt: what was said, what the tools returned, what was left, why it ended, and the grader's view.

    Raises:
        StoreError: no attempt, or several, begin with `id_`.
    """
    attempt = store.attempt(id_)
    console = Console(highlight=False)
    console.print(Rule(f"attempt {attempt.id}", align="left"))
    for message in attempt.transcript:
        console.print(_heading(message))
        console.print(Text(_printable(message["content"])), soft_wrap=True)  # Text: no markup is read from it
    console.print(Rule("end", align="left"))
    for label, value in _facts(store, attempt):
        console.print(Text(f"{label:<10} {value}"), soft_wrap=True)


def print_attempts(store: Store, run: str, *, arm: str, task: str, failed: bool, limit: int) -> None:
    """Lists attempts of a run.

    Raises:
        UnknownName: the run has no such arm.
    """
    arms = {a.hash: a.name for a in store.run(run).arms}
    if arm and arm not in arms.values():
        raise UnknownName("arm", arm, arms.values())
    prompts = {t.hash: t.prompt for t in store.tasks(run)}
    chosen = (
        a
        for a in store.attempts(run, texts=False)
        if (not arm or arms[a.arm] == arm)
        and (not task or task in prompts[a.task] or a.task.startswith(task))
        and not (failed and a.success)
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, width in (("attempt", 12), ("arm", 8), ("n", 3), ("outcome", 7), ("answer", 10), ("task", 20)):
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=width)
    for a in islice(chosen, limit):
        cells = (a.id[:12], arms[a.arm], str(a.sample), _outcome(a), a.answer or "", prompts[a.task])
        table.add_row(*(Text(_printable(cell).replace("\n", " ")) for cell in cells))
    Console(highlight=False).print(table)


def _heading(message: Message) -> Text:
    role = message["role"]
    words = [role, message.get("name", ""), message.get("fault", "")]
    left = message.get("remaining")
    if left:
        words.append("left: " + ", ".join(f"{component} {amount:g}" for component, amount in left.items()))
    return Text("── " + " · ".join(w for w in words if w), style=_STYLE.get(role, ""))


def _facts(store: Store, attempt: Attempt) -> list[tuple[str, str]]:
    task = store.task(attempt.task)
    cost = ", ".join(f"{name} {amount:g}" for name, amount in attempt.cost.as_dict().items() if amount)
    facts = [("ended", attempt.ended), ("answer", attempt.answer or "none")]
    if task.reference is not None:
        facts.append(("reference", str(task.reference)))
    return [*facts, ("outcome", _outcome(attempt)), ("cost", cost), ("task", f"{task.environment} {task.hash}")]


def _outcome(attempt: Attempt) -> str:
    return "missing" if attempt.success is None else "success" if attempt.success else "failure"


def _printable(text: str) -> str:
    """Text without control and direction characters, which could drive the terminal; line breaks and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)
