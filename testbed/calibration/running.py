"""What the command `testbed calibrate` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from testbed.calibration.case import Size
from testbed.calibration.table import Result, calibrate, chosen, print_results


def run_cases(names: Sequence[str], size: Size, seed: int, *, as_json: bool) -> bool:
    """Runs cases, tells on stderr which one is under way, and prints what came of them.

    Args:
        names: cases to run; all where none is named. Of named ones every expectation is printed.
        size: how much each may spend.
        seed: seeds all of them.
        as_json: print JSON instead of a table.

    Returns:
        Whether every expectation was met.

    Raises:
        UnknownName: there is no case of such a name.
    """
    cases = chosen(names)
    results: list[Result] = []
    beside = Console(stderr=True, highlight=False)
    with beside.status("") as status:
        waiting = iter(calibrate(cases, size, seed))
        for case in cases:
            status.update(f"{case.name} ({len(results) + 1} of {len(cases)})")
            results.append(next(waiting))
    passed = all(result.passed for result in results)
    if as_json:
        record = {"passed": passed, "size": asdict(size), "seed": seed, "cases": [r.as_dict() for r in results]}
        print(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print_results(results, size, every=bool(names))
    return passed
