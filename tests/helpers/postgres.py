"""A PostgreSQL server of the tests' own, and places for stores in both databases."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest


@contextmanager
def server() -> Iterator[str]:
    """URL of a server in a temporary folder; skips where the programs are not there."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    places = [*glob.glob("/usr/lib/postgresql/*/bin"), os.environ["PATH"]]  # Debian keeps them off the PATH
    initdb, pg_ctl = (shutil.which(name, path=os.pathsep.join(places)) for name in ("initdb", "pg_ctl"))
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed (Debian: postgresql)")
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="testbed-pg"))
    if user:
        shutil.chown(folder, user)
    options = {"check": True, "user": user, "cwd": folder, "stdout": subprocess.DEVNULL}
    subprocess.run([initdb, "-D", "data", "-U", "tester", "--auth=trust", "-E", "UTF8", "--no-sync"], **options)
    settings = {"listen_addresses": "''", "unix_socket_directories": folder, "max_connections": 200}
    settings |= dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit", "autovacuum", "jit"), "off")
    serve = " ".join(f"-c {name}={value}" for name, value in settings.items())
    subprocess.run([pg_ctl, "-D", "data", "-w", "-l", "log", "-o", serve, "start"], **options)
    try:
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        subprocess.run([pg_ctl, "-D", "data", "-m", "immediate", "stop"], **options)
        shutil.rmtree(folder)


@contextmanager
def place(server: str) -> Iterator[str]:
    """URL of an empty place in a server's database, gone afterwards: a schema, which is made in no time."""
    import psycopg

    name = f"t{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        try:
            yield f"{server}&options=-csearch_path%3D{name}&application_name={name}"
        finally:
            _leave_alone(connection, name)
            connection.execute(f"DROP SCHEMA {name} CASCADE")


def empty(url: str) -> None:
    """Leaves a place as it is once its tables are made: making them anew takes longer than most tests."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        (name,) = connection.execute("SELECT current_schema()").fetchone() or ("",)
        _leave_alone(connection, name)
        made = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
        deleted = [f"DELETE FROM {table}" for (table,) in made if table != "meta"]
        deleted.append("DELETE FROM meta WHERE key NOT LIKE '%schema_version'")
        connection.execute("; ".join(deleted))
        connection.execute(
            "SELECT setval(format('%%I', sequencename), 1, false) FROM pg_sequences WHERE schemaname = %s", [name]
        )


def _leave_alone(connection: Any, name: str) -> None:
    """Ends whoever else is still connected to a place."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    connection.execute(f"{others} AND application_name = %s", [name])
