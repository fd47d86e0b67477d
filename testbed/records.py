"""Records of public data: from a JSONL file, or from a dataset of the Hugging Face hub where `datasets` is installed.

The same records make the same tasks, wherever they came from: a task is its content. Which revision it was stands in
each task's label `source`, and in the experiment where it is asked for. No dataset's own code is run: `datasets` has
had no loading scripts since version 4.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from testbed.corpus import read_jsonl
from testbed.errors import DataError, UnknownName, UsageError

HubOption = str | Mapping[str, Any]  # what an environment's option `hub` takes
KEYS = ("name", "config", "split", "revision", "columns")
_COMMIT = re.compile(r"@([0-9a-f]{40})/")  # in the address of a file of the hub
_SAVED = ("state.json", "dataset_dict.json")  # in a folder that `save_to_disk` made


class Record(NamedTuple):
    """One record.

    Attributes:
        place: where it stands, for messages.
        number: line or row, from 1.
        row: its fields; those without a value are left out.
    """

    place: str
    number: int
    row: dict[str, Any]


@dataclass(frozen=True)
class FileRecords:
    """The lines of a JSONL file, perhaps gzipped.

    Attributes:
        path: the file.
        labels: what each task's `meta` says of its source: nothing, since the experiment names the file.
    """

    path: Path
    labels: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Record]:
        """The lines that are not blank, in order.

        Raises:
            DataError: the file cannot be read, or a line is no object; names it.
        """
        for line, row in read_jsonl(self.path):
            yield Record(f"{self.path}:{line}", line, _with_values(row))


@dataclass(frozen=True)
class HubRecords:
    """The rows of a dataset that Hugging Face's `datasets` loads.

    Attributes:
        name: on the hub; or a folder of Parquet, JSONL or CSV files, or one that `save_to_disk` made.
        config: part of the dataset, where it has several.
        split: such as "test"; the only one if empty.
        revision: commit, tag or branch of the hub's repository; its newest state if empty.
        columns: the dataset's own names of fields, by the names that the environment knows.
    """

    name: str
    config: str = ""
    split: str = ""
    revision: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What messages call it."""
        return " ".join(filter(None, (self.name, self.config, self.split)))

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The dataset with the commit that it was loaded from, else with the fingerprint that `datasets` gives it."""
        files = " ".join(map(str, self._rows.info.download_checksums or ()))
        commit = _COMMIT.search(files)
        known = commit[1] if commit else self.revision or f"fingerprint {self._rows._fingerprint}"
        return {"source": f"{self.title} @ {known}"}

    def __iter__(self) -> Iterator[Record]:
        """The rows in order.

        Raises:
            DataError: the dataset cannot be loaded, or has several splits and none is named.
            UnknownName: it has no such split or column.
        """
        for number, row in enumerate(self._rows, 1):
            # A column that stands for another one hides what else has its name.
            named = {**row, **{ours: row[theirs] for ours, theirs in self.columns.items()}}
            yield Record(f"{self.title}, row {number}", number, _with_values(named))

    @cached_property
    def _rows(self) -> Any:
        import datasets

        try:
            data = self._saved() if self._is_saved() else self._loaded()
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
            reason = str(cause or error).strip().partition("\n")[0] or type(error).__name__
            raise DataError(
                f"dataset {self.title!r} cannot be loaded: {reason.rstrip('.')}. Give hub = {{ name = …, config = …, "
                "split = … } as on huggingface.co; where there is no network, the path of a file or a folder."
            ) from error
        if isinstance(data, Mapping):
            if len(data) != 1:
                raise DataError(f"dataset {self.title!r} has the splits {', '.join(data)}: name one in hub.")
            (data,) = data.values()
        for name in self.columns.values():
            if name not in data.column_names:
                raise UnknownName("column", name, data.column_names, of=f"dataset {self.title!r}")
        return data

    def _is_saved(self) -> bool:
        return any(Path(self.name, file).is_file() for file in _SAVED)

    def _saved(self) -> Any:
        from datasets import load_from_disk

        data = load_from_disk(self.name)
        if isinstance(data, Mapping) and self.split:
            if self.split not in data:
                raise UnknownName("split", self.split, data, of=f"dataset {self.name!r}")
            return data[self.split]
        return data

    def _loaded(self) -> Any:
        from datasets import load_dataset

        return load_dataset(self.name, self.config or None, split=self.split or None, revision=self.revision or None)


Records = FileRecords | HubRecords


def _with_values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def records_of(
    environment: str,
    path: str | Path | None,
    hub: HubOption | None,
    *,
    usual: str = "",
    home: Mapping[str, str] | None = None,
    where: str,
) -> Records:
    """The records that an environment's options `path` and `hub` name.

    Args:
        environment: its id, for messages.
        path: a file; None or "" for none.
        hub: a dataset's name, or a table of `KEYS`; None for none.
        usual: the file within ``$TESTBED_DATA`` that is read where neither is given.
        home: where the benchmark is on the hub: what a table without a name stands for.
        where: one sentence on where the file can be had.

    Raises:
        UsageError: neither is given and no file is usual, or both are, or `datasets` is not installed.
        UnknownName: the table has another key.
    """
    if hub is not None:
        if path:
            raise UsageError(f"{environment}: give path or hub, not both.")
        return hub_records(environment, hub, home or {})
    if path:
        return FileRecords(Path(path))
    if not usual or not os.environ.get("TESTBED_DATA"):
        remedy = "give its path, or set TESTBED_DATA" if usual else "give its path"
        raise UsageError(f"{environment} reads a file: {remedy}; or name a dataset by hub. {where.rstrip('.')}.")
    return FileRecords(Path(os.environ["TESTBED_DATA"], usual))


def hub_records(environment: str, hub: HubOption, home: Mapping[str, str]) -> HubRecords:
    """The dataset that an option such as `hub` names, see `records_of`."""
    table = {"name": hub} if isinstance(hub, str) else dict(hub)
    for key, value in table.items():
        if key not in KEYS:
            raise UnknownName(f"key of hub in {environment}", key, KEYS)
        if not isinstance(value, Mapping if key == "columns" else str):
            raise UsageError(f"{environment}: {key} of hub must be {'a table' if key == 'columns' else 'text'}.")
    if not table.get("name"):
        table = {**home, **table}
    if not table.get("name"):
        raise UsageError(
            f'{environment}: hub needs a name, such as hub = {{ name = "OWNER/DATASET", split = "test" }}.'
        )
    try:
        version("datasets")
    except PackageNotFoundError:
        raise UsageError(
            f"{environment}: hub = … needs Hugging Face datasets: pip install 'capability-testbed[datasets]'; or give "
            "the path of a file."
        ) from None
    return HubRecords(**table)
