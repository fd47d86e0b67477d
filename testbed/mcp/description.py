"""An MCP server as an experiment file describes it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from testbed.errors import UsageError
from testbed.types import digest

Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True)]


class McpServer(BaseModel):
    """A server as an experiment file describes it, in ``[tool."mcp:NAME"]``.

    ``${NAME}`` in `url`, `env` and `headers` stands for a variable of the testbed's own environment. It is put in when
    a server is started: neither the store nor any hash sees the value.

    Attributes:
        command: what starts a server that speaks over stdin and stdout.
        url: where a server listens that speaks streamable HTTP; exactly one of the two is given.
        env: variables of the server's environment, besides HOME, PATH and the like.
        headers: HTTP headers.
        cwd: the server's working directory.
        offer: which of the server's tools are offered, by its own names; all where none is named.
        prefix: put before the tools' names, so that those of two servers differ.
        per_attempt: an attempt has a server (a session, with `url`) of its own, for servers that keep state.
        slots: servers (sessions) at one time, at least 1. Each does one call at a time; others wait, outside any limit.
        timeout: seconds a call may take.
        start_timeout: seconds a server may take to say what it offers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] = ()
    url: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    cwd: str = "."
    offer: tuple[str, ...] = ()
    prefix: str = Field(default="", pattern=r"^[a-zA-Z0-9_-]*$")
    per_attempt: bool = Field(default=False, strict=True)
    slots: Whole = Field(default=4, ge=1)
    timeout: Real = Field(default=10.0, gt=0, allow_inf_nan=False)
    start_timeout: Real = Field(default=30.0, gt=0, allow_inf_nan=False)

    @field_validator("command", "offer", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"must be a list of strings, such as {value.split()!r}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise UsageError('give either command = ["python", "server.py"] or url = "http://…" of the MCP server.')
        if self.url and not self.url.startswith(("http://", "https://")):
            raise UsageError(f"url = {self.url!r} must begin with http:// or https://.")
        if self.url and self.env:
            raise UsageError("env is for servers that command starts; one behind a url has its own environment.")
        if self.command and self.headers:
            raise UsageError("headers are for servers behind a url; use env with command.")
        if not Path(self.cwd).is_dir():
            raise UsageError(f"cwd = {self.cwd!r} is no folder.")
        return self

    def identity(self) -> dict[str, Any]:
        """What of these options can change a result: values of `env` and `headers` as they are written, hashed.

        Files that the command names are known by their content, so that a changed server is another arm.
        """
        files = {part: _hash_of(Path(self.cwd, part)) for part in self._own_files()}
        return {
            "command": list(self.command),
            "files": files,
            "url": self.url,
            "env": {name: digest(value) for name, value in self.env.items()},
            "headers": {name: digest(value) for name, value in self.headers.items()},
            "cwd": self.cwd,
            "per_attempt": self.per_attempt,
            "timeout": self.timeout,
        }

    def _own_files(self) -> Iterable[str]:
        """The files that a command names, programs that the whole machine shares apart."""
        for n, part in enumerate(self.command):
            if (n or not os.path.isabs(part)) and len(part) < 1_000 and Path(self.cwd, part).is_file():
                yield part


def _hash_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
