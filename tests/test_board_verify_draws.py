"""Which attempts a model makes again, whose name a model goes by, and runs that are sent more than once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

from helpers.boards import a_database, a_run, client
from helpers.bundles import Lines, bundle_of, examine, upload
from testbed.board import verify
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.board.entry_changes import NotShown, not_shown
from testbed.board.schema import entries, entry_run
from testbed.board.verify import Means, one_pass, verify_entry
from testbed.board.verify.draws import Choice, Draws
from testbed.board.verify.models import KnownModel, misnamed
from testbed.models.base import Model
from testbed.store.schema import unpack

QUICK_IN_POSTGRESQL = (
    "test_a_run_packed_in_many_ways_is_one_entry_and_the_newest_stands",
    "test_another_account_is_told_of_the_copy_and_whose_it_was_is_never_called_one",
)

SAMPLES = 20


@pytest.fixture
def db(where: str, sums_board: Board) -> Iterator[BoardDatabase]:
    with a_database(where, sums_board) as opened:
        yield opened


# ---- which attempts are drawn ----------------------------------------------------------------------------------------


def drawn(successes: list[list[int]], seed: int, most: int = 64) -> Choice:
    """The draws of an entry with so many successes of `SAMPLES`, by arm and task."""
    draws = Draws(len(successes), most, random.Random(seed))
    for arm, of_arm in enumerate(successes):
        draws.begin_arm()
        for task, count in enumerate(of_arm):
            for n in range(SAMPLES):
                claimed = SimpleNamespace(id=f"{arm} {task} {n}", success=n < count)
                draws.add(SimpleNamespace(claimed=claimed), odd=False)  # type: ignore[arg-type]
            draws.end_task()
    return draws.choice()


def ids(choice: Choice) -> set[str]:
    return {again.claimed.id for again in choice.attempts}


@pytest.mark.parametrize("arms", [1, 7])
def test_a_success_at_each_task_that_an_arm_hardly_solves_is_made_again_whatever_else_is_sent(arms: int) -> None:
    bare = [1] * 9 + [12] * 11  # nine are forged: that is all it takes to have solved every task
    others = [[1, 2] * 10 for _ in range(arms)]  # arms that have many such successes hide none of another
    for seed in range(20):
        choice = drawn([bare, *others], seed)
        assert {f"0 {task} 0" for task in range(9)} <= ids(choice)
        assert len(choice.attempts) == 64 * -(-(1 + arms) // 2)  # and no more work than was meant


def test_each_arms_successes_and_failures_are_drawn_evenly_besides() -> None:
    choice = drawn([[10] * 20, [19] * 20], seed=1)
    taken = [again.claimed for again in choice.attempts]
    for arm in "01":
        for success in (True, False):
            assert sum(one.id[0] == arm and one.success == success for one in taken) == 16
    assert (choice.few, choice.of_few) == (0, 0)


def test_where_there_is_room_everything_is_made_again_and_nothing_is_unseen() -> None:
    choice = drawn([[1, 5], [0, 20]], seed=1, most=200)
    assert len(ids(choice)) == 4 * SAMPLES
    assert choice.unseen(choice.attempts) == 0.0


def test_what_could_have_gone_unseen_shows_as_often_as_is_said() -> None:
    choice = drawn([[10] * 40, [10] * 40], seed=1)
    unseen = choice.unseen(choice.attempts)
    assert unseen == pytest.approx(1 - 0.05 ** (1 / 16))
    assert choice.unseen(choice.attempts[:20]) > unseen  # of fewer, more is unseen
    forged = {f"0 {task} {n}" for task in range(40) for n in range(10)}
    forged = set(sorted(forged)[: round(unseen * len(forged))])
    seen = sum(bool(forged & ids(drawn([[10] * 40, [10] * 40], seed))) for seed in range(200))
    assert seen >= 180  # 19 of 20, less what chance does to 200 tries


@pytest.mark.parametrize(
    ("left_out", "level"),
    [
        (lambda kinds: kinds.index(("bare", True)), "ok"),
        (lambda kinds: kinds.index(("bare", False)), "unchecked"),  # the only one: of its kind nothing would be known
        (lambda kinds: slice(8, None), "unchecked"),
    ],
)
def test_where_the_time_runs_out_the_attempts_that_were_made_are_told_if_they_are_enough(
    db: BoardDatabase,
    reference_bundle: bytes,
    monkeypatch: pytest.MonkeyPatch,
    left_out: Callable[[list[tuple[str, bool]]], Any],
    level: str,
) -> None:
    async def runs_out(model: Model, chosen: Any, done: list[Any], different: list[Any]) -> Any:
        kinds = [(again.replayer.arm.name, bool(again.claimed.success)) for again in chosen]
        assert kinds.count(("bare", False)) == 1 < kinds.count(("bare", True))
        made = list(chosen)
        del made[left_out(kinds)]
        done += made
        raise TimeoutError

    monkeypatch.setattr(verify, "made_again", runs_out)
    monkeypatch.setattr(verify, "ENOUGH", 10)
    told = [text for text in examine(db, "sums", reference_bundle).of(level) if text.startswith("model")]
    assert len(told) == 1
    assert ("For the other 1 that were drawn the time was too short" in told[0]) == (level == "ok")


def test_what_came_out_otherwise_counts_though_the_time_runs_out(
    db: BoardDatabase, reference_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def runs_out(model: Model, chosen: Any, done: list[Any], different: list[Any]) -> Any:
        done += chosen[:12]
        different.append((chosen[20], "it writes another text"))
        raise TimeoutError

    monkeypatch.setattr(verify, "made_again", runs_out)
    monkeypatch.setattr(verify, "ENOUGH", 10)
    assert examine(db, "sums", reference_bundle).state == "rejected"


def test_that_samples_were_drawn_one_by_one_is_not_believed_of_a_model_that_is_not_here(
    db: BoardDatabase, stranger_bundle: bytes
) -> None:
    found = examine(db, "sums", stranger_bundle)
    assert any("each sample anew, could not be checked" in text for text in found.of("unchecked"))


def test_nothing_is_held_for_a_model_that_nobody_asks(
    db: BoardDatabase, stranger_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuses(Draws):
        def add(self, again: Any, *, odd: bool) -> None:
            raise AssertionError

    monkeypatch.setattr(one_pass, "Draws", Refuses)
    assert examine(db, "sums", stranger_bundle).state == "partly"


# ---- names of models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["OpenAI GPT-6/reference", "gpt\u202e/reference", "REFERENCE"])
def test_a_model_that_is_here_goes_by_the_name_that_it_has_here(
    db: BoardDatabase, reference_bundle: bytes, said: str
) -> None:
    lines = Lines.of(reference_bundle)
    for arm in lines.arms:
        arm["spec"]["name"] = said
    found = examine(db, "sums", lines.sealed())
    assert found.state == "verified"
    assert db.store.run(entry_run(found.id)).experiment["model"] == {"id": "reference"}
    with db.reading() as connection:
        (row,) = connection.execute(entries.select())
    assert unpack(row.manifest)["model"] == said  # a label


@pytest.mark.parametrize(
    ("said", "odd"),
    [
        *[
            (name, True)
            for name in ("Reference", "r\u0435ference", "refer\u200bence", "ｒｅｆｅｒｅｎｃｅ", "référence")
        ],
        *[(name, True) for name in ("reference/v2", "lab:Reference", "qwen2.5-O.5B", "my/qwen2.5-0.5b")],
        *[(name, True) for name in ("rеfеrеnсе", "referеnce", "refer\u0301ence", "refer\u3164ence", "ʀᴇꜰᴇʀᴇɴᴄᴇ")],
        *[(name, True) for name in ("REFERENCΕ", "🅡🅔🅕🅔🅡🅔🅝🅒🅔", "qwen2․5‑ο.5b", "qwen2.5−0.5b", "qvven2.5-0.5b")],
        *[(name, False) for name in ("preference", "references", "qwen2.5-1.5b", "文献", "", "gpt-6")],
        # of as many letters as "reference", in other scripts
        *[(name, False) for name in ("日本語文献大規模語", "Медведица", "Αφροδίτης", "референсы")],
    ],
)
def test_a_name_that_reads_like_that_of_a_model_which_is_here_is_told(said: str, odd: bool) -> None:
    assert bool(misnamed(said, KnownModel(), ["reference", "hf:/models/qwen2.5-0.5b"])) == odd


# ---- runs that are sent more than once -------------------------------------------------------------------------------


def unlike(data: bytes, level: int) -> bytes:
    """The same run as another file: other compression, order of keys, labels, seconds and USD."""
    lines = Lines.of(data)
    lines.manifest |= {"run": f"run {level}", "created": str(level)}
    for n, attempt in enumerate(lines.attempts):
        attempt["cost"] |= {"seconds": n / 7 + level, "usd": n / 3}
    lines.attempts[:] = [dict(reversed(attempt.items())) for attempt in lines.attempts]
    text = zstandard.ZstdDecompressor().decompressobj().decompress(lines.sealed())
    return zstandard.compress(text, level)


@pytest.fixture
def sent(db: BoardDatabase) -> Callable[..., str]:
    """Sends a bundle and has it checked; returns its id."""

    def sent(data: bytes, account: str = "ann") -> str:
        id_ = upload(db, "sums", data, account)
        verify_entry(db, id_, Means(models=()))
        return id_

    return sent


def accepted(db: BoardDatabase) -> dict[str, list[str]]:
    """Ids of the accepted entries, and the reasons of those that are not."""
    with db.reading() as connection:
        rows = connection.execute(entries.select().order_by(entries.c.created)).all()
    assert all(unpack(row.reasons) for row in rows)
    return {
        "there": [row.id for row in rows if row.state in ("verified", "partly")],
        "gone": [reason["text"] for row in rows if row.state == "rejected" for reason in unpack(row.reasons)],
    }


def test_a_run_packed_in_many_ways_is_one_entry_and_the_newest_stands(
    db: BoardDatabase, stranger_bundle: bytes, sent: Callable[..., str]
) -> None:
    made = [sent(stranger_bundle), *(sent(unlike(stranger_bundle, level)) for level in (1, 5, 19))]
    assert len(set(made)) == 4
    assert accepted(db)["there"] == made[-1:]
    with db.reading() as connection:
        rows = {row.id: unpack(row.reasons) for row in connection.execute(entries.select())}
        assert not_shown(connection, "sums") == {"ann": NotShown(replaced=3)}
    for old, new in pairwise(made):
        assert [(reason["check"], reason["entry"]) for reason in rows[old]] == [("copies", new)]
    with client(db) as http:
        assert f'<a href="/entries/{made[1]}">That entry</a>' in http.get(f"/entries/{made[0]}").text
    assert sent(stranger_bundle) == made[0]  # the same bytes find what became of them
    assert accepted(db)["there"] == made[-1:]


def test_another_account_is_told_of_the_copy_and_whose_it_was_is_never_called_one(
    db: BoardDatabase, stranger_bundle: bytes, sent: Callable[..., str]
) -> None:
    first = sent(stranger_bundle)
    copy = sent(unlike(stranger_bundle, 1), "eve")
    newest = sent(unlike(stranger_bundle, 5))
    assert accepted(db)["there"] == [copy, newest]
    with db.reading() as connection:
        noted = {
            row.id: [reason["entry"] for reason in unpack(row.reasons) if reason["level"] == "note"]
            for row in connection.execute(entries.select())
        }
    assert noted == {first: [newest], copy: [first, first], newest: []}


@pytest.fixture(scope="module")
def more_arms(sums_board: Board, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The stranger's run with one more arm."""
    where = tmp_path_factory.mktemp("more") / "run.sqlite"
    arms: list[dict[str, Any]] = [{"name": "bare"}, {"name": "calculator", "tools": ["calculator"]}]
    a_run(where, sums_board, arms=[*arms, {"name": "inert", "tools": ["calculator"], "control": "inert"}])
    return bundle_of(where, "mine", sums_board)


def test_a_run_with_one_more_arm_takes_the_place_of_the_smaller_one(
    db: BoardDatabase, stranger_bundle: bytes, more_arms: bytes, sent: Callable[..., str]
) -> None:
    _, larger = sent(stranger_bundle), sent(more_arms)
    assert accepted(db)["there"] == [larger]
    sent(unlike(stranger_bundle, 1))  # and the smaller one adds nothing to it
    assert accepted(db)["there"] == [larger]
    assert any(f"are in entry {larger} of the same account" in text for text in accepted(db)["gone"])


def test_another_model_or_other_tools_with_the_same_words_are_entries_of_their_own(
    db: BoardDatabase, stranger_bundle: bytes, sent: Callable[..., str]
) -> None:
    def of_another_model(lines: Lines) -> None:
        for arm in lines.arms:
            arm["spec"]["model"]["skill"] = 0.5

    def with_other_tools(lines: Lines) -> None:
        lines.arms[1]["spec"]["tools"][0]["schema"]["function"]["description"] = "Adds"
        lines.arms[1]["spec"]["schemas"] = ""

    made = [sent(stranger_bundle)]
    for change in (of_another_model, with_other_tools):
        lines = Lines.of(stranger_bundle)
        change(lines)
        made.append(sent(lines.sealed()))
    assert accepted(db)["there"] == made
    with db.reading() as connection:
        (row,) = connection.execute(entries.select().where(entries.c.id == made[-1]))
    noted = [reason for reason in unpack(row.reasons) if reason["level"] == "note"]
    assert [reason["entry"] for reason in noted] == made[:1]
    assert "of the same account" in noted[0]["text"]


def test_what_was_rejected_can_be_mended_and_only_what_was_wrong_has_an_account_looked_at_more_closely(
    db: BoardDatabase, stranger_bundle: bytes, sent: Callable[..., str]
) -> None:
    forged = Lines.of(stranger_bundle)
    forged.attempts[0]["success"] ^= True
    sent(forged.sealed())
    assert accepted(db)["there"] == []
    assert verify._rejected(db, "sums", "ann") == 1
    made = [sent(stranger_bundle), sent(unlike(stranger_bundle, 1))]
    assert accepted(db)["there"] == made[1:]
    assert verify._rejected(db, "sums", "ann") == 1  # that another took an entry's place is no forgery
