"""Outcomes in and out: `import_outcomes` for anybody's logs, `export` for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from testbed.errors import DataError
from testbed.store import ArmRecord, Run, Store
from testbed.store.records import check_run, imported
from testbed.transfer.columns import Columns
from testbed.transfer.exporting import export
from testbed.transfer.files import read_records
from testbed.transfer.values import read_ended, read_faults, read_name, read_number, read_whole
from testbed.transfer.watched import Watched
from testbed.types import Attempt, Cost, Status, Task, attempt_id, digest

__all__ = ["ArmCount", "Columns", "Imported", "check_outcomes", "export", "import_outcomes"]

GRADER = "imported/1"  # outcomes come graded: nothing here can be graded again
_CHUNK = 500
_REAL = ("seconds", "usd")
_MOST_SAMPLES = 2**31 - 2  # the number of samples, one more, must fit into 32 bits


@dataclass
class ArmCount:
    """What an import found of one arm: numbers of attempts, of successes, of missing ones, of tasks."""

    name: str
    attempts: int = 0
    successes: int = 0
    missing: int = 0
    samples: int = 0
    hashes: set[str] = field(default_factory=set, repr=False)

    @property
    def tasks(self) -> int:
        """Tasks with at least one attempt."""
        return len(self.hashes)


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        attempts: found in the file.
        tasks: that they are at.
        arms: that they are of.
        new: attempts that the store did not have.
        skipped: records that did not meet the conditions.
        by_arm: counts of each arm.
        warning: that no record has the value which `missing` compares with; "" where one has.
    """

    attempts: int
    tasks: int
    arms: int
    new: int
    skipped: int
    by_arm: tuple[ArmCount, ...]
    warning: str = ""


def check_outcomes(path: str | Path, run: str, columns: Columns) -> None:
    """Refuses what `import_outcomes` would refuse in any store: who has none need not make one to be told.

    Raises:
        DataError: as there.
        StoreError: a run or an arm cannot have such a name.
    """
    outcomes = _Outcomes(Path(path), run, columns)
    for _ in outcomes.attempts():
        pass
    check_run(Run(run, imported(run), 0, tuple(outcomes.records()), "", {}))


def import_outcomes(store: Store, path: str | Path, run: str, columns: Columns) -> Imported:
    """Adds the outcomes of a file to a run of imports, all or nothing; importing the same file again changes nothing.

    Several files may go into one run: tasks of the same name are the same task, arms of the same name the same arm.

    Args:
        store: where to.
        path: CSV, TSV, JSON lines or JSON array, also gzipped.
        run: name of the run; made if there is none.
        columns: what the file's columns mean.

    Raises:
        DataError: the file is missing, empty or malformed, or an outcome or cost cannot be read, with line and column;
            or no record has the value that `success` compares with.
        StoreError: the run was not made by imports, or has the same attempts with other outcomes.
    """
    outcomes = _Outcomes(Path(path), run, columns)
    attempts = outcomes.attempts()
    with store.merging(run) as merge:
        new = 0
        while chunk := list(islice(attempts, _CHUNK)):
            new += merge.add(chunk, outcomes.name)
        counts = tuple(outcomes.arms.values())
        samples = {count.name: count.samples for count in counts}
        merge.extend(
            list(outcomes.tasks.values()), outcomes.records(), samples, datetime.now(UTC).isoformat(timespec="seconds")
        )
    total = sum(count.attempts for count in counts)
    return Imported(total, len(outcomes.tasks), len(counts), new, outcomes.skipped, counts, outcomes.warning)


class _Outcomes:
    """Reads a file's records as attempts, and remembers the tasks and arms that it met.

    Args:
        path: the file.
        run: the run's name, part of every identity: equal names in unrelated logs must not meet.
        columns: what the columns mean.
    """

    def __init__(self, path: Path, run: str, columns: Columns) -> None:
        self._path, self._run, self._columns = path, run, columns
        self._success = Watched(columns.success)
        self._missing = Watched(columns.missing) if columns.missing else None
        self._where = [Watched(test) for test in columns.where]
        self._lists = columns.lists()
        self._next: dict[tuple[str, str], int] = {}
        self._seen: dict[str, str] = {}
        self.tasks: dict[str, Task] = {}
        self.arms: dict[str, ArmCount] = {}
        self.skipped = 0

    def attempts(self) -> Iterator[Attempt]:
        """The attempts, in the file's order."""
        for where, record in read_records(self._path):
            if all(test.holds(where, record) for test in self._where):
                for element in range(self._elements(where, record)):
                    yield self._attempt(where, record, element)
            else:
                self.skipped += 1
        if not self._seen:
            kept = " and ".join(f"{t.path.text}{t.sign}{t.value}" for t in self._columns.where)
            unmet = "".join(f" {test.unmet}" for test in self._where if test.unmet)
            told = f"no record has {kept}.{unmet}" if kept else "its lists are empty."
            raise DataError(f"{self._path}: {told}")
        if wrong := self._success.unmet:
            raise DataError(f"{self._path}: {wrong}" + ("" if "Did you mean" in wrong else self._if_meant()))

    def records(self) -> list[ArmRecord]:
        """The arms that it met, as a store keeps them."""
        spec = {"imported": True, "costs": sorted(self._columns.costs)}
        if self._columns.sampled:
            spec["sampled"] = True
        return [ArmRecord(_arm_hash(self._run, name), name, spec) for name in self.arms]

    @property
    def warning(self) -> str:
        """That no record has the value by which missing attempts are told."""
        return self._missing.unmet if self._missing else ""

    def _if_meant(self) -> str:
        test = self._columns.success
        if test.sign == "!=":
            return f" If no attempt failed, say what a success is: {test.path.text}=VALUE."
        return f" If no attempt succeeded, say what a failure is: {test.path.text}!=VALUE."

    def name(self, attempt: Attempt) -> str:
        """An attempt's arm and task, as the file calls them."""
        arm = next(count.name for count in self.arms.values() if _arm_hash(self._run, count.name) == attempt.arm)
        task = next(task.prompt for task in self.tasks.values() if task.hash == attempt.task)
        return f"arm {arm!r} at task {task[:60]!r}"

    def _elements(self, where: str, record: Mapping[str, Any]) -> int:
        """Attempts in a record: one, or as many as its lists have elements."""
        lengths = {}
        for path in self._lists:
            value = path.read(where, record)
            if not isinstance(value, list):
                raise DataError(f"{where}: {path.text!r} is no list, but {path.text + '[]'!r} runs over one.")
            lengths[path.text] = len(value)
        if len(set(lengths.values())) > 1:
            raise DataError(f"{where}: lists of different lengths: {lengths}.")
        return next(iter(lengths.values()), 1)

    def _attempt(self, where: str, record: Mapping[str, Any], element: int) -> Attempt:
        task, arm = self._task(where, record, element), self._arm(where, record, element)
        try:
            attempt = self._read(where, record, element, task, arm)
        except DataError as error:
            raise DataError(f"{error} This is arm {arm.name!r} at task {task.prompt[:60]!r}.") from error
        self._count(where, attempt, arm, task)
        return attempt

    def _read(self, where: str, record: Mapping[str, Any], element: int, task: Task, arm: ArmCount) -> Attempt:
        columns = self._columns
        sample = self._sample(where, record, element, task, arm)
        missing = self._missing is not None and self._missing.holds(where, record, element)
        success = None if missing else self._success.holds(where, record, element)
        ended = "missing:imported" if missing else "answered"
        if columns.ended is not None:
            ended = read_ended(where, columns.ended, columns.ended.read(where, record, element))
        score = None if missing else self._value("score", where, record, element)
        answer, faults = (self._value(name, where, record, element) for name in ("answer", "faults"))
        arm_hash = _arm_hash(self._run, arm.name)
        return Attempt(
            id=attempt_id(task.hash, arm_hash, sample, 0),
            task=task.hash,
            arm=arm_hash,
            sample=sample,
            seed=0,
            status=Status.MISSING if missing else Status.COMPLETE,
            ended=ended,
            success=success,
            score=None if score is None or columns.score is None else read_number(where, columns.score, score),
            answer=None if answer in (None, "") else str(answer),  # CSV has no other way to say that none was given
            cost=self._cost(where, record, element, missing=missing),
            faults={} if columns.faults is None else read_faults(where, columns.faults, faults),
        )

    def _task(self, where: str, record: Mapping[str, Any], element: int) -> Task:
        path = self._columns.task
        name = read_name(where, path, path.read(where, record, element))
        cluster = self._value("cluster", where, record, element)
        cluster = "" if cluster is None else str(cluster)
        if name not in self.tasks:
            self.tasks[name] = Task(f"imported:{self._run}", name, None, GRADER, cluster)
        elif self.tasks[name].cluster != cluster:
            raise DataError(f"{where}: task {name!r} is in cluster {cluster!r}, above in {self.tasks[name].cluster!r}.")
        return self.tasks[name]

    def _arm(self, where: str, record: Mapping[str, Any], element: int) -> ArmCount:
        path, name = self._columns.arm, self._columns.arm_name
        if path is not None:
            name = read_name(where, path, path.read(where, record, element))
        return self.arms.setdefault(name, ArmCount(name))

    def _sample(self, where: str, record: Mapping[str, Any], element: int, task: Task, arm: ArmCount) -> int:
        path = self._columns.sample
        if path is not None:
            return read_whole(where, path, path.read(where, record, element), most=_MOST_SAMPLES)
        if self._lists:
            return element
        index = self._next.get((task.hash, arm.name), 0)
        self._next[task.hash, arm.name] = index + 1
        return index

    def _cost(self, where: str, record: Mapping[str, Any], element: int, *, missing: bool) -> Cost:
        amounts: dict[str, Any] = {}
        for component, path in self._columns.costs.items():
            value = path.read(where, record, element)
            if missing and value in (None, ""):
                continue  # what the infrastructure ended was often not metered
            read = read_number if component in _REAL else read_whole
            amounts[component] = read(where, path, value)
        return Cost(**amounts)

    def _value(self, name: str, where: str, record: Mapping[str, Any], element: int) -> Any:
        path = getattr(self._columns, name)
        return None if path is None else path.read(where, record, element)

    def _count(self, where: str, attempt: Attempt, arm: ArmCount, task: Task) -> None:
        if attempt.id in self._seen:
            raise DataError(
                f"{where}: a second attempt of arm {arm.name!r} at task {task.prompt[:60]!r} with sample "
                f"{attempt.sample}; the first is at {self._seen[attempt.id]}. Name a --sample column that tells them "
                "apart, or select with --where."
            )
        self._seen[attempt.id] = where
        arm.attempts += 1
        arm.successes += bool(attempt.success)
        arm.missing += attempt.status is Status.MISSING
        arm.samples = max(arm.samples, attempt.sample + 1)
        arm.hashes.add(task.hash)


def _arm_hash(run: str, name: str) -> str:
    return digest(["imported", run, name])
