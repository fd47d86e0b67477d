"""What the pages show of an entry: computed once, by the report's own analysis, from attempts that were checked.

Of a private board's tasks nothing is kept here, their hashes included: with a prompt that was served, a hash tells
whether a guess is the reference answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
import zstandard

from testbed.board import boards
from testbed.board.chart_pictures import pictures
from testbed.board.database import BoardDatabase
from testbed.board.schema import ACCEPTED, entries, entry_arms, entry_reports, entry_run
from testbed.errors import UsageError
from testbed.report.analyse import Analysis, analyse_run
from testbed.report.cautions import listing, mistaken, too_few_for_verdicts
from testbed.report.copies import AGENTS_WORD, repeats_told
from testbed.report.plain import plain
from testbed.report.record import ArmComparison, ArmSummary
from testbed.stats import Verdict
from testbed.store import ArmRecord, Outcomes, Run
from testbed.store.schema import pack
from testbed.types import COST_COMPONENTS

IntArray = npt.NDArray[np.int64]

# One character per task in `figures["verdicts_by_task"]`.
VERDICT_CODES = {
    Verdict.PRESERVED.value: "P",
    Verdict.EXPANDED.value: "E",
    Verdict.LOST.value: "L",
    Verdict.OUT_OF_REACH.value: "O",
    Verdict.UNDETERMINED.value: "U",
}
NO_VERDICT = "-"
_TRANSCRIPTS = "the transcripts that its column of tasks and verdicts leads to"
_DIGITS = 6  # of figures per task: no page shows more


# Of an arm by itself.
OWN_FIGURES = (
    "tasks", "attempts", "fewest", "most", "missing", "successes", "solved", "pass_1", "if_missing", "operating",
    "elicitation", "operating_if_missing", "cost", "cost_per_success", "faults", "faulty", "ended",
)  # fmt: skip
# Against the entry's bare arm: None in that arm itself, and what takes several attempts per task where there is one.
GAINED_FIGURES = (
    "against", "gain", "gain_if_missing", "spends", "claims", "elicitation_part", "creation", "loss", "nats",
    "nats_budget", "verdicts", "verdicts_by_task",
)  # fmt: skip
# Means of an attempt, by the board's tasks.
TASK_FIGURES = {"task_tokens": "generated_tokens", "task_calls": "tool_calls", "task_usd": "usd"}
# Of these, an arm's figures hold one for each task: what lists all entries leaves them out.
BY_TASK = ("verdicts_by_task", *TASK_FIGURES)
# Every key of the column `figures`; "samples" are the attempts per task that the arm was to make, "decoding" how its
# model did: an entry may differ from another in nothing else.
FIGURES = (*OWN_FIGURES, *GAINED_FIGURES, *TASK_FIGURES, "samples", "decoding")


def compute_entry(db: BoardDatabase, entry_id: str) -> None:
    """Computes what the pages show of an entry, in place of what was computed before.

    Of an entry that was rejected, or waits to be checked, nothing is kept: it has no results.

    Args:
        db: the board's database.
        entry_id: the entry.

    Raises:
        UsageError: there is no such entry, or none of its attempts was scored.
    """
    with db.reading() as connection:
        row = connection.execute(sa.select(entries.c.board, entries.c.state).where(entries.c.id == entry_id)).first()
    if row is None:
        raise UsageError(f"no entry has the id {entry_id!r}.")
    if row.state not in ACCEPTED:
        with db.writing() as connection:
            _forget(connection, entry_id)
        return
    board = boards.get(db, row.board)
    name, measure = entry_run(entry_id), board.measure
    run, outcomes = db.store.run(name), db.store.outcomes(name)
    analysis = analyse_run(db.store, name, operating=measure.operating, elicitation=measure.elicitation)
    hashes = [task.hash for task in board.tasks]
    made = [
        _row(entry_id, position, record, run, analysis, outcomes, hashes) for position, record in enumerate(run.arms)
    ]
    report = {
        "entry": entry_id,
        "data": packed({"warnings": [] if board.private else plain(_warnings(analysis))}),
        "charts": packed(pictures(analysis, private=board.private)),
    }
    with db.writing() as connection:
        _forget(connection, entry_id)
        connection.execute(entry_arms.insert(), made)
        connection.execute(entry_reports.insert().values(**report))


def _warnings(analysis: Analysis) -> list[str]:
    """What readers of a page have to know, without what only whoever has the run could do.

    A board's samples are frozen, so that more of them are nothing to advise, and it takes no author's word.
    """
    few, told = too_few_for_verdicts(analysis.comparisons), too_few_for_verdicts(analysis.comparisons, hint=False)
    otherwise = dict(zip(few, told, strict=True))
    for arm in analysis.arms:
        failures = (f"arm {arm.name!r}", arm.ended, arm.attempts)
        commands = mistaken(*failures, listing(analysis.name, arm.name))
        otherwise |= zip(commands, mistaken(*failures, _TRANSCRIPTS), strict=True)
        alike = (f"Arm {arm.name!r}", arm.drawn, arm.repeats)
        otherwise |= zip(repeats_told(*alike, AGENTS_WORD), repeats_told(*alike), strict=True)
    return [otherwise.get(warning, warning) for warning in analysis.warnings]


def packed(value: Any) -> bytes:
    """A JSON value, compressed, as the tables keep it; what is not finite has become None before."""
    return zstandard.compress(json.dumps(value, allow_nan=False, separators=(",", ":")).encode())


def unpacked(data: bytes) -> Any:
    """The value of `packed`'s bytes."""
    return json.loads(zstandard.decompress(data))


def counts_of(data: bytes) -> IntArray:
    """Counts by the board's tasks, from the column `n` or `c`."""
    return np.frombuffer(data, dtype="<i4").astype(np.int64)


def as_bytes(counts: npt.ArrayLike) -> bytes:
    """Counts by the board's tasks as the columns `n` and `c` hold them."""
    return np.asarray(counts, dtype="<i4").tobytes()


def _forget(connection: sa.Connection, entry_id: str) -> None:
    for table in (entry_arms, entry_reports):
        connection.execute(table.delete().where(table.c.entry == entry_id))


def _row(
    entry_id: str,
    position: int,
    record: ArmRecord,
    run: Run,
    analysis: Analysis,
    outcomes: Outcomes,
    hashes: Sequence[str],
) -> dict[str, Any]:
    """The row of one arm in `entry_arms`."""
    summary = next((arm for arm in analysis.arms if arm.name == record.name), None)
    comparison = next((c for c in analysis.comparisons if c.arm == record.name), None)
    n, c, by_task = _by_task(position, outcomes, hashes)
    full = comparison.full.figures if comparison is not None and comparison.full is not None else None
    found = {**_figures(summary), **_gained(comparison, hashes), **by_task, "samples": run.samples[record.name]}
    found["decoding"] = dict(record.spec.get("sampling", {}))
    figures = dict.fromkeys(FIGURES) | found
    return {
        "entry": entry_id,
        "position": position,
        "name": pack(record.name),
        "arm": record.hash,
        "model": pack(_model(record, analysis)),
        "tools": pack(list(_tools(record, summary))),
        "control": str(record.spec.get("control", "")),
        "bare": record.name == analysis.bare,
        "reach": None if summary is None else summary.operating.estimate.value,
        "gain": None if comparison is None else comparison.gain.value,
        "creation": None if full is None else full.creation.value,
        "tokens": None if summary is None else summary.cost.get("generated_tokens"),
        "usd": None if summary is None else summary.cost.get("usd"),
        "figures": json.dumps(figures, allow_nan=False),
        "n": as_bytes(n),
        "c": as_bytes(c),
    }


def _model(record: ArmRecord, analysis: Analysis) -> str:
    """The model's id as the experiment gives it, else its name."""
    subject = analysis.subject
    told = next((arm.model for arm in subject.arms if arm.name == record.name), "") if subject is not None else ""
    return told or str(record.spec.get("name", ""))


def _tools(record: ArmRecord, summary: ArmSummary | None) -> Sequence[str]:
    if summary is not None:
        return summary.tools
    named = (tool.get("schema", {}).get("function", {}).get("name", "") for tool in record.spec.get("tools") or ())
    return sorted(filter(None, map(str, named)))


def _by_task(
    position: int, outcomes: Outcomes, hashes: Sequence[str]
) -> tuple[IntArray, IntArray, Mapping[str, list[float | None]]]:
    """Scored attempts and successes of an arm by the board's tasks, and the mean costs of its attempts at each."""
    place = {hash: i for i, hash in enumerate(hashes)}
    task_place = np.array([place[task.hash] for task in outcomes.tasks])
    rows = (outcomes.arm == position) & (outcomes.success >= 0)
    at, size = task_place[outcomes.task[rows]], len(hashes)
    n = np.bincount(at, minlength=size)
    c = np.bincount(at, weights=outcomes.success[rows] == 1, minlength=size).astype(np.int64)
    means = {}
    for key, component in TASK_FIGURES.items():
        total = np.bincount(at, weights=outcomes.cost[rows, COST_COMPONENTS.index(component)], minlength=size)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / n
        means[key] = [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in mean.tolist()]
    return n, c, means


def _figures(summary: ArmSummary | None) -> dict[str, Any]:
    """An arm's own figures, with limits."""
    if summary is None:
        return {"attempts": 0}
    return {name: plain(getattr(summary, name)) for name in OWN_FIGURES}


def _gained(comparison: ArmComparison | None, hashes: Sequence[str]) -> dict[str, Any]:
    """An arm's figures against the entry's bare arm; empty for the bare arm itself."""
    if comparison is None:
        return {}
    found = {
        "against": comparison.bare,
        "gain": plain(comparison.gain),
        "gain_if_missing": plain(comparison.gain_if_missing),
        "spends": [comparison.operating, comparison.elicitation],
        "claims": comparison.claims,
    }
    if comparison.full is None:
        return found
    figures = comparison.full.figures
    codes = dict.fromkeys(hashes, NO_VERDICT)
    for task, verdict in zip(figures.tasks, figures.verdicts.verdict, strict=True):
        codes[task] = VERDICT_CODES[str(verdict)]
    return found | {
        "elicitation_part": plain(figures.elicitation_part),
        "creation": plain(figures.creation),
        "loss": plain(figures.loss),
        "nats": plain(figures.nats),
        "nats_budget": figures.nats_budget,
        "verdicts": {str(kind): int(count) for kind, count in figures.verdicts.counts.items()},
        "verdicts_by_task": "".join(codes[hash] for hash in hashes),
    }
