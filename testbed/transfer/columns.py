"""What the columns of a foreign log mean: the mapping that import takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from testbed.errors import UnknownName, UsageError
from testbed.transfer.values import Path, Test
from testbed.types import COST_COMPONENTS


@dataclass(frozen=True)
class Columns:
    """What the columns of a file of outcomes mean.

    Attributes:
        task: names the task.
        success: whether the attempt succeeded.
        arm: names the arm; None where `arm_name` names all.
        arm_name: one arm for the whole file.
        sample: index of the attempt within task and arm; without, a list's index, or attempts are counted as they come.
        cluster: names tasks that belong together.
        missing: which attempts the infrastructure ended; their success and cost need not be readable.
        where: conditions that a record must meet; others are skipped.
        costs: component of cost to column.
        score, answer, ended, faults: as in `Attempt`.
        sampled: whether the importer states that every attempt of the arms was drawn anew, those imported before too.
    """

    task: Path
    success: Test
    arm: Path | None = None
    arm_name: str = ""
    sample: Path | None = None
    cluster: Path | None = None
    missing: Test | None = None
    where: tuple[Test, ...] = ()
    costs: Mapping[str, Path] = field(default_factory=dict)
    score: Path | None = None
    answer: Path | None = None
    ended: Path | None = None
    faults: Path | None = None
    sampled: bool = False

    def __post_init__(self) -> None:
        if (self.arm is None) is (not self.arm_name):
            raise UsageError(
                "name the arm: a column such as --arm mode, or one name for all records such as --arm =cot."
            )
        for component in self.costs:
            if component not in COST_COMPONENTS:
                raise UnknownName("cost component", component, COST_COMPONENTS)

    @classmethod
    def parse(
        cls,
        *,
        task: str,
        success: str,
        arm: str,
        sample: str = "",
        cluster: str = "",
        missing: str = "",
        answer: str = "",
        where: Iterable[str] = (),
        cost: Iterable[str] = (),
        sampled: bool = False,
    ) -> Columns:
        """Reads the mapping from strings, as the command line has them; empty ones are left out.

        Args:
            task: column.
            success: column or test, see `Test`.
            arm: column, or ``=NAME`` for one name.
            sample: column.
            cluster: column.
            missing: test.
            answer: column.
            where: tests.
            cost: each ``component=column``.
            sampled: see the attribute.

        Raises:
            UsageError: one of them cannot be read.
            UnknownName: a component of cost that there is not.
        """
        constant = arm.startswith("=")
        return cls(
            task=Path(task),
            success=Test.parse(success),
            arm=None if constant or not arm else Path(arm),
            arm_name=arm[1:].strip() if constant else "",
            sample=Path(sample) if sample else None,
            cluster=Path(cluster) if cluster else None,
            missing=Test.parse(missing) if missing else None,
            answer=Path(answer) if answer else None,
            sampled=sampled,
            where=tuple(_condition(text) for text in where),
            costs=dict(_cost(text) for text in cost),
        )

    @classmethod
    def exported(cls) -> Columns:
        """The columns of a JSON-lines file that `testbed export` wrote."""
        names = ("sample", "cluster", "score", "answer", "ended", "faults")
        return cls(
            task=Path("task"),
            success=Test(Path("success")),
            arm=Path("arm"),
            missing=Test(Path("status"), "=", "missing"),
            costs={component: Path(component) for component in COST_COMPONENTS},
            **{name: Path(name) for name in names},  # type: ignore[arg-type]
        )

    def lists(self) -> list[Path]:
        """The lists that paths with ``[]`` run over; none for one attempt a record."""
        tests = [test.path for test in (self.success, self.missing, *self.where) if test]
        plain = (self.task, self.arm, self.sample, self.cluster, self.score, self.answer, self.ended, self.faults)
        paths = [*tests, *self.costs.values(), *(path for path in plain if path)]
        return list(dict.fromkeys(path.over for path in paths if path.over))


def _condition(text: str) -> Test:
    test = Test.parse(text)
    if test.path.over is not None:
        raise UsageError(f"--where {text}: conditions are on whole records, not on the elements of a list.")
    return test


def _cost(text: str) -> tuple[str, Path]:
    component, sign, column = text.partition("=")
    if not sign or not column.strip():
        raise UsageError(f"{text!r} is no cost. Write component=column, such as generated_tokens=completion_tokens.")
    return component.strip(), Path(column.strip())
