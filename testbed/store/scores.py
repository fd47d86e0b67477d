"""What models give the messages of stored attempts: a row for each message of an attempt and each model that read it.

The tables came after the others and need nothing of them, so that stores made before have none until something is
scored, and versions of the testbed from before read a store that has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from testbed.store.runs import RunTables, in_run
from testbed.store.schema import Database, attempts, pack, run_arms, run_tasks, schema, unpack
from testbed.store.writer import Upsert
from testbed.types import REDRAWN, digest

scorers = sa.Table(
    "scorers",
    schema,
    sa.Column("hash", sa.String(32), primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),  # JSON
)
scores = sa.Table(
    "scores",
    schema,
    sa.Column("attempt", sa.String(32), primary_key=True),
    sa.Column("scorer", sa.String(32), primary_key=True),
    sa.Column("message", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.Column("nats", sa.Double, nullable=False),
)


@dataclass(frozen=True)
class ScorerRecord:
    """A model that read attempts.

    Attributes:
        name: how it was named.
        fingerprint: everything that can change what it gives a text, as in `Model.fingerprint`.
    """

    name: str
    fingerprint: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Of the fingerprint."""
        return digest(self.fingerprint)


class MessageScore(NamedTuple):
    """What a model gives one message of an attempt.

    Attributes:
        attempt: its id.
        message: the message's index in the transcript.
        role: "assistant" (what the model wrote), "tool", or "feedback" (what it was told of a wrong answer).
        tokens: the message's, its end included where the model itself ended it.
        nats: −ln of their probability, given all before them.
    """

    attempt: str
    message: int
    role: str
    tokens: int
    nats: float


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model gives the m messages of A attempts of a run, by arm, task, sample and message.

    Attributes:
        id: of each attempt, str[A].
        arm: position in the run's arms, int32[A].
        task: position in the run's tasks, int32[A].
        sample: index within task and arm, int32[A].
        success: 1, 0, or −1 where a first draw was lost, int8[A].
        attempt: of each message, position in the arrays above, int32[m].
        message: index in the transcript, int32[m].
        role: as in `MessageScore`, str[m].
        tokens: int32[m].
        nats: float64[m].
    """

    id: npt.NDArray[np.str_]
    arm: npt.NDArray[np.int32]
    task: npt.NDArray[np.int32]
    sample: npt.NDArray[np.int32]
    success: npt.NDArray[np.int8]
    attempt: npt.NDArray[np.int32]
    message: npt.NDArray[np.int32]
    role: npt.NDArray[np.str_]
    tokens: npt.NDArray[np.int32]
    nats: npt.NDArray[np.float64]

    def nats_of(self, *roles: str) -> npt.NDArray[np.float64]:
        """Nats of all messages of these roles, per attempt, float64[A]."""
        own = np.isin(self.role, roles)
        return np.bincount(self.attempt[own], self.nats[own], minlength=len(self.id)).astype(np.float64)

    def messages_of(self, *roles: str) -> npt.NDArray[np.int64]:
        """How many messages of these roles each attempt has, int64[A]."""
        return np.bincount(self.attempt[np.isin(self.role, roles)], minlength=len(self.id)).astype(np.int64)

    def tokens_of(self, *roles: str) -> npt.NDArray[np.int64]:
        """Tokens of all messages of these roles, per attempt, int64[A]."""
        own = np.isin(self.role, roles)
        return np.bincount(self.attempt[own], self.tokens[own], minlength=len(self.id)).astype(np.int64)


class ScoreTables:
    """Reads and writes scores.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._runs = database, RunTables(database)
        sign = "?" if database.is_sqlite else "%s"
        self._scorers = Upsert(scorers, "hash", "true", sign)  # a scorer's name is a label: the newest is kept
        self._scores = Upsert(scores, "attempt, scorer, message", "", sign)

    def add(self, scorer: ScorerRecord, rows: Sequence[MessageScore]) -> None:
        """Keeps scores; those that are there already stay. All of an attempt's belong into one call."""
        own = scorer.hash
        with self._database.writing() as connection:
            schema.create_all(connection, tables=[scorers, scores])
            self._scorers(connection, [(own, scorer.name, pack(dict(scorer.fingerprint)))])
            self._scores(connection, [(row.attempt, own, *row[1:]) for row in rows])

    def done(self, name: str, scorer: str) -> set[str]:
        """Ids of a run's attempts that a scorer, by its hash, has read.

        Raises:
            UnknownName: there is no such run.
        """
        with self._database.reading() as connection:
            self._runs.need(connection, name)
            if not _are_there(connection):
                return set()
            read = in_run(name, attempts.c.id).join(scores, scores.c.attempt == attempts.c.id)
            return set(connection.scalars(read.where(scores.c.scorer == scorer).distinct()))

    def scorers(self, name: str) -> dict[str, ScorerRecord]:
        """The models that read attempts of a run, by hash.

        Raises:
            UnknownName: there is no such run.
        """
        with self._database.reading() as connection:
            self._runs.need(connection, name)
            if not _are_there(connection):
                return {}
            read = in_run(name, scores.c.scorer).join(scores, scores.c.attempt == attempts.c.id).distinct()
            found = connection.execute(sa.select(scorers).where(scorers.c.hash.in_(read)).order_by(scorers.c.hash))
            return {row.hash: ScorerRecord(row.name, unpack(row.fingerprint)) for row in found}

    def of(self, name: str, scorer: str) -> Scores:
        """What a scorer, by its hash, gives the attempts of a run that it has read.

        Raises:
            UnknownName: there is no such run.
        """
        cell = (run_arms.c.position, run_tasks.c.position, attempts.c.sample)
        success = sa.case((attempts.c.faults.contains(f'"{REDRAWN}"'), -1), else_=attempts.c.success)
        texts = (scores.c.message, scores.c.role, scores.c.tokens, scores.c.nats)
        with self._database.reading() as connection:
            self._runs.need(connection, name)
            if not _are_there(connection):
                return _scores([])
            query = in_run(name, *cell, attempts.c.id, success, *texts)
            query = query.join(scores, scores.c.attempt == attempts.c.id).where(scores.c.scorer == scorer)
            return _scores(connection.execute(query.order_by(*cell, scores.c.message)).all())


def _are_there(connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table(scores.name)


def _scores(rows: Sequence[Sequence[Any]]) -> Scores:
    """Scores from rows of arm, task, sample, id, success, message, role, tokens and nats, in that order."""
    arm, task, sample, id_, success, message, role, tokens, nats = zip(*rows, strict=True) if rows else [()] * 9
    cells = np.array([arm, task, sample], np.int32).reshape(3, len(rows))
    new = np.ones(len(rows), bool)
    new[1:] = (cells[:, 1:] != cells[:, :-1]).any(axis=0)
    return Scores(
        id=np.array(id_, np.str_)[new],
        arm=cells[0, new],
        task=cells[1, new],
        sample=cells[2, new],
        success=np.array(success, np.int8)[new],
        attempt=(np.cumsum(new) - 1).astype(np.int32),
        message=np.array(message, np.int32),
        role=np.array(role, np.str_),
        tokens=np.array(tokens, np.int32),
        nats=np.array(nats, np.float64),
    )
