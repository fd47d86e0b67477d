"""`testbed compare`: any two arms of any two runs on their common tasks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.command_options import DEFAULT_STORE, JsonOption, OperatingOption, StoreOption, print_json

if TYPE_CHECKING:
    from testbed.report.compare_record import RunComparison


def compare(
    left: Annotated[str, typer.Argument(metavar="RUN_A[:ARM]", help="A run and one of its arms, such as demo:bare.")],
    right: Annotated[str, typer.Argument(metavar="RUN_B[:ARM]", help="Another, such as demo:python.")],
    store: StoreOption = DEFAULT_STORE,
    store_b: Annotated[str, typer.Option("--store-b", help="Store of RUN_B; by default the same one.")] = "",
    against: Annotated[
        str,
        typer.Option(
            help="A or B: the side over which the other's gain is split into elicitation, creation and loss; by "
            "default the one without tools, where just one is."
        ),
    ] = "",
    operating: OperatingOption = None,
    elicitation: Annotated[
        int | None, typer.Option(help="Attempts of that side that resampling may spend; by default as A's run says.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare two arms of any runs, paired on the tasks that both have. Differences are B less A."""
    from testbed.errors import DataError, UsageError
    from testbed.stats import StatsError

    side = against.strip().upper()
    if side not in ("", "A", "B"):
        raise UsageError(f"--against must be A or B, not {against!r}: A is the first run named, B the second.")
    try:
        found = _compared((left, right), (store, store_b or store), side, operating, elicitation)
    except StatsError as error:
        raise DataError(f"{left} and {right} cannot be compared: {error}") from error
    if json:
        print_json(found.as_dict())
        return
    from testbed.report.compare_text import print_comparison

    print_comparison(found)


def _compared(
    sides: tuple[str, str], stores: tuple[str, str], against: str, operating: int | None, elicitation: int | None
) -> RunComparison:
    from testbed.report.compare_runs import compare_sides
    from testbed.report.sides import choose, named, read_side
    from testbed.store import Store

    same = stores[0] == stores[1] or Path(stores[0]).resolve() == Path(stores[1]).resolve()
    with ExitStack() as open_:
        first = open_.enter_context(Store.open(stores[0], create=False))
        second = first if same else open_.enter_context(Store.open(stores[1], create=False))
        left, right = named(first, sides[0]), named(second, sides[1])
        arms = choose(left, right, same_store=same)
        return compare_sides(
            read_side(first, left.run, arms[0], "A"),
            read_side(second, right.run, arms[1], "B"),
            against=against,
            operating=operating,
            elicitation=elicitation,
            same_store=same,
        )
