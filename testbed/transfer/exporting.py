"""Attempts as files for other programs: Parquet or JSON lines, one row an attempt."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from testbed.errors import UnknownName, UsageError
from testbed.store import Store
from testbed.store.schema import pack
from testbed.types import COST_COMPONENTS, Attempt, Task

FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".jsonl.gz": "jsonl.gz"}
_GROUP = 5000  # rows held at once

Row = dict[str, Any]


def export(
    store: Store, run: str, path: Path, *, format: str | None = None, force: bool = False, transcripts: bool = True
) -> int:
    """Writes a run's attempts to a file, which appears only when it is whole.

    In Parquet `faults` and `transcript` are JSON text, in JSON lines they are JSON.

    Args:
        store: where the run is.
        run: its name.
        path: the file to write.
        format: "parquet", "jsonl" or "jsonl.gz"; by default the file's ending says it.
        force: replace a file that exists.
        transcripts: include the messages.

    Returns:
        The number of attempts written.

    Raises:
        UsageError: there is no such run or format, or the file exists or cannot be written.
    """
    kind = format or next((kind for ending, kind in FORMATS.items() if path.name.lower().endswith(ending)), path.suffix)
    if kind not in FORMATS.values():
        raise UnknownName("export format", kind, FORMATS.values(), "The file's ending says it.")
    store.run(run)
    if path.exists() and not force:
        raise UsageError(f"{path} exists. Give another name, or replace it with --force.")
    rows = _rows(store, run, transcripts)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        count = _write_parquet(part, rows) if kind == "parquet" else _write_lines(part, rows, kind.endswith("gz"))
        os.replace(part, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def _rows(store: Store, name: str, transcripts: bool) -> Iterator[Row]:
    run = store.run(name)
    tasks = {task.hash: task for task in store.tasks(name)}
    for arm in run.arms:
        for attempt in store.attempts(name, arm=arm.name, texts=transcripts):
            row = _row(name, arm.name, attempt, tasks[attempt.task])
            if transcripts:
                row["transcript"] = list(attempt.transcript)
            yield row


def _row(run: str, arm: str, attempt: Attempt, task: Task) -> Row:
    return {
        "run": run,
        "environment": task.environment,
        "task": task.hash,
        "prompt": task.prompt,
        "cluster": task.cluster,
        "arm": arm,
        "arm_hash": attempt.arm,
        "sample": attempt.sample,
        "seed": attempt.seed,
        "id": attempt.id,
        "status": attempt.status.value,
        "ended": attempt.ended,
        "success": attempt.success,
        "score": attempt.score,
        "answer": attempt.answer,
        **attempt.cost.as_dict(),
        "faults": dict(attempt.faults),
    }


def _write_lines(path: Path, rows: Iterable[Row], packed: bool) -> int:
    count = 0
    with gzip.open(path, "wb") if packed else path.open("wb") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            file.write(pack(row).encode() + b"\n")
    return count


def _write_parquet(path: Path, rows: Iterator[Row]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    first = list(islice(rows, _GROUP))
    schema = _schema(with_transcripts=not first or "transcript" in first[0])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        group = first
        while group:
            writer.write_table(pa.Table.from_pylist([_flat(row) for row in group], schema=schema))
            count += len(group)
            group = list(islice(rows, _GROUP))
    return count


def _schema(*, with_transcripts: bool) -> Any:
    import pyarrow as pa

    text, whole, number = pa.string(), pa.int64(), pa.float64()
    fields = [(name, text) for name in ("run", "environment", "task", "prompt", "cluster", "arm", "arm_hash")]
    fields += [("sample", pa.int32()), ("seed", whole), ("id", text), ("status", text), ("ended", text)]
    fields += [("success", pa.bool_()), ("score", number), ("answer", text)]
    fields += [(name, number if name in ("seconds", "usd") else whole) for name in COST_COMPONENTS]
    fields += [("faults", text)] + ([("transcript", text)] if with_transcripts else [])
    return pa.schema(fields)


def _flat(row: Row) -> Row:
    flat = {name: pack(value) if isinstance(value, dict | list) else value for name, value in row.items()}
    # Parquet's strings are UTF-8, which has no halves of surrogate pairs.
    return {
        k: v.encode("utf-8", "replace").decode() if isinstance(v, str) and not v.isascii() else v
        for k, v in flat.items()
    }
