"""Checks an entry: nothing that its author says of it is believed where it can be found out.

What cannot be found out is said in words, and the entry is then verified in part only. Attempts get into the store
when all of them have passed, in one transaction with the decision, and as the server makes them out: outcomes graded
here, costs counted here, no clock and no price.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from testbed.board import boards, uploads
from testbed.board.audit import note, now
from testbed.board.boards import Board
from testbed.board.bundle import Bundle, Limits
from testbed.board.bundle_lines import Manifest
from testbed.board.database import BoardDatabase
from testbed.board.schema import entries, entry_arm
from testbed.board.settings import Settings
from testbed.board.verify.arm_pass import ArmPass
from testbed.board.verify.arms import Asked, check_head, read_arms
from testbed.board.verify.draws import FEW, Choice
from testbed.board.verify.findings import Findings, Stopped
from testbed.board.verify.kept import KeptEntry
from testbed.board.verify.models import KnownModel, known_model, misnamed
from testbed.board.verify.one_pass import MOST_CLOSELY, Pass
from testbed.board.verify.prints import keep, twins
from testbed.board.verify.replay import Replayer
from testbed.board.verify.rerun import Again, made_again
from testbed.board.verify.resent import Sent, alike, holding, replace, replaced, what_it_is, withdrawn
from testbed.board.verify.spool import Spool
from testbed.board.verify.summary import summarise
from testbed.board.verify.tools import Corpora, Remaker
from testbed.env import Environment
from testbed.errors import DataError, UsageError
from testbed.store.schema import pack, unpack

ENOUGH = 128  # attempts that a model has made again tell something, where its time ran out at more of them


@dataclass(frozen=True)
class Means:
    """What a server has to check entries with.

    Attributes:
        models: local models, as an experiment names them: their tokens are counted, and attempts made again.
        corpora: further corpora: files, folders that `testbed corpus build` made, names of environments.
        seconds: that the check of one entry may take, and asking a model again besides.
        settings: how much of a bundle is read.
    """

    models: Sequence[str] = ("reference",)
    corpora: Sequence[str] = ()
    seconds: float = 3600.0
    settings: Settings = Settings()  # noqa: RUF009 (frozen)


@dataclass
class _Entry:
    """An entry under examination."""

    id: str
    account: str
    board: Board
    findings: Findings
    arms: list[ArmPass]
    rejected: int = 0  # entries of the same account to the same board
    manifest: Manifest | None = None
    known: KnownModel = KnownModel()  # noqa: RUF009 (frozen)


def verify_entry(db: BoardDatabase, entry_id: str, means: Means = Means()) -> str:
    """Decides an entry that waits; does nothing with one that was decided. Returns its state.

    Args:
        db: the board's database.
        entry_id: the entry.
        means: what there is to check with.

    Raises:
        UsageError: there is no such entry, or its board's environments are not what they were.
        InfrastructureError: something of the server's own failed; the entry goes on waiting.
    """
    with db.reading() as connection:
        row = connection.execute(sa.select(entries).where(entries.c.id == entry_id)).first()
    if row is None:
        raise UsageError(f"no entry has the id {entry_id!r}.")
    if row.state != uploads.WAITING or row.kind != "submitted":
        return str(row.state)
    board = boards.get(db, row.board)
    environments = boards.environments(db, board)
    entry = _Entry(entry_id, row.account, board, Findings(), [], _rejected(db, row.board, row.account))
    try:
        with Spool() as spool:
            with contextlib.suppress(Stopped):
                asyncio.run(_examine(db, entry, environments, means, spool))
            return _decide(db, entry, spool)
    finally:
        for environment in environments:
            environment.close()


def _rejected(db: BoardDatabase, board: str, account: str) -> int:
    """How many of an account's entries to a board were rejected for what is wrong with them.

    What is looked at closely is drawn by chance, and who sends a forgery again and again gets through in the end,
    unless each time more is looked at.
    """
    own = sa.and_(entries.c.board == board, entries.c.account == account, entries.c.kind == "submitted")
    query = sa.select(entries.c.reasons).where(own, entries.c.state == "rejected")
    with db.reading() as connection:
        found = connection.scalars(query).all()
    # What only stands in another entry of the account is no forgery.
    return sum(any(reason["level"] == "wrong" and "entry" not in reason for reason in unpack(each)) for each in found)


async def _examine(
    db: BoardDatabase, entry: _Entry, environments: Sequence[Environment], means: Means, spool: Spool
) -> None:
    """Goes through an entry from its head to its last attempt."""
    findings, board, settings = entry.findings, entry.board, means.settings
    limits = Limits(settings.upload, settings.unpacked, settings.ratio, attempts=settings.attempts)
    try:
        bundle = Bundle(uploads.parts(db, entry.id), limits)
        entry.manifest = bundle.manifest
        asked = Asked.of(board)
        check_head(bundle.manifest.seed, bundle.tasks, asked, findings)
        arms = read_arms(bundle.arms, asked, findings)
        if findings.state == "rejected":
            return  # attempts of another grid mean nothing
        entry.known = known = known_model(arms[0].model, means.models)
        if odd := misnamed(str(arms[0].claimed.spec.get("name", "")), known, means.models):
            findings.unchecked("model", f"{odd}.")
        corpora = Corpora(environments, means.corpora)
        for arm in arms:
            replayer, stored = Replayer(arm, known, board.seed), entry_arm(entry.id, arm.claimed.hash)
            entry.arms.append(ArmPass(arm, replayer, Remaker(arm, corpora, known.count), stored))
        closely = min(2**entry.rejected, MOST_CLOSELY)
        one_pass = Pass(bundle, entry.arms, board.tasks, environments, findings, means.seconds, closely)
        one_pass.check_descriptions()
        try:
            for started in entry.arms:
                await started.remaker.start()
            await one_pass.run(spool.add)
        finally:
            for started in entry.arms:
                await started.remaker.aclose()
    except DataError as error:
        findings.wrong("bundle", str(error))
        return
    summarise(entry.arms, known, len(board.tasks), one_pass.unjudged, findings)
    if findings.state != "rejected":
        _compare_with_others(db, entry)  # asking a model takes its time
        if findings.state != "rejected":
            await _ask_again(known, one_pass.again, findings, means.seconds)


def _compare_with_others(db: BoardDatabase, entry: _Entry) -> None:
    """Tells of entries that have the same attempts, where they are not those that this one takes the place of."""
    slug, account = entry.board.slug, entry.account
    with db.reading() as connection:
        found = twins(connection, slug, account, _prints(entry))
        whole = holding(db, connection, slug, account, _sent(entry))
        gone = withdrawn(db, connection, slug, account, _sent(entry))
        if not whole and not replaced(db, connection, slug, account, _sent(entry)):
            _note_own(connection, entry)
    if whole:
        said = f"all of its arms, with the same attempts, are in entry {whole} of the same account, which has more."
        entry.findings.wrong("copies", said, whole)
    elif gone:
        said = f"all of its arms, with the same attempts, are in entry {gone}, which its author withdrew for good."
        entry.findings.wrong("copies", said, gone)
    for name, twin in found.items():
        more = f", and of {twin.others:,} more entries of others" if twin.others else ""
        entry.findings.note(
            "copies",
            f"arm {name!r} has the same attempts, word for word, as entry {twin.entry} of {twin.account!r}{more} "
            f"(about {twin.share:.0%} of them). The same model with the same seed writes the same; so would a copy.",
            twin.entry,
        )


def _note_own(connection: sa.Connection, entry: _Entry) -> None:
    """Tells of entries of the same account: as those of another model, or with other tools, they rank beside it."""
    for found in entry.arms:
        if not found.arm.bare and (other := alike(connection, entry.board.slug, entry.account, found.prints.data)):
            entry.findings.note(
                "copies",
                f"arm {found.arm.name!r} has the same attempts, word for word, as entry {other} of the same account, "
                "which is said to be of another model or of other tools, or has further arms.",
                other,
            )


def _sent(entry: _Entry) -> list[Sent]:
    return [Sent(found.prints.data, what_it_is(found.arm.claimed.spec)) for found in entry.arms]


def _prints(entry: _Entry) -> dict[str, bytes]:
    return {found.arm.name: found.prints.data for found in entry.arms}


async def _ask_again(known: KnownModel, chosen: Choice, findings: Findings, seconds: float) -> None:
    """Has the model make some attempts again."""
    if known.model is None or not chosen.attempts:
        findings.unchecked(
            "model",
            "whether the model wrote this, and each sample anew, could not be checked: it cannot be asked from here.",
        )
        return
    made: list[Again] = []
    different: list[tuple[Again, str]] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await made_again(known.model, chosen.attempts, made, different)
    for again, how in different:
        claimed, arm = again.claimed, again.replayer.arm
        findings.wrong("model", f"attempt {claimed.id} (arm {arm.name!r}, task {claimed.task}): {how}.")
    if different:
        return
    unseen, whole = chosen.unseen(made), len(made) == len(chosen.attempts)
    if unseen == 1 or (len(made) < ENOUGH and not whole):  # of some arm's successes, or failures, none was made
        findings.unchecked(
            "model", f"making {len(chosen.attempts):,} attempts again takes longer than this server has for it."
        )
        return
    found = f"; where more than {unseen:.1%} of either were otherwise, that would have shown 19 times in 20"
    how = (
        f"Of the {chosen.of_few:,} successes at tasks where an arm has at most {FEW}, {chosen.few:,} were drawn for "
        "themselves; the rest evenly from each arm's successes and failures"
        if whole
        else f"For the other {len(chosen.attempts) - len(made):,} that were drawn the time was too short"
    )
    findings.ok(
        "model",
        f"the model made {len(made):,} attempts again, drawn by chance, and wrote the same. "
        f"{how}{found if unseen else ', all of them'}.",
    )


def _decide(db: BoardDatabase, entry: _Entry, spool: Spool) -> str:
    """Records what was found and, where the entry is accepted, its attempts: all of it, or nothing."""
    state, reasons = entry.findings.state, [reason.as_dict() for reason in entry.findings.reasons()]
    told = {"state": state, "reasons": pack(reasons), "manifest": pack(_manifest(entry)), "decided": now()}
    with db.writing() as connection:
        waits = sa.select(entries.c.state).where(entries.c.id == entry.id)
        if (decided := connection.scalar(waits)) != uploads.WAITING:
            return str(decided)
        if state != "rejected":
            for old in replaced(db, connection, entry.board.slug, entry.account, _sent(entry)):
                replace(connection, old, entry.id, entry.account)
            kept = KeptEntry(entry.id, entry.board, entry.arms, entry.known.name)
            kept.write(db, connection, spool)
            keep(connection, entry.id, _prints(entry))
        connection.execute(entries.update().where(entries.c.id == entry.id).values(**told))
        uploads.decided(connection, entry.id, state)
        wrong = [reason["text"] for reason in reasons if reason["level"] == "wrong"]
        note(connection, "", f"entry.{state}", entry.id, board=entry.board.slug, wrong=wrong[:3])
    return state


def _manifest(entry: _Entry) -> Mapping[str, Any]:
    """What its author says of an entry and nobody checked; shown as that, never as a result."""
    if entry.manifest is None:
        return {}
    tasks = len(entry.board.tasks)
    reported = {
        found.arm.name: {
            "seconds": found.seconds / (tasks * found.arm.claimed.samples),
            "usd": found.usd / (tasks * found.arm.claimed.samples),
        }
        for found in entry.arms
    }
    label = str(entry.arms[0].arm.claimed.spec.get("name", "")) if entry.arms else ""
    return {**entry.manifest.model_dump(), "model": label, "reported": reported}
