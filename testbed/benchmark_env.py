"""Environments whose tasks are records of public data, from a file or the Hugging Face hub; none are shipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar, Unpack

from testbed.env import Common, Environment
from testbed.errors import UsageError
from testbed.records import HubOption, Record, records_of


class BenchmarkEnvironment(Environment):
    """Base of environments that read records.

    Args:
        path: a JSONL file, perhaps gzipped; by default `usual` below the folder that TESTBED_DATA names.
        limit: how many tasks, from the first record; None for all.
        hub: instead of a path, a dataset that Hugging Face's `datasets` loads: its name, or a table of name, config,
            split, revision and columns, see `testbed.records`; without a name that of `home`.
        common: options of every environment, see `testbed.env.Common`.

    Attributes:
        usual: the file within ``$TESTBED_DATA`` that is read where neither path nor hub is given; none if empty.
        home: where the benchmark is on the hub.
        where: a sentence that says where the file can be had, or what a line looks like; without its full stop.
        unit: what one task is called in messages.
        records: the records that were asked for.

    Raises:
        UsageError: there is nothing to read, or the limit is below 1.
    """

    usual: ClassVar[str] = ""
    home: ClassVar[Mapping[str, str]] = {}
    where: ClassVar[str]
    unit: ClassVar[str] = "problem"

    def __init__(
        self,
        path: str | Path | None = None,
        limit: int | None = None,
        hub: HubOption | None = None,
        **common: Unpack[Common],
    ) -> None:
        self.records = records_of(self.id, path, hub, usual=self.usual, home=self.home, where=self.where)
        if limit is not None and limit < 1:
            raise UsageError(f"{self.id}: limit must be at least 1 {self.unit}, not {limit}; leave it out for all.")
        self.limit = limit
        super().__init__(**common)

    def first_records(self) -> Iterator[Record]:
        """The records in order, no more than the limit."""
        return islice(self.records, self.limit)
