"""Bundles: the same run gives the same bytes, and reading a stranger's is bounded and believes nothing."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from helpers.boards import a_board, a_run
from helpers.bundles import Lines, bundle_of, packed
from helpers.stored import ODD
from testbed.board.boards import Board
from testbed.board.bundle import Bundle, Limits, write_bundle
from testbed.errors import DataError, StoreError
from testbed.store import Store


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return a_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def where(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "store.sqlite"
    a_run(path, board)
    return path


@pytest.fixture(scope="module")
def data(board: Board, where: Path) -> bytes:
    return bundle_of(where, "mine", board)


def read(data: bytes, limits: Limits | None = None, size: int = 1000) -> list[Any]:
    bundle = Bundle((data[at : at + size] for at in range(0, len(data), size)), limits or Limits())
    return [bundle.manifest, *bundle.arms, *bundle.tasks, *bundle.attempts()]


def test_the_same_run_gives_the_same_bytes(board: Board, where: Path, data: bytes) -> None:
    assert bundle_of(where, "mine", board) == data


def test_a_label_that_boards_would_take_for_identity_stays_here(board: Board, where: Path, tmp_path: Path) -> None:
    with Store.open(where) as store:
        run = store.run("mine")
        arms = [replace(arm, spec={**arm.spec, "tokenization": {"tokens": "a"}}) for arm in run.arms]
        wanted = {arm.name: board.samples["tools" if arm.spec["tools"] else "bare"] for arm in arms}
        write_bundle(store, replace(run, arms=tuple(arms)), store.tasks("mine"), wanted, tmp_path / "b")
    assert [arm["spec"] for arm in Lines.of((tmp_path / "b").read_bytes()).arms] == [arm.spec for arm in run.arms]


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_what_was_written_is_read_in_pieces_of_any_size(board: Board, where: Path, data: bytes, size: int) -> None:
    manifest, *rest = read(data, size=size)
    assert (manifest.run, manifest.seed, manifest.arms, manifest.tasks) == ("mine", 3, 2, 6)
    with Store.open(where) as store:
        own = list(store.attempts("mine"))
    sent = rest[8:]
    assert [a.id for a in sent] == [a.id for a in own]
    assert [a.cost.cost for a in sent] == [a.cost for a in own]
    assert [[m.content for m in a.transcript] for a in sent] == [[m["content"] for m in a.transcript] for a in own]


def test_a_bundle_holds_no_reference_and_no_log_probability(board: Board, data: bytes) -> None:
    lines = Lines.of(data)
    assert all(set(task) == {"hash", "environment", "prompt"} for task in lines.tasks)
    assert "logprobs" not in json.dumps(lines.attempts)


def test_a_run_that_was_not_finished_is_told_to_be(board: Board, where: Path, tmp_path: Path) -> None:
    with Store.open(where) as store:
        run, tasks = store.run("mine"), store.tasks("mine")
        with pytest.raises(StoreError, match="60 of the 72 attempts: finish it"):
            write_bundle(store, run, tasks, {"bare": 6, "calculator": 6}, tmp_path / "b")


def bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(b" " * size)


def test_a_decompression_bomb_is_given_up_after_little_memory() -> None:
    data = bomb(2**28)
    tracemalloc.start()
    with pytest.raises(DataError, match="no run does"):
        read(data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**25


def test_lines_beyond_their_length_are_not_taken_in() -> None:
    data = zstandard.compress(bytes(range(97, 123)) * 10**5)
    with pytest.raises(DataError, match="line 1 of the bundle, the manifest, has over 65,536 bytes"):
        read(data, Limits(line=2**16, ratio=10**6))


def test_arms_and_tasks_are_held_in_memory_and_so_take_little_of_it_all_together(data: bytes) -> None:
    lines = Lines.of(data)
    sparse = {**lines.arms[1], "spec": {**lines.arms[1]["spec"], "more": [[]] * 2**20}}  # 3 MiB, and 60 once parsed
    long = {**lines.tasks[0], "prompt": "so long " * 2**17}  # 1 MiB
    manifest, limits = {**lines.manifest, "arms": 3, "tasks": 3}, Limits(listed=2**21, ratio=10**6)
    with pytest.raises(DataError, match="line 4 of the bundle, arm 3, has over"):
        Bundle([packed([manifest, *[sparse] * 3, *lines.tasks])], limits)
    with pytest.raises(DataError, match="line 6 of the bundle, task 2, has over"):
        Bundle([packed([manifest, *[lines.arms[0]] * 3, *[long] * 3])], limits)


@pytest.mark.parametrize("kind", ["arms", "tasks", "attempts"])
def test_more_lines_of_a_kind_than_allowed_are_refused_by_the_manifest(data: bytes, kind: str) -> None:
    with pytest.raises(DataError, match=f"more than 1 {kind}"):
        read(data, Limits(**{kind: 1}))


def test_a_file_beyond_its_size_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="more than 100 bytes"):
        read(data, Limits(size=100))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_bundle_that_ends_early_says_so(data: bytes, kept: float) -> None:
    with pytest.raises(DataError, match="ends early"):
        read(data[: int(kept * len(data))])


@pytest.mark.parametrize("noise", [b"", b"{}", b"PK\x03\x04" * 100, b"\x28\xb5\x2f\xfd" + b"\xff" * 50])
def test_what_is_no_bundle_says_so(noise: bytes) -> None:
    with pytest.raises(DataError, match="bundle"):
        read(noise)


def test_what_stands_behind_the_last_attempt_is_refused(data: bytes) -> None:
    lines = Lines.of(data)
    lines.attempts.append(lines.attempts[-1])
    with pytest.raises(DataError, match="goes on after line 69"):
        read(lines.sealed(counted=False))


def spoilt(data: bytes, change: Any) -> bytes:
    lines = Lines.of(data)
    change(lines)
    return lines.sealed()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.attempts[0].update(extra=1), "attempt 1: extra"),
        (lambda lines: lines.attempts[0].pop("answer"), "attempt 1: answer"),
        (lambda lines: lines.attempts[0].update(success="yes"), "attempt 1: success"),
        (lambda lines: lines.attempts[0].update(sample=-1), "attempt 1: sample"),
        (lambda lines: lines.attempts[0].update(sample=True), "attempt 1: sample"),
        (lambda lines: lines.attempts[0]["cost"].update(seconds=-1), "attempt 1: cost.seconds"),
        (lambda lines: lines.attempts[0]["cost"].update(turns=10**40), "attempt 1: cost.turns"),
        (lambda lines: lines.attempts[0]["transcript"][0].update(role="root"), "attempt 1: transcript.0.role"),
        (lambda lines: lines.attempts[0]["transcript"][0].update(content=ODD), "attempt 1"),
        (lambda lines: lines.attempts[0].update(status="done"), "attempt 1: status"),
        (lambda lines: lines.manifest.update(bundle=2), "the manifest: bundle"),
        (lambda lines: lines.manifest.update(seed=-1), "the manifest: seed"),
        (lambda lines: lines.tasks[0].update(reference="42"), "task 1: reference"),
        (lambda lines: lines.arms[0].update(samples=0), "arm 1: samples"),
    ],
)
def test_a_line_of_another_form_names_itself(data: bytes, change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(spoilt(data, change))


def test_numbers_that_are_none_and_json_that_is_deeply_nested_are_refused(data: bytes) -> None:
    lines = Lines.of(data)
    text = packed([lines.manifest, *lines.arms, *lines.tasks]), json.dumps(lines.attempts[0])
    for bad in (text[1].replace('"seconds": ', '"seconds": NaN, "x": '), '{"id":' + "[" * 10_000):
        with pytest.raises(DataError, match="attempt 1"):
            read(text[0] + zstandard.compress(bad.encode() + b"\n"))


@given(st.binary(max_size=300), st.integers(0, 2**30))
def test_damaged_bytes_never_bring_anything_but_a_refusal(noise: bytes, place: int) -> None:
    empty = {"arms": 0, "tasks": 0, "attempts": 0}
    whole = packed([{"bundle": 1, "run": "r", "seed": 0, "created": "", "testbed": "", **empty}])
    at = place % len(whole)
    with contextlib.suppress(DataError):
        read(whole[:at] + noise + whole[at:])
