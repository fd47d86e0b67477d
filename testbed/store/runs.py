"""Runs and tasks as rows, and the queries that say which attempts are a run's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
import zstandard

from testbed.errors import StoreError, UnknownName
from testbed.store.records import ArmRecord, Run, RunSummary, check_run, imported
from testbed.store.schema import (
    Database,
    arms,
    attempts,
    meta,
    pack,
    run_arms,
    run_tasks,
    runs,
    tasks,
    transcripts,
    unpack,
)
from testbed.store.writer import AttemptTable, Upsert, row_attempt
from testbed.types import Attempt, Status, Task

BOARD = "board_schema_version"  # the key in `meta` that a board's database has
_BLOCK = 500  # rows of outcomes that are Python objects at one time; more leave the processor's cache


def is_boards(connection: sa.Connection) -> bool:
    """Whether the store is a board's database, whose runs are entries."""
    return connection.scalar(sa.select(meta.c.value).where(meta.c.key == BOARD)) is not None


class RunTables:
    """Reads and writes runs within the caller's transaction.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        sign = "?" if database.is_sqlite else "%s"
        self._label = database.label
        self._runs = Upsert(runs, "name", "", sign)
        # A task's cluster and meta and an arm's spec are labels, not identity: the newest ones are kept.
        self._tasks = Upsert(tasks, "hash", "true", sign)
        self._arms = Upsert(arms, "hash", "true", sign)

    def has(self, connection: sa.Connection, name: str) -> bool:
        """Whether there is a run of this name."""
        return connection.scalar(sa.select(runs.c.name).where(runs.c.name == name)) is not None

    def need(self, connection: sa.Connection, name: str) -> None:
        """Raises `UnknownName` if there is no run of this name."""
        if not self.has(connection, name):
            raise UnknownName("run", name, connection.scalars(sa.select(runs.c.name)))

    def read(self, connection: sa.Connection, name: str) -> Run:
        """A run; raises `UnknownName` if there is none."""
        self.need(connection, name)
        row = connection.execute(sa.select(runs).where(runs.c.name == name)).one()
        query = sa.select(arms.c.hash, run_arms.c.name, arms.c.spec, run_arms.c.samples)
        query = query.join_from(run_arms, arms, arms.c.hash == run_arms.c.arm)
        found = connection.execute(query.where(run_arms.c.run == name).order_by(run_arms.c.position)).all()
        records = tuple(ArmRecord(hash, arm, unpack(spec)) for hash, arm, spec, _ in found)
        samples = {arm: count for _, arm, _, count in found}
        return Run(row.name, unpack(row.experiment), row.seed, records, row.created, samples)

    def tasks(self, connection: sa.Connection, name: str) -> tuple[Task, ...]:
        """The tasks of a run, in order."""
        query = sa.select(tasks).join_from(run_tasks, tasks, tasks.c.hash == run_tasks.c.task)
        query = query.where(run_tasks.c.run == name).order_by(run_tasks.c.position)
        return tuple(row_task(row) for row in connection.execute(query))

    def task(self, connection: sa.Connection, hash: str) -> Task | None:
        """A task by its hash."""
        row = connection.execute(sa.select(tasks).where(tasks.c.hash == hash)).first()
        return None if row is None else row_task(row)

    def arm(self, connection: sa.Connection, hash: str) -> ArmRecord | None:
        """An arm by its hash, under the name that the newest run with it gives it; None if no run has it."""
        query = sa.select(run_arms.c.name, arms.c.spec).join_from(run_arms, arms, arms.c.hash == run_arms.c.arm)
        query = query.join(runs, runs.c.name == run_arms.c.run).where(run_arms.c.arm == hash)
        row = connection.execute(query.order_by(runs.c.created.desc(), run_arms.c.run).limit(1)).first()
        return None if row is None else ArmRecord(hash, row.name, unpack(row.spec))

    def label(self, connection: sa.Connection, listed: Sequence[Task]) -> None:
        """Keeps tasks, with their newest labels."""
        self._tasks(connection, [_task_row(task) for task in {task.hash: task for task in listed}.values()])

    def refuse_boards(self, connection: sa.Connection) -> None:
        """Refuses a new run in a board's database: it would relabel the board's frozen tasks, and nobody may delete it.

        Raises:
            StoreError: it is one.
        """
        if is_boards(connection):
            raise StoreError(
                f"{self._label} is a board's database, which holds no runs but its entries. Give runs a store of their "
                "own with --store, such as testbed.sqlite."
            )

    def describe(self, connection: sa.Connection, run: Run) -> None:
        """Keeps a stored run's experiment as it is worded now."""
        connection.execute(runs.update().where(runs.c.name == run.name).values(experiment=pack(run.experiment)))

    def write(self, connection: sa.Connection, run: Run, listed: Sequence[Task]) -> None:
        """Writes a run, in place of what it named before."""
        self._runs(connection, [(run.name, pack(run.experiment), run.seed, run.created)])
        self.label(connection, listed)
        self._arms(connection, [(hash, pack(spec)) for hash, spec in {arm.hash: arm.spec for arm in run.arms}.items()])
        for table in (run_tasks, run_arms):
            connection.execute(table.delete().where(table.c.run == run.name))
        rows = [{"run": run.name, "position": n, "task": task.hash} for n, task in enumerate(listed)]
        if rows:
            connection.execute(run_tasks.insert(), rows)
        for n, arm in enumerate(run.arms):
            values = {"position": n, "arm": arm.hash, "name": arm.name, "samples": run.samples[arm.name]}
            connection.execute(run_arms.insert().values(run=run.name, **values))

    def summaries(self, connection: sa.Connection) -> list[RunSummary]:
        """All runs, oldest first."""
        found = connection.execute(sa.select(runs.c.name, runs.c.created).order_by(runs.c.created, runs.c.name)).all()
        return [_summary(connection, name, created) for name, created in found]


class Merge:
    """Foreign attempts on their way into a run of imports, all in one transaction; made by `Store.merging`.

    Args:
        database: where to.
        connection: the transaction.
        name: the run.

    Raises:
        StoreError: the run was not made by imports, or there is none and it is a board's database.
    """

    def __init__(self, database: Database, connection: sa.Connection, name: str) -> None:
        self._connection, self._name = connection, name
        self._attempts, self._runs = AttemptTable(database), RunTables(database)
        self._old = self._runs.read(connection, name) if self._runs.has(connection, name) else None
        if self._old is None:
            self._runs.refuse_boards(connection)
        if self._old is not None and self._old.experiment != imported(name):
            raise StoreError(f"run {name!r} was made by `testbed run`. Import under another name.")

    def add(self, batch: Sequence[Attempt], name: Callable[[Attempt], str]) -> int:
        """Writes attempts; returns how many are new.

        Args:
            batch: the attempts.
            name: an attempt's arm and task, for people.

        Raises:
            StoreError: the run has one of them with another outcome, answer or cost.
        """
        stored = self._stored([attempt.id for attempt in batch])
        for attempt in batch:
            same = stored.get(attempt.id)
            if same is not None and same.status is Status.COMPLETE and same != attempt:
                raise StoreError(
                    f"run {self._name!r} has sample {attempt.sample} of {name(attempt)} already, with another "
                    f"outcome, answer or cost (attempt {attempt.id[:8]}). Import into another run, or name the arm "
                    "differently."
                )
        self._attempts.write(self._connection, batch)
        return len(batch) - len(stored)

    def extend(
        self, listed: Sequence[Task], records: Sequence[ArmRecord], samples: dict[str, int], created: str
    ) -> None:
        """Adds the tasks and arms that the run does not have; `samples` counts attempts per task by arm name."""
        old = self._old or Run(self._name, imported(self._name), 0, (), created, {})
        tasks = {task.hash: task for task in (*self._runs.tasks(self._connection, self._name), *listed)}
        arms = {record.name: record for record in (*old.arms, *records)}
        counts = {name: max(old.samples.get(name, 0), samples.get(name, 0)) for name in arms}
        run = Run(self._name, old.experiment, old.seed, tuple(arms.values()), old.created, counts)
        check_run(run)
        self._runs.write(self._connection, run, list(tasks.values()))

    def _stored(self, ids: list[str]) -> dict[str, Attempt]:
        if self._old is None:
            return {}
        decompressor = zstandard.ZstdDecompressor()
        rows = self._connection.execute(whole_attempts().where(attempts.c.id.in_(ids)))
        return {row.id: row_attempt(row, row[-1], decompressor) for row in rows}


def in_run(name: str, *columns: Any) -> sa.Select[Any]:
    """A query of these columns over the stored attempts of a run."""
    return within(sa.select(*columns).select_from(attempts), name)


def within(query: sa.Select[Any], name: str) -> sa.Select[Any]:
    """Restricts a query over attempts to the grid of a run: its arms, tasks, seed and numbers of samples."""
    return (
        query.join(run_arms, run_arms.c.arm == attempts.c.arm)
        .join(run_tasks, sa.and_(run_tasks.c.run == run_arms.c.run, run_tasks.c.task == attempts.c.task))
        .join(runs, sa.and_(runs.c.name == run_arms.c.run, runs.c.seed == attempts.c.seed))
        .where(run_arms.c.run == name, attempts.c.sample < run_arms.c.samples)
    )


def failed_answers(connection: sa.Connection, name: str, arm: str) -> list[tuple[str, str, int]]:
    """Of an arm of a run: the hash of a task, a wrong answer to it, and how many failed attempts gave that."""
    answered = attempts.c.success == 0, attempts.c.answer.is_not(None)
    query = in_run(name, attempts.c.task, attempts.c.answer, sa.func.count()).where(run_arms.c.name == arm, *answered)
    found = connection.execute(query.group_by(attempts.c.task, attempts.c.answer))
    return [(task, unpack(answer), times) for task, answer, times in found]


def whole_attempts(*, texts: bool = True) -> sa.Select[Any]:
    """A query of attempts as `row_attempt` reads them, the compressed transcript (or NULL) as the last column."""
    if not texts:
        return sa.select(*attempts.c, sa.null()).select_from(attempts)
    both = attempts.outerjoin(transcripts, transcripts.c.attempt == attempts.c.id)
    return sa.select(*attempts.c, transcripts.c.data).select_from(both)


def whole_id(connection: sa.Connection, prefix: str) -> str | None:
    """The id of the attempt whose id begins so; None where there is none.

    Raises:
        StoreError: no id begins so, or several attempts have one that does.
    """
    if not re.fullmatch("[0-9a-f]{1,32}", prefix):
        raise StoreError(
            f"{prefix!r} is no attempt: an id is 32 characters of 0-9 and a-f, of which the first will do."
        )
    same = attempts.c.id.between(prefix, prefix + "g")  # an index serves this, unlike LIKE
    found = list(connection.scalars(sa.select(attempts.c.id).where(same).order_by(attempts.c.id).limit(4)))
    if len(found) > 1:
        shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise StoreError(f"several attempts have an id that begins with {prefix!r}: {shown}. Give more characters.")
    return found[0] if found else None


def blocks(found: sa.CursorResult[Any]) -> Iterator[Sequence[Sequence[Any]]]:
    """A query's rows as the driver gives them: SQLAlchemy's own rows take as long again."""
    if found.cursor is not None:
        while rows := found.cursor.fetchmany(_BLOCK):
            yield rows


def _summary(connection: sa.Connection, name: str, created: str) -> RunSummary:
    def count(table: sa.Table) -> int:
        return connection.scalar(sa.select(sa.func.count()).where(table.c.run == name)) or 0

    missing = sa.func.sum(sa.case((attempts.c.status == Status.MISSING.value, 1), else_=0))
    stored, lost = connection.execute(in_run(name, sa.func.count(), missing)).one()
    return RunSummary(name, created, count(run_tasks), count(run_arms), stored, int(lost or 0))


def _task_row(task: Task) -> tuple[Any, ...]:
    texts = (pack(task.prompt), pack(task.reference))
    return (task.hash, task.environment, *texts, task.grader, pack(task.cluster), pack(dict(task.meta)))


def row_task(row: Any) -> Task:
    """The task of a row of its table.

    Raises:
        StoreError: it was changed or damaged.
    """
    meta = unpack(row.meta)
    task = Task(row.environment, unpack(row.prompt), unpack(row.reference), row.grader, unpack(row.cluster), meta)
    if task.hash != row.hash:
        raise StoreError(
            f"task {row.hash} of the store does not match its own content: the file was changed or damaged."
        )
    return task
