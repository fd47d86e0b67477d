"""MBPP: small Python functions from a sentence and examples, read from the benchmark's own file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Unpack

from testbed.env import Common
from testbed.errors import DataError, UnknownName, UsageError
from testbed.program_env import ProgramEnvironment
from testbed.records import HubOption, Record
from testbed.types import Task

SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}


class MBPP(ProgramEnvironment):
    """Small Python functions to write from a sentence (MBPP), from a file or the hub.

    An answer passes if the three asserts of its problem hold. The benchmark's protocol shows them, since nothing else
    names the function; `shown` = 1 keeps two hidden.

    Args:
        path: the benchmark's JSONL file, perhaps gzipped; by default ``$TESTBED_DATA/mbpp/mbpp.jsonl``.
        split: part of the benchmark, one of `SPLITS`: "test" is problems 11 to 510.
        shown: asserts that the prompt shows, 1 to 3.
        limit: how many problems of the split, from its first; None for all.
        timeout: seconds that program and tests may take together.
        sandbox: "auto" or the name of a backend, see `testbed.sandbox.pick`.
        at_once: programs that are judged at one time, at least 1; each takes two sandboxes.
        hub: instead of a path, a dataset that Hugging Face's `datasets` loads: its name, or a table of name, config,
            split, revision and columns, see `testbed.records`; without a name that of `home`.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UsageError: no path is known, or an option makes no sense.
    """

    id: ClassVar[str] = "MBPP-v0"
    usual: ClassVar[str] = "mbpp/mbpp.jsonl"
    home: ClassVar[Mapping[str, str]] = {
        "name": "google-research-datasets/mbpp",
        "config": "full",
        "split": "test",
    }
    where: ClassVar[str] = "It is mbpp/mbpp.jsonl of github.com/google-research/google-research (CC BY 4.0)"
    card: ClassVar[str] = (
        "Source: Austin et al. 2021, Program Synthesis with Large Language Models, arXiv 2108.07732; 500 test "
        "problems, CC BY 4.0. Graded by the benchmark's own asserts. Shown in the prompt, as its protocol has it, they "
        "can be answered by a table of their values: `shown = 1` hides two. Expected: python elicits (a draft can be "
        "tried on what is shown), several answers elicit, search and retrieve should add nothing. Contamination: "
        "high; public since 2021 and quoted in many training sets."
    )

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "test",
        shown: int = 3,
        limit: int | None = None,
        timeout: float = 10.0,
        sandbox: str = "auto",
        at_once: int = 2,
        hub: HubOption | None = None,
        **common: Unpack[Common],
    ) -> None:
        if split not in SPLITS:
            raise UnknownName(f"split of {self.id}", split, SPLITS)
        if not 1 <= shown <= 3:
            raise UsageError(f"{self.id}: shown must be from 1 to 3 asserts, not {shown}: they name the function.")
        self.split, self.shown = split, shown
        if isinstance(hub, Mapping) and not hub.get("name"):
            hub = {"split": split, **hub}  # at home each part is a split of its own
        super().__init__(path, limit, timeout, sandbox, at_once, hub, **common)

    def make_tasks(self) -> Iterable[Task]:
        """The split's problems in the file's order."""
        first, last = SPLITS[self.split]
        count = 0
        for record in self.records:
            self._refuse_malformed(record)
            if first <= record.row["task_id"] <= last and count != self.limit:
                count += 1
                yield self._task(record.number, record.row)

    def _task(self, line: int, row: dict[str, Any]) -> Task:
        code = "\n".join([row.get("test_setup_code", ""), *row["test_list"]])
        defined = re.findall(r"^def (\w+)", row["code"], re.MULTILINE)
        shown = "\n".join(row["test_list"][: self.shown])
        return self.task_of(
            f"{row['text']}\nYour code should pass these tests:\n\n{shown}\n",
            row["code"],
            code=code,
            functions=[name for name in defined if re.search(rf"\b{name}\b", code)],
            meta={"id": f"MBPP/{row['task_id']}", "line": line, **self.records.labels},
        )

    def _refuse_malformed(self, record: Record) -> None:
        row = record.row
        texts = all(isinstance(row.get(name), str) for name in ("text", "code"))
        asserts = row.get("test_list")
        listed = isinstance(asserts, list) and asserts and all(isinstance(one, str) for one in asserts)
        if not (texts and listed and isinstance(row.get("task_id"), int)):
            raise DataError(
                f"{record.place}: an object with a number 'task_id', texts 'text' and 'code', and a list "
                f"'test_list' is wanted. {self.where}."
            )
