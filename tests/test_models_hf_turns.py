"""Turns of threads on a GPU: many at once, or one alone."""

from __future__ import annotations

import random
import threading
import time
from contextlib import nullcontext

import pytest

from testbed.models.hf_turns import Turns, on_gpus, turn_on


def test_who_is_alone_is_alone_and_all_come_to_their_turns() -> None:
    turns, inside, wrong, done = Turns(), set[int](), list[str](), list[int]()

    def work(number: int) -> None:
        some = random.Random(number)
        for _ in range(150):
            with turns.shared():
                inside.add(number)
                if some.random() < 0.3:
                    inside.discard(number)
                    with turns.alone():
                        if inside:
                            wrong.append(f"{sorted(inside)} beside {number}")
                        time.sleep(some.random() * 1e-4)
                        if inside:
                            wrong.append(f"{sorted(inside)} came while {number} was alone")
                    inside.add(number)
                time.sleep(some.random() * 1e-4)
                inside.discard(number)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_a_turn_within_a_turn_waits_for_nobody() -> None:
    turns, waiting = Turns(), threading.Event()

    def alone() -> None:
        waiting.set()
        with turns.alone():
            pass

    with turns.shared():
        thread = threading.Thread(target=alone, daemon=True)
        thread.start()
        waiting.wait(30)
        for _ in range(100):
            with turns.shared():
                time.sleep(1e-4)
    thread.join(30)
    assert not thread.is_alive()


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    for turn in (turns.shared, turns.alone):
        with pytest.raises(KeyError), turn():
            raise KeyError
    with turns.alone(), turns.shared():
        pass


def test_only_models_on_gpus_take_turns() -> None:
    assert turn_on("cpu") is nullcontext
    assert turn_on("cuda:1") == on_gpus.shared
