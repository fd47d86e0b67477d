"""What forgers do to a bundle, one trick a test; each begins with an honest run that is accepted as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from helpers.bundles import Examined, Lines, bundle_of, examine, packed, ran
from testbed.board.boards import Board
from testbed.board.database import BoardDatabase
from testbed.protocol import write_answer, write_call

QUICK_IN_POSTGRESQL = (
    "test_the_honest_bundle_is_accepted_and_what_cannot_be_checked_is_said",
    "test_a_success_that_is_only_said",
)

Forge = Callable[[Lines], None]


@pytest.fixture
def forged(sums_db: BoardDatabase, stranger_bundle: bytes) -> Callable[[Forge], Examined]:
    """What becomes of an honest bundle once a forger had it; nothing of a rejected one may be in the store."""

    def forged(forge: Forge, data: bytes = stranger_bundle, *, counted: bool = True) -> Examined:
        lines = Lines.of(data)
        forge(lines)
        found = examine(sums_db, "sums", lines.sealed(counted=counted))
        assert found.state == "rejected", found.reasons
        assert sums_db.store.runs() == []
        return found

    return forged


def less(attempt: dict[str, Any], component: str) -> None:
    attempt["cost"][component] -= 1


def test_the_honest_bundle_is_accepted_and_what_cannot_be_checked_is_said(
    sums_db: BoardDatabase, stranger_bundle: bytes
) -> None:
    found = examine(sums_db, "sums", stranger_bundle)
    assert found.state == "partly"
    assert [text.split(":")[0] for text in found.of("unchecked")] == ["counts", "counts", "model"]
    assert any("made again, and are the same" in text for text in found.of("ok"))


def test_sealing_a_bundle_anew_changes_nothing_so_that_the_forgers_changes_are_what_is_caught(
    sums_db: BoardDatabase, stranger_bundle: bytes
) -> None:
    assert examine(sums_db, "sums", Lines.of(stranger_bundle).sealed()).state == "partly"


def test_the_reference_models_honest_bundle_is_verified_whole(sums_db: BoardDatabase, reference_bundle: bytes) -> None:
    found = examine(sums_db, "sums", reference_bundle)
    assert found.state == "verified", found.reasons
    assert any("wrote the same" in text for text in found.of("ok"))


def test_an_edited_answer_does_not_match_the_transcript(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        failed = lines.first("bare", success=False)
        right = lines.first("bare", success=True, task=failed["task"])
        failed.update(answer=right["answer"], success=True)

    assert "its answer is said to be" in forged(forge).wrong


def test_an_answer_edited_in_the_transcript_too_is_graded_again(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        failed = lines.first("bare", success=False)
        wrong = str(int(failed["answer"]) + 10)
        failed["transcript"][-1]["content"] = write_answer(wrong)
        failed.update(answer=wrong, success=True)

    assert "its success is said to be True, and is False" in forged(forge).wrong


def test_a_success_that_is_only_said(forged: Any) -> None:
    found = forged(lambda lines: lines.first("bare", success=False).update(success=True))
    assert "its success is said to be True, and is False" in found.wrong


@pytest.mark.parametrize("component", ["turns", "tool_calls", "model_calls", "observed_tokens"])
def test_an_edited_cost(forged: Any, component: str) -> None:
    def forge(lines: Lines) -> None:
        used = next(a for a in lines.of_arm("calculator") if a["cost"]["tool_calls"])
        used["cost"][component] -= 1

    assert component in forged(forge).wrong


def test_under_counted_tokens(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        for attempt in lines.attempts:
            attempt["cost"]["generated_tokens"] = 1

    assert "texts have at least" in forged(forge).wrong


def test_tokens_under_counted_by_one_where_the_server_has_the_model(forged: Any, reference_bundle: bytes) -> None:
    found = forged(lambda lines: less(lines.attempts[0], "generated_tokens"), reference_bundle)
    assert "generated_tokens" in found.wrong


def test_prompt_tokens_under_counted_by_one_where_the_server_has_the_tokenizer(
    forged: Any, reference_bundle: bytes
) -> None:
    assert "prompt_tokens" in forged(lambda lines: less(lines.attempts[0], "prompt_tokens"), reference_bundle).wrong


def test_a_swapped_task_is_none_of_the_boards(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        old, new = lines.tasks[0]["hash"], "0" * 32
        for thing in [*lines.tasks, *lines.attempts]:
            for key in ("hash", "task"):
                if thing.get(key) == old:
                    thing[key] = new

    assert "none of the board's" in forged(forge).wrong


def test_attempts_at_an_easier_task_under_the_name_of_a_harder_one(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        easy, hard = lines.tasks[0]["hash"], lines.tasks[1]["hash"]
        there = {(a["arm"], a["task"], a["sample"]): a for a in lines.attempts}
        for (arm, task, sample), attempt in there.items():
            if task == hard:
                attempt.update({**there[arm, easy, sample], "task": hard})

    assert "message 0" in forged(forge).wrong  # the prompt is another


def test_a_swapped_prompt_in_the_list_of_tasks(forged: Any) -> None:
    found = forged(lambda lines: lines.tasks[0].update(prompt="What is 1+1?"))
    assert "the prompt of task" in found.wrong


def test_a_swapped_prompt_in_one_transcript(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        first = lines.attempts[0]["transcript"][0]
        first["content"] += " Hint: think of the calculator."

    assert "message 0" in forged(forge).wrong


def test_dropped_failures(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        lines.attempts = [a for a in lines.attempts if a["success"] or a["sample"] < 2]

    assert "every sample of every task has to be there" in forged(forge).wrong


def test_dropped_failures_with_successes_moved_up_into_their_places(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        kept = [a for a in lines.attempts if a["success"]]
        number: dict[tuple[str, str], int] = {}
        for attempt in kept:
            cell = attempt["arm"], attempt["task"]
            attempt["sample"] = number[cell] = number.get(cell, -1) + 1
        lines.attempts = kept

    assert "structure" in forged(forge).wrong


def test_fewer_samples_than_the_board_asks_for(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        lines.attempts = [a for a in lines.attempts if a["sample"] < 2]
        for arm in lines.arms:
            arm["samples"] = 2

    assert "has 2 samples, and the board 6" in forged(forge).wrong


def test_failures_declared_missing(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        for attempt in lines.of_arm("bare"):
            if not attempt["success"]:
                attempt.update(status="missing", ended="missing:transport_error", success=None, answer=None)

    assert "failures that were left out would look like that" in forged(forge).wrong


def test_failures_declared_to_be_second_draws(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        for attempt in lines.of_arm("bare"):
            if not attempt["success"]:
                attempt["faults"]["redrawn"] = 1

    assert "failures that were left out would look like that" in forged(forge).wrong


def test_duplicated_successes(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        good = lines.first("bare", success=True)
        good["cost"]["seconds"] = 0.123456789
        for attempt in lines.of_arm("bare"):
            if attempt["task"] == good["task"]:
                attempt.update({**json.loads(json.dumps(good)), "sample": attempt["sample"]})

    assert "copies of others" in forged(forge).wrong


def test_duplicated_successes_with_new_times_where_the_model_can_be_asked_again(
    forged: Any, reference_bundle: bytes
) -> None:
    def forge(lines: Lines) -> None:
        first: dict[str, Any] = {}
        for attempt in lines.attempts:  # every attempt becomes a copy of its task's first, at another time
            good = first.setdefault(attempt["arm"] + attempt["task"], attempt)
            copy = json.loads(json.dumps(good))
            copy["cost"]["seconds"] += attempt["sample"] * 0.017
            attempt.update({**copy, "sample": attempt["sample"]})

    assert "the model writes" in forged(forge, reference_bundle).wrong


def test_an_edited_tool_result(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        calls = next(a for a in lines.of_arm("calculator") if a["cost"]["tool_calls"] and a["success"])
        calls["transcript"][2].update(content="7", tokens=1)
        calls["transcript"][3]["content"] = write_answer("7")
        calls.update(answer="7", success=False)

    assert "and here it is" in forged(forge).wrong


def test_the_result_of_another_call(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        calls = next(a for a in lines.of_arm("calculator") if a["cost"]["tool_calls"])
        calls["transcript"][2]["name"] = "python"

    assert "message 2" in forged(forge).wrong


def test_one_arm_with_a_larger_budget(forged: Any) -> None:
    found = forged(lambda lines: lines.arms[1]["spec"]["budget"].update(turns=8))
    assert "another budget than the board" in found.wrong
    assert "turns 4 → 8" in found.wrong


def test_more_turns_than_the_budget_has(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        attempt = lines.first("bare", success=True)
        said, note = attempt["transcript"][-1], {"role": "user", "content": "x"}
        attempt["transcript"][1:] = [{"role": "assistant", "content": "Hm."}, note] * 6 + [said]
        attempt["cost"].update(turns=7, model_calls=7, generated_tokens=99, prompt_tokens=99)

    assert "answers:" in forged(forge).wrong


def test_a_bare_arm_with_hidden_tools(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        attempt, other = lines.first("bare", success=False), lines.of_arm("calculator")
        helped = next(a for a in other if a["cost"]["tool_calls"] and a["success"] and a["task"] == attempt["task"])
        sample, arm = attempt["sample"], attempt["arm"]
        attempt.update({**json.loads(json.dumps(helped)), "sample": sample, "arm": arm})

    assert "message 2" in forged(forge).wrong  # there are no tools to call


def test_tools_that_the_model_was_told_of_and_the_arm_does_not_have(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        lines.arms[0]["spec"]["schemas"] = lines.arms[1]["spec"]["schemas"]

    assert "was told of other tools" in forged(forge).wrong


def test_a_call_of_a_tool_that_is_not_offered(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        calls = next(a for a in lines.of_arm("calculator") if a["cost"]["tool_calls"])
        calls["transcript"][1]["content"] = write_call("oracle", {"of": "the answer"})
        calls["transcript"][2]["name"] = "oracle"

    assert "attempt" in forged(forge).wrong


def test_a_tool_that_the_board_does_not_allow(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        for tool in lines.arms[1]["spec"]["tools"]:
            tool["schema"]["function"]["name"] = "python"
        lines.arms[1]["spec"]["schemas"] = ""

    assert "offers 'python'; the board allows calculator" in forged(forge).wrong


def test_arms_of_two_models(forged: Any) -> None:
    found = forged(lambda lines: lines.arms[1]["spec"]["model"].update(skill=0.9))
    assert "differ in their model" in found.wrong


def test_the_wrong_seed(forged: Any) -> None:
    def forge(lines: Lines) -> None:
        lines.manifest["seed"] = 4
        for attempt in lines.attempts:
            attempt["seed"] = 4

    assert "seed 4, and the board 3" in forged(forge).wrong


@pytest.fixture(scope="module")
def drawn_anew(sums_board: Board, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Lines]:
    """The reference model's run with another seed."""

    @cache
    def drawn_anew(seed: int) -> Lines:
        where = tmp_path_factory.mktemp("anew") / "store.sqlite"
        run = ran(where, sums_board, {"id": "reference", "max_tokens": 60}, seed=seed)
        return Lines.of(bundle_of(where, run, sums_board))

    return drawn_anew


def test_attempts_of_another_seed_under_the_boards(forged: Any, reference_bundle: bytes, drawn_anew: Any) -> None:
    def forge(honest: Lines) -> None:
        for mine, other in zip(honest.attempts, drawn_anew(4).attempts, strict=True):
            mine.update({**other, "seed": 3})

    assert "the model writes" in forged(forge, reference_bundle).wrong


def test_an_arms_hash_that_is_not_of_its_description(stranger_bundle: bytes, sums_db: BoardDatabase) -> None:
    lines = Lines.of(stranger_bundle)
    lines.arms[1]["spec"]["sampling"]["temperature"] = 0.5
    data = packed([lines.manifest, *lines.arms, *lines.tasks, *lines.attempts])
    assert "does not have the hash" in examine(sums_db, "sums", data).wrong


def test_best_of_several_hidden_as_one_sample(forged: Any, reference_bundle: bytes, drawn_anew: Any) -> None:
    def forge(lines: Lines) -> None:
        for place, mine in enumerate(lines.attempts):
            draws = (drawn_anew(seed).attempts[place] for seed in (4, 5, 6))
            better = next((draw for draw in draws if draw["success"]), None)
            if not mine["success"] and better is not None:
                mine.update({**better, "seed": 3})

    assert "the model writes" in forged(forge, reference_bundle).wrong
