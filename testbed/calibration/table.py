"""`testbed calibrate`: runs the cases and shows what the instrument said of each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.calibration import CASES
from testbed.calibration.case import Case, Check, Rate, Size
from testbed.errors import UnknownName


@dataclass(frozen=True)
class Result:
    """What came of one case.

    Attributes:
        name: the case.
        truth: what is true of it.
        checks: every expectation.
        seconds: wall time it took.
    """

    name: str
    truth: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every expectation was met."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def telling(self) -> Check:
        """The expectation to show: the first that failed, else the first that is no rate."""
        failed = [check for check in self.checks if not check.passed]
        return (failed or [c for c in self.checks if not isinstance(c, Rate)] or list(self.checks))[0]

    def rates(self, kind: str) -> list[float]:
        """All its rates of one kind: "coverage" or "fdr"."""
        return [check.value for check in self.checks if isinstance(check, Rate) and check.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "case": self.name,
            "truth": self.truth,
            "passed": self.passed,
            "seconds": round(self.seconds, 2),
            "checks": [asdict(check) for check in self.checks],
        }


def chosen(names: Sequence[str]) -> tuple[Case, ...]:
    """The cases of these names, in their own order; all of them where none is named.

    Raises:
        UnknownName: there is no such case; the message offers the nearest.
    """
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise UnknownName("calibration case", name, known)
    return tuple(case for case in CASES if not names or case.name in names)


def calibrate(cases: Sequence[Case], size: Size, seed: int) -> Iterator[Result]:
    """Runs cases one after another."""
    for case in cases:
        began = time.monotonic()
        checks = tuple(case.run(size, seed))
        yield Result(case.name, case.truth, checks, time.monotonic() - began)


def print_results(
    results: Sequence[Result], size: Size, *, every: bool = False, console: Console | None = None
) -> None:
    """Prints a row for each case, and every failed expectation in full.

    Args:
        results: what came of the cases.
        size: how much they could spend.
        every: whether to print the expectations that were met, too.
        console: where to; by default standard output.
    """
    console = console or Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("truth", overflow="fold", ratio=4)
    table.add_column("the instrument said", overflow="fold", ratio=5)
    table.add_column("cover", justify="right", no_wrap=True)
    table.add_column("FDR", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=4)
    for result in results:
        said = f"{result.telling.what}: {result.telling.said}"
        cover, false = result.rates("coverage"), result.rates("fdr")
        table.add_row(
            Text(result.name),
            Text(result.truth),
            Text(said),
            f"{min(cover):.1%}" if cover else "–",
            f"{max(false):.1%}" if false else "–",
            Text("pass", "green") if result.passed else Text("FAIL", "bold red"),
        )
    console.print(table)
    for result in results:
        shown = [check for check in result.checks if every or not check.passed]
        if shown:
            console.print(Text(result.name, "bold"))
        for check in shown:
            mark = Text("  met     ", "green") if check.passed else Text("  NOT MET ", "bold red")
            console.print(mark + Text(f"{check.what}: {check.said}", ""), soft_wrap=False)
    console.print(Text(_summary(results, size)))


def _summary(results: Sequence[Result], size: Size) -> str:
    checks = [check for result in results for check in result.checks]
    passed = sum(result.passed for result in results)
    return (
        f"{passed} of {len(results)} cases pass, {sum(check.passed for check in checks)} of {len(checks)} expectations "
        f"met; rates over {size.suites:,} simulated suites or as many as stated. cover: lowest coverage of 95% "
        "intervals. FDR: highest mean share of false discoveries."
    )
