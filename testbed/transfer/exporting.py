"""Attempts, and what models give their messages, as files for other programs: Parquet, CSV or JSON lines."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from testbed.errors import UnknownName, UsageError, unwritable
from testbed.store import Store
from testbed.store.schema import pack
from testbed.types import COST_COMPONENTS, Attempt, Task

FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".jsonl.gz": "jsonl.gz"}
_GROUP = 5000  # rows held at once
_SCORES = {
    **dict.fromkeys(("run", "arm", "task"), "string"),
    **{"sample": "int32", "attempt": "string", "success": "bool_", "scorer": "string", "scorer_hash": "string"},
    **{"message": "int32", "role": "string", "tokens": "int32", "nats": "float64"},
}

Row = dict[str, Any]


def export(
    store: Store,
    run: str,
    path: Path,
    *,
    format: str | None = None,
    force: bool = False,
    transcripts: bool = True,
    scores: bool = False,
) -> int:
    """Writes a run's attempts to a file, which appears only when it is whole.

    In Parquet and CSV `faults` and `transcript` are JSON text, in JSON lines they are JSON.

    Args:
        store: where the run is.
        run: its name.
        path: the file to write.
        format: "parquet", "csv", "jsonl" or "jsonl.gz"; by default the file's ending says it.
        force: replace a file that exists.
        transcripts: include the messages.
        scores: write what models give the messages, a row for each message and model, in place of the attempts.

    Returns:
        The number of rows written.

    Raises:
        UsageError: there is no such run or format, nothing was scored, or the file exists or cannot be written.
    """
    kind = format or next((kind for ending, kind in FORMATS.items() if path.name.lower().endswith(ending)), path.suffix)
    if kind not in FORMATS.values():
        raise UnknownName("export format", kind, FORMATS.values(), "The file's ending says it.")
    store.run(run)
    if path.exists() and not force:
        raise UsageError(f"{path} exists. Give another name, or replace it with --force.")
    if scores and not store.scores.scorers(run):
        raise UsageError(f"no message of run {run!r} has a score; `testbed nats {run}` makes them.")
    rows = _score_rows(store, run) if scores else _rows(store, run, transcripts)
    schema = _SCORES if scores else _attempts(transcripts)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if kind in ("parquet", "csv"):
            count = _write_table(part, rows, schema, kind)
        else:
            count = _write_lines(part, rows, kind.endswith("gz"))
        os.replace(part, path)
    except OSError as error:  # what Arrow makes of one names the part, and not why
        why = os.strerror(error.errno) if error.errno else str(error)
        raise unwritable(path, why) from error
    finally:
        with suppress(OSError):  # what could not be made is not there
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


def _score_rows(store: Store, name: str) -> Iterator[Row]:
    run, tasks = store.run(name), store.tasks(name)
    for hash_, scorer in store.scores.scorers(name).items():
        found = store.scores.of(name, hash_)
        for n, at in enumerate(found.attempt.tolist()):
            yield {
                "run": name,
                "arm": run.arms[found.arm[at]].name,
                "task": tasks[found.task[at]].hash,
                "sample": int(found.sample[at]),
                "attempt": str(found.id[at]),
                "success": None if found.success[at] < 0 else bool(found.success[at]),
                "scorer": scorer.name,
                "scorer_hash": hash_,
                "message": int(found.message[n]),
                "role": str(found.role[n]),
                "tokens": int(found.tokens[n]),
                "nats": float(found.nats[n]),
            }


def _write_lines(path: Path, rows: Iterable[Row], packed: bool) -> int:
    count = 0
    with gzip.open(path, "wb") if packed else path.open("wb") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            file.write(pack(row).encode() + b"\n")
    return count


def _write_table(path: Path, rows: Iterator[Row], columns: Mapping[str, str], kind: str) -> int:
    import pyarrow as pa
    from pyarrow.csv import CSVWriter
    from pyarrow.parquet import ParquetWriter

    count = 0
    schema = pa.schema([(name, getattr(pa, of)()) for name, of in columns.items()])
    with CSVWriter(path, schema) if kind == "csv" else ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(rows, _GROUP)):
            writer.write_table(pa.Table.from_pylist([_flat(row) for row in group], schema=schema))
            count += len(group)
    return count


def _attempts(transcripts: bool) -> dict[str, str]:
    """Columns of attempts with their kinds, as pyarrow names these."""
    columns = dict.fromkeys(("run", "environment", "task", "prompt", "cluster", "arm", "arm_hash"), "string")
    columns |= {"sample": "int32", "seed": "int64", "id": "string", "status": "string", "ended": "string"}
    columns |= {"success": "bool_", "score": "float64", "answer": "string"}
    columns |= {name: "float64" if name in ("seconds", "usd") else "int64" for name in COST_COMPONENTS}
    return columns | {"faults": "string"} | ({"transcript": "string"} if transcripts else {})


def _flat(row: Row) -> Row:
    flat = {name: pack(value) if isinstance(value, dict | list) else value for name, value in row.items()}
    # Parquet's strings are UTF-8, which has no halves of surrogate pairs.
    return {
        k: v.encode("utf-8", "replace").decode() if isinstance(v, str) and not v.isascii() else v
        for k, v in flat.items()
    }
