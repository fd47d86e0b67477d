"""Where runs and attempts are kept: SQLite in a file by default, PostgreSQL by URL.

Attempts are content-addressed and belong to no run: a run names tasks, arms and sample counts, and every stored attempt
of its seed that lies in that grid is its attempt. So a run resumes by itself, and an arm sampled once serves all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
import zstandard

from testbed.closing import Closing
from testbed.errors import StoreError, UnknownName
from testbed.store.edits import RunEdits
from testbed.store.records import (
    USUAL,
    ArmRecord,
    Outcomes,
    Run,
    RunSummary,
    StoredText,
    changes,
    check_run,
    imported,
    outcomes_of,
)
from testbed.store.runs import Merge, RunTables, blocks, failed_answers, in_run, whole_attempts, whole_id, within
from testbed.store.schema import Database, attempts, run_arms, run_tasks, transcripts
from testbed.store.scores import MessageScore, ScorerRecord, Scores, ScoreTables
from testbed.store.writer import BATCH, AttemptWriter, row_attempt, unpacked
from testbed.types import COST_COMPONENTS, Attempt, Status, Task

__all__ = [
    "ArmRecord",
    "AttemptWriter",
    "MessageScore",
    "Outcomes",
    "Run",
    "RunSummary",
    "ScorerRecord",
    "Scores",
    "Store",
    "StoredText",
]


class Store(Closing):
    """Runs and attempts in a database; open one with `Store.open`. A context manager.

    Args:
        database: an open database.

    Attributes:
        scores: what models give the messages of attempts.
        edits: renames and deletes runs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs = RunTables(database)
        self.scores = ScoreTables(database)
        self.edits = RunEdits(database)

    @classmethod
    def open(cls, where: str | Path = "testbed.sqlite", *, create: bool = True) -> Store:
        """Opens a store.

        Args:
            where: path of an SQLite file, or a SQLAlchemy URL such as postgresql://user@host/database.
            create: make it if there is none; False for callers that only read.

        Raises:
            StoreError: it cannot be opened, is something else, or is of a newer schema.
        """
        return cls(Database(where, create=create))

    def close(self) -> None:
        """Closes the database; writers must have been closed before."""
        self._database.close()

    # -- runs

    def add_run(self, run: Run, tasks: Sequence[Task]) -> None:
        """Records a run before its attempts are made; when the same run is there, keeps only its newest wording.

        That is its tasks' labels, and what the experiment calls and says of itself.

        Raises:
            StoreError: another experiment has that name, and the message says what differs; or it is a board's
                database, which takes no new run.
        """
        check_run(run)
        with self._database.writing() as connection:
            if not self._runs.has(connection, run.name):
                self._runs.refuse_boards(connection)
                self._runs.write(connection, run, tasks)
                return
            old, old_tasks = self._runs.read(connection, run.name), self._runs.tasks(connection, run.name)
            if old.experiment == imported(run.name):
                raise StoreError(f"run {run.name!r} holds imported outcomes. Give the experiment another name.")
            found = changes(old, run, old_tasks, tasks)
            if found:
                raise StoreError(
                    f"the experiment changed since run {run.name!r} was started: {'; '.join(found)}. "
                    "Give it another name: attempts of arms and tasks that did not change are reused."
                )
            self._runs.label(connection, tasks)
            self._runs.describe(connection, run)

    @property
    def label(self) -> str:
        """Where it is, as it may be shown: the path of a file, or a URL without its password."""
        return self._database.label

    def run(self, name: str) -> Run:
        """A run by name.

        Raises:
            UnknownName: there is none.
        """
        with self._database.reading() as connection:
            return self._runs.read(connection, name)

    def has(self, name: str) -> bool:
        """Whether there is a run of this name."""
        with self._database.reading() as connection:
            return self._runs.has(connection, name)

    def runs(self) -> list[RunSummary]:
        """All runs, oldest first."""
        with self._database.reading() as connection:
            return self._runs.summaries(connection)

    def tasks(self, name: str) -> tuple[Task, ...]:
        """A run's tasks, in order.

        Raises:
            UnknownName: there is no such run.
        """
        with self._database.reading() as connection:
            self._runs.need(connection, name)
            return self._runs.tasks(connection, name)

    def task(self, hash: str) -> Task:
        """A task of any run by its hash.

        Raises:
            StoreError: it is not stored.
        """
        with self._database.reading() as connection:
            found = self._runs.task(connection, hash)
        if found is None:
            raise StoreError(f"no task in {self._database.label} has the hash {hash!r}.")
        return found

    def arm(self, hash: str) -> ArmRecord | None:
        """An arm by its hash, under the name that the newest run with it gives it; None if no run has it."""
        with self._database.reading() as connection:
            return self._runs.arm(connection, hash)

    # -- attempts

    def writer(self, batch: int = BATCH) -> AttemptWriter:
        """A writer of attempts, for ``async with``; `batch` attempts are written without waiting for more."""
        return AttemptWriter(self._database, batch=batch)

    def finished(self, name: str) -> set[str]:
        """Ids of a run's stored complete attempts; those recorded as missing are to be tried again.

        Raises:
            UnknownName: there is no such run.
        """
        complete = in_run(name, attempts.c.id).where(attempts.c.status == Status.COMPLETE.value)
        with self._database.reading() as connection:
            self._runs.need(connection, name)
            return set(connection.scalars(complete))

    def outcomes(self, name: str) -> Outcomes:
        """Outcomes of all stored attempts of a run, as arrays.

        Raises:
            UnknownName: there is no such run.
        """
        success = sa.func.coalesce(attempts.c.success, -1)
        cells = (run_arms.c.position, run_tasks.c.position, attempts.c.sample, success)
        costs = (attempts.c[component] for component in COST_COMPONENTS)
        texts = (sa.func.nullif(attempts.c.ended, USUAL[0]), sa.func.nullif(attempts.c.faults, USUAL[1]))
        with self._database.reading() as connection:
            run = self._runs.read(connection, name)
            found = connection.execute(in_run(name, *cells, *costs, *texts))
            return outcomes_of(self._runs.tasks(connection, name), run.arms, blocks(found))

    def failed_answers(self, name: str, arm: str) -> list[tuple[str, str, int]]:
        """Of an arm of a run: the hash of a task, a wrong answer to it, and how many failed attempts gave that."""
        with self._database.reading() as connection:
            return failed_answers(connection, name, arm)

    def find(self, id: str) -> Attempt | None:
        """An attempt by its whole id, with its transcript; None if it is not stored."""
        with self._database.reading() as connection:
            row = connection.execute(whole_attempts().where(attempts.c.id == id)).first()
        return None if row is None else row_attempt(row, row[-1], zstandard.ZstdDecompressor())

    def attempt(self, prefix: str) -> Attempt:
        """An attempt by its id or the first characters of it, with its transcript.

        Raises:
            StoreError: no stored attempt has such an id, or several have.
        """
        with self._database.reading() as connection:
            id = whole_id(connection, prefix)
        attempt = self.find(id) if id else None
        if attempt is None:
            raise StoreError(f"no attempt in {self._database.label} has an id that begins with {prefix!r}.")
        return attempt

    def attempts(
        self, name: str, task: str | None = None, arm: str | None = None, *, texts: bool = True
    ) -> Iterator[Attempt]:
        """A run's stored attempts by arm, task and sample; streams, so that any number takes little memory.

        Args:
            name: the run.
            task: only attempts at the task of this hash.
            arm: only attempts of the arm of this name in the run.
            texts: whether to read transcripts; without, they are empty.

        Raises:
            UnknownName: there is no such run, or no such arm in it.
        """
        decompressor = zstandard.ZstdDecompressor()
        with self._database.reading() as connection:
            names = [record.name for record in self._runs.read(connection, name).arms]
            if arm is not None and arm not in names:
                raise UnknownName("arm", arm, names)
            query = within(whole_attempts(texts=texts), name).order_by(run_tasks.c.position, attempts.c.sample)
            if task is not None:
                query = query.where(attempts.c.task == task)
            for position, known in enumerate(names):  # one at a time, so that the database need not sort everything
                if arm in (None, known):
                    of_arm = query.where(run_arms.c.position == position).execution_options(yield_per=500)
                    with connection.execute(of_arm) as found:  # whose reader may stop early
                        for row in found:
                            yield row_attempt(row, row[-1], decompressor)

    def transcripts(self, name: str, arm: str) -> Iterator[StoredText]:
        """The transcripts of an arm of a run by task and sample, as they are stored; streams.

        Raises:
            UnknownName: there is no such run, or no such arm in it.
            StoreError: one of them is damaged.
        """
        decompressor = zstandard.ZstdDecompressor()
        with self._database.reading() as connection:
            self._runs.need(connection, name)
            query = in_run(name, attempts.c.id, attempts.c.task, attempts.c.sample, transcripts.c.data)
            query = query.join(transcripts, transcripts.c.attempt == attempts.c.id).where(run_arms.c.name == arm)
            query = query.order_by(run_tasks.c.position, attempts.c.sample).execution_options(yield_per=500)
            with connection.execute(query) as found:
                for id_, task, sample, data in found:
                    yield StoredText(id_, task, sample, unpacked(id_, data, decompressor))

    def transcript(self, id: str) -> bytes | None:
        """The transcript of an attempt by its whole id, as it is stored; None if there is none.

        Raises:
            StoreError: it is damaged.
        """
        with self._database.reading() as connection:
            data = connection.scalar(sa.select(transcripts.c.data).where(transcripts.c.attempt == id))
        return None if data is None else unpacked(id, data, zstandard.ZstdDecompressor())

    def missing(self, name: str, arm: str) -> Iterator[Attempt]:
        """An arm's attempts that are recorded as missing, as far as they came.

        Args:
            name: the run.
            arm: the arm's name in the run.

        Raises:
            UnknownName: there is no such run.
        """
        query = within(whole_attempts(), name).where(run_arms.c.name == arm)
        decompressor = zstandard.ZstdDecompressor()
        with self._database.reading() as connection:
            self._runs.need(connection, name)
            for row in connection.execute(query.where(attempts.c.status == Status.MISSING.value)):
                yield row_attempt(row, row[-1], decompressor)

    @contextmanager
    def merging(self, name: str) -> Iterator[Merge]:
        """One transaction that adds foreign attempts, tasks and arms to a run of imports.

        Raises:
            StoreError: the run was not made by imports, or there is none and it is a board's database.
        """
        with self._database.writing() as connection:
            yield Merge(self._database, connection, name)
