"""An accepted entry in the store: a run of the store's own, with the attempts as the server makes them out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from testbed.board.audit import now
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.schema import entry_run
from testbed.board.verify.arm_pass import ArmPass
from testbed.store import ArmRecord, Run
from testbed.store.runs import RunTables
from testbed.store.writer import AttemptTable
from testbed.types import Attempt

_BATCH = 1000  # attempts to a statement's worth of memory


@dataclass(frozen=True)
class KeptEntry:
    """What is kept of an entry.

    Attributes:
        id: the entry's.
        board: it is an entry to.
        arms: of it.
        model: what its model is called here; "" of one that is not here.
    """

    id: str
    board: Board
    arms: Sequence[ArmPass]
    model: str

    def write(self, db: BoardDatabase, connection: sa.Connection, attempts: Iterable[Attempt]) -> None:
        """Writes the run and its attempts, within a transaction."""
        RunTables(db.database).write(connection, self.run, self.board.tasks)
        table, batch = AttemptTable(db.database), list[Attempt]()
        for attempt in attempts:
            batch.append(attempt)
            if len(batch) == _BATCH:
                table.write(connection, batch)
                batch = []
        table.write(connection, batch)

    @property
    def run(self) -> Run:
        """The board's experiment with the entry's arms."""
        spec, arms = self.board.spec, [found.arm for found in self.arms]
        shared = {key: spec[key] for key in ("seed", "budget", "measure", "env") if key in spec}
        # Where the model is here, it has the name that it has here: an author's is a label, which the manifest keeps.
        model = self.model or str(arms[0].claimed.spec.get("name", ""))
        tables = [
            {"name": one.name, "tools": [t.name for t in one.tools], "control": str(one.control), "samples": samples}
            for one, samples in ((one, one.claimed.samples) for one in arms)
        ]
        return Run(
            name=entry_run(self.id),
            experiment={**shared, "name": entry_run(self.id), "model": {"id": model}, "arm": tables},
            seed=self.board.seed,
            arms=tuple(ArmRecord(found.stored, found.arm.name, found.arm.claimed.spec) for found in self.arms),
            created=now(),
            samples={a.name: a.claimed.samples for a in arms},
        )
