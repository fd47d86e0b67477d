"""Records of files that somebody else wrote: CSV, JSON lines or a JSON array, also gzipped, with the place of each."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from testbed.errors import DataError, UnknownName, nearest_path

Record = tuple[str, dict[str, Any]]  # where it stands, such as "runs.csv:12", and its values by column
_KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "lines", ".ndjson": "lines", ".json": "json"}


def read_records(path: Path) -> Iterator[Record]:
    """Streams the records of a file; its ending says the format, `.gz` may follow.

    Raises:
        DataError: it is missing, empty or malformed; names the line.
        UnknownName: it has another ending.
    """
    suffixes = path.suffixes if path.suffix != ".gz" else path.suffixes[:-1]
    kind = suffixes[-1].lower() if suffixes else ""
    if kind not in _KINDS:
        raise UnknownName("file ending", kind, _KINDS, "Each may be followed by .gz.")
    if not path.is_file():
        near = nearest_path(path, tuple(ending + packed for ending in _KINDS for packed in ("", ".gz")))
        raise DataError(f"there is no file {path}.{near}")
    with _opened(path) as file:
        empty = True
        for record in _read(_KINDS[kind], path, file):
            empty = False
            yield record
    if empty:
        raise DataError(f"{path} has no records.")


def _read(kind: str, path: Path, file: IO[bytes]) -> Iterator[Record]:
    if kind in ("csv", "tsv"):
        return _read_table(path, file, "\t" if kind == "tsv" else ",")
    if kind == "json" and _is_array(file):
        return _read_array(path, file)
    return _read_lines(path, file)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as raw:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not whole gzip data ({error}). Fetch or pack it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _decoded(path: Path, file: IO[bytes]) -> Iterator[str]:
    for number, raw in enumerate(file, 1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            place = f"byte {error.start + 1} of the line is {error.object[error.start]:#04x}"
            raise DataError(f"{path}:{number}: not UTF-8 text ({place}). Convert the file to UTF-8.") from error


def _read_table(path: Path, file: IO[bytes], delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # logs hold whole transcripts in a field
    rows = csv.reader(_decoded(path, file), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f"{path}:{line}: not a CSV record ({error}).") from error
        if row is None:
            return
        if not row:
            continue
        if not header:
            header = _header(path, row)
        elif len(row) != len(header):
            raise DataError(f"{path}:{line}: {len(row)} fields, but the header has {len(header)}.")
        else:
            yield f"{path}:{line}", dict(zip(header, row, strict=True))


def _header(path: Path, row: list[str]) -> list[str]:
    names = [name.strip() for name in row]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{path}:1: two columns are called {double!r}. Rename one.")
    return names


def _read_lines(path: Path, file: IO[bytes]) -> Iterator[Record]:
    for number, line in enumerate(_decoded(path, file), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"{where}: not a JSON line ({error}).") from error
            yield where, _object(where, value)


def _is_array(file: IO[bytes]) -> bool:
    start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    return start.startswith(b"[")


def _read_array(path: Path, file: IO[bytes]) -> Iterator[Record]:
    try:
        values = json.loads("".join(_decoded(path, file)))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno}).") from error
    except RecursionError as error:
        raise DataError(f"{path}: the JSON is nested too deeply.") from error
    for number, value in enumerate(values, 1):
        where = f"{path}: item {number}"
        yield where, _object(where, value)


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a {type(value).__name__} where a JSON object with the attempt's columns is needed.")
    return value
