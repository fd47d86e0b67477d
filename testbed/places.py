"""Where in an experiment file each key stands, so that an error can name the line, however late it is found."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from testbed.errors import ExperimentError, SandboxUnavailable, UsageError

Key = tuple[str | int, ...]  # such as ("arm", 1, "budget", "turns"): the key `turns` in the second [[arm]]'s budget

_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*\''''
    r"""|\#[^\n]*|\n|[\[\]{}=,.]|[^\s\[\]{}=,."'\#]+""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Places:
    """Lines of a TOML file's keys.

    Attributes:
        file: its name in messages; empty where an experiment was made by a program.
        lines: line of each table, key and element of a list.
        values: text of each value that is no table and no list.
        arguments: tables in whose place an argument of the command line stands → that argument.
    """

    file: str = ""
    lines: Mapping[Key, int] = field(default_factory=dict)
    values: Mapping[Key, str] = field(default_factory=dict)
    arguments: Mapping[Key, str] = field(default_factory=dict)

    @classmethod
    def of(cls, file: str, text: str) -> Places:
        """The places in a text that `tomllib` has accepted."""
        scan = _Scan(text)
        scan.document()
        return cls(file, scan.lines, scan.values)

    def error(self, message: str, *keys: Key) -> ExperimentError:
        """An error at the first of the keys that the file has, else at what encloses the first."""
        line = next((self.lines[key] for key in keys if key in self.lines), None)
        for end in range(len(keys[0]) if keys and line is None else 0, 0, -1):
            line = line or self.lines.get(keys[0][:end])
        message = message if message.endswith((".", "?")) else message + "."
        return ExperimentError(message, path=self.file or "experiment", line=line)

    @contextmanager
    def blaming(self, *tables: Key) -> Iterator[None]:
        """Tells errors of the caller with the line of the option that they are about.

        That is the option which the message names, else the one whose value it quotes, else the first of the tables
        that the file has (its `id`, where it has one; itself, where it is no table but the id alone). What the machine
        lacks is nobody's option, and is told as it is.

        Args:
            tables: where the options in use stand; of two of the same name, the earlier table's counts.

        Raises:
            ExperimentError: names the file and the line.
        """
        try:
            yield
        except (ExperimentError, SandboxUnavailable):
            raise
        except UsageError as error:
            message = str(error)
            named = sorted(tables, key=lambda table: _position(message, str(table[-1])) is None)
            options = self._options(message, named)
            argument = next((self.arguments[table] for table in tables if table in self.arguments), "")
            if argument and not options:
                raise ExperimentError(message, path=argument) from error
            ids = [table if table in self.values else (*table, "id") for table in named]
            keys = [key for key in (*options, *ids, *named) if key in self.lines]
            raise self.error(message, *keys, *tables[:1]) from error

    def _options(self, message: str, tables: Sequence[Key]) -> tuple[Key, ...]:
        """The option that a message is about, if it can be told."""
        options = [key for table in tables for key in self.lines if key[: len(table)] == table != key]
        options = [key for key in options if isinstance(key[-1], str)]
        for texts in ({key: str(key[-1]) for key in options}, {key: self.values.get(key, "") for key in options}):
            found = [(at, n) for n, key in enumerate(options) if (at := _position(message, texts[key])) is not None]
            if found:
                return (options[min(found)[1]],)
        return ()


def _position(message: str, text: str) -> int | None:
    """Where a message has a text as a word of its own; whole numbers may have become real ones."""
    found = re.search(rf"(?<![\w.-]){re.escape(text)}(?:\.0)?(?![\w-])", message) if text else None
    return found.start() if found else None


class _Scan:
    """Walks through TOML that is known to be right, and remembers lines."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self.values: dict[Key, str] = {}
        self._counts: dict[Key, int] = {}  # elements of each array of tables so far
        self._tokens: list[tuple[str, int]] = []
        line = 1
        for found in _TOKEN.finditer(text):
            if not found[0].startswith("#"):
                self._tokens.append((found[0], line))
            line += found[0].count("\n")
        self._at = 0

    def document(self) -> None:
        table: Key = ()
        while self._more():
            if self._peek() == "\n":
                self._next()
            elif self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Key:
        line = self._tokens[self._at][1]
        self._next()
        several = self._peek() == "["
        if several:
            self._next()
        names = self._names("]")
        if several:
            self._next()
        path: Key = ()
        for n, name in enumerate(names, 1):
            path = (*path, name)
            if several and n == len(names):
                self._counts[path] = self._counts.get(path, 0) + 1
            self.lines.setdefault(path, line)
            if path in self._counts:  # a header below an array of tables belongs to the array's last element
                path = (*path, self._counts[path] - 1)
        self.lines.setdefault(path, line)
        return path

    def _pair(self, table: Key) -> None:
        line = self._tokens[self._at][1]
        names = self._names("=")
        for end in range(1, len(names) + 1):
            self.lines.setdefault((*table, *names[:end]), line)
        self._value((*table, *names))

    def _value(self, key: Key) -> None:
        first = self._next()
        if first == "{":
            while self._skip("\n", ",") != "}":
                self._pair(key)
            self._next()
        elif first == "[":
            number = 0
            while self._skip("\n", ",") != "]":
                self.lines[(*key, number)] = self._tokens[self._at][1]
                self._value((*key, number))
                number += 1
            self._next()
        else:
            parts = [_unquoted(first)]
            while self._more() and self._peek() not in ("\n", ",", "]", "}"):
                parts.append(self._next())
            self.values[key] = "".join(parts)

    def _names(self, end: str) -> list[str]:
        """A dotted key up to and with what ends it."""
        names = []
        while (token := self._next()) != end:
            if token != ".":
                names.append(_unquoted(token))
        return names

    def _skip(self, *tokens: str) -> str:
        while self._peek() in tokens:
            self._next()
        return self._peek()

    def _more(self) -> bool:
        return self._at < len(self._tokens)

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1][0]


def _unquoted(token: str) -> str:
    return str(tomllib.loads(f"k = {token}")["k"]) if token[0] in "\"'" else token
