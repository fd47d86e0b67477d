"""Runs renamed and deleted, with their attempts where nobody else needs them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from testbed.errors import StoreError
from testbed.store.records import check_run, imported
from testbed.store.runs import RunTables, in_run, is_boards
from testbed.store.schema import Database, attempts, pack, run_arms, run_tasks, runs, transcripts
from testbed.store.scores import scores


class RunEdits:
    """What changes runs that are stored.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs = RunTables(database)

    def rename(self, old: str, new: str) -> None:
        """Gives a run another name.

        Raises:
            UnknownName: there is no such run.
            StoreError: the new name is taken or no name, or the run is an entry of a board.
        """
        with self._database.writing() as connection:
            run = self._changeable(connection, old)
            if self._runs.has(connection, new):
                raise StoreError(f"there is a run {new!r} already. Give another name.")
            if run.experiment == imported(old):
                experiment = imported(new)
            else:  # by its name an experiment file finds the run again
                experiment = {**run.experiment, **({"name": new} if "name" in run.experiment else {})}
            check_run(type(run)(new, experiment, run.seed, run.arms, run.created, run.samples))
            for table in (run_tasks, run_arms):
                connection.execute(table.update().where(table.c.run == old).values(run=new))
            connection.execute(runs.update().where(runs.c.name == old).values(name=new, experiment=pack(experiment)))

    def own_attempts(self, name: str) -> int:
        """How many attempts of a run no other run has.

        Raises:
            UnknownName: there is no such run.
        """
        with self._database.reading() as connection:
            self._runs.need(connection, name)
            return _count(connection, name)

    def delete(self, name: str) -> int:
        """Deletes a run and those of its attempts that no other run has; returns how many these are.

        Raises:
            UnknownName: there is no such run.
            StoreError: the run is an entry of a board.
        """
        with self._database.writing() as connection:
            self._changeable(connection, name)
            gone = _count(connection, name)
            of_attempts = [transcripts.c.attempt, attempts.c.id]
            if sa.inspect(connection).has_table(scores.name):  # which came later
                of_attempts.insert(0, scores.c.attempt)
            for column in of_attempts:  # the attempts last: the others are found by them
                connection.execute(sa.delete(column.table).where(column.in_(_own(name, attempts.c.id))))
            for table, column in ((run_tasks, run_tasks.c.run), (run_arms, run_arms.c.run), (runs, runs.c.name)):
                connection.execute(table.delete().where(column == name))
            return gone

    def _changeable(self, connection: sa.Connection, name: str) -> Any:
        if is_boards(connection):
            raise StoreError(f"{self._database.label} is a board's database: its runs are entries, which stay as sent.")
        return self._runs.read(connection, name)


def _count(connection: sa.Connection, name: str) -> int:
    return connection.scalar(_own(name, sa.func.count())) or 0


def _own(name: str, *columns: Any) -> sa.Select[Any]:
    """A query over the attempts of a run that lie in no other run's grid."""
    grid = sa.join(run_arms, run_tasks, run_tasks.c.run == run_arms.c.run).join(runs, runs.c.name == run_arms.c.run)
    other = sa.select(sa.literal(1)).select_from(grid).where(run_arms.c.run != name)
    other = other.where(run_arms.c.arm == attempts.c.arm, run_tasks.c.task == attempts.c.task)
    other = other.where(runs.c.seed == attempts.c.seed, run_arms.c.samples > attempts.c.sample)
    return in_run(name, *columns).where(~sa.exists(other.correlate(attempts))).correlate(None)
