"""Whatever one changes in a bundle: it is rejected, or its results are those of the honest one; never an error."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.bundles import Lines, examine
from testbed.board.database import BoardDatabase
from testbed.board.schema import entry_run
from testbed.types import COST_COMPONENTS, Attempt

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**63, 10**400, 0.5, -0.0, 1e308, "", "x", "\x00", "0" * 32, "a" * 10_000),
    *([], {}, [[]], [1, 2], {"x": 1}, {"role": "tool", "content": "5", "name": "calculator", "tokens": 1}),
    *("answered", "limit:seconds", "limit:usd", "limit:context", "agent:error", "missing", "missing:x"),
    *("<tool_call>" * 50, "<answer>5</answer>", '{"name": "calculator"}', "parse_error", "calculator", "tool", "user"),
    *("live", "inert", "absent", "yoked"),
)
# What the model of this run used of tokens is not known here, and its author may say more than it was.
SAID = ("seconds", "usd", "generated_tokens", "prompt_tokens")
COUNTED = [component for component in COST_COMPONENTS if component not in SAID]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


def change(lines: Lines, rng: random.Random) -> str:
    """Changes one thing somewhere; says what."""
    which = rng.choice(["manifest", "arms", "tasks", "attempts", "attempts", "attempts", "attempts"])
    thing = lines.manifest if which == "manifest" else rng.choice(getattr(lines, which))
    path = rng.choice(list(places(thing)))
    holder = thing
    for key in path[:-1]:
        holder = holder[key]
    how = rng.choice(["set", "set", "set", "delete", "swap", "twice"])
    if how == "delete":
        del holder[path[-1]]
    elif how == "twice" and isinstance(holder, list):
        holder.insert(path[-1], copy.deepcopy(holder[path[-1]]))
    elif how == "swap" and which == "attempts":
        other: Any = rng.choice(lines.attempts)
        try:
            for key in path:
                other = other[key]
        except (KeyError, IndexError):
            other = None
        holder[path[-1]] = copy.deepcopy(other)
    else:
        holder[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    return f"{which} {path} {how} {holder[path[-1]] if how != 'delete' else ''!r:.80}"


def results(attempts: Iterator[Attempt]) -> list[Any]:
    return [(a.task, a.sample, a.success, a.answer, a.ended, *(getattr(a.cost, c) for c in COUNTED)) for a in attempts]


@pytest.mark.parametrize(
    ("where", "seeds"),
    [
        ("sqlite", range(40)),
        ("postgresql", range(40, 50)),
        pytest.param("sqlite", range(400), marks=pytest.mark.slow),
        pytest.param("postgresql", range(400), marks=pytest.mark.slow),
    ],
    indirect=["where"],
)
def test_no_change_of_a_bundle_changes_results_or_breaks_the_check(
    sums_db: BoardDatabase, stranger_bundle: bytes, seeds: range
) -> None:
    honest = results(sums_db.store.attempts(entry_run(examine(sums_db, "sums", stranger_bundle).id)))
    assert len(honest) == 60
    rejected = 0
    for seed in seeds:
        lines = Lines.of(stranger_bundle)
        what = change(lines, random.Random(seed))
        try:
            forged = lines.sealed(counted=False)
        except (KeyError, TypeError, AttributeError):  # so broken that not even its ids can be computed
            continue
        found = examine(sums_db, "sums", forged)
        rejected += found.state == "rejected"
        if found.state != "rejected":
            assert results(sums_db.store.attempts(entry_run(found.id))) == honest, f"{seed}: {what}"
    assert rejected > len(seeds) / 3
