"""What ended attempts, told by cause: what differs in numbers only is one cause, and no word is cut."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from helpers.transcripts import attempt_of
from testbed.causes import Causes, but_for_numbers
from testbed.nats_command import parts
from testbed.scoring import ArmScored
from testbed.store import ScorerRecord
from testbed.types import Message

FULL = "the conversation has {} tokens, and hf:tiny takes 512 with the reply. Use a model with a longer context."


def told(*notes: str) -> str:
    causes = Causes("failed without an answer")
    for sample, note in enumerate(notes):
        said: Message = {"role": "system", "content": note}
        causes.add(attempt_of(said, sample=sample, ended="limit:context", success=False, answer=None))
    return causes.told()


def test_messages_that_differ_in_numbers_only_are_one_cause_with_a_range() -> None:
    found = told(*(FULL.format(size) for size in (544, 518, 577, 544, 530)))
    assert found.startswith(
        "5 failed without an answer: 5 x limit:context (the conversation has 518 to 577 tokens, and"
    )
    assert "hf:tiny takes 512 with the reply. Use a model with a longer context.); see" in found
    assert "other causes" not in found


@pytest.mark.parametrize(
    "texts",
    [("a model of 7b", "a model of 9b"), ("at 10.0.0.1", "at 10.0.0.2"), ("hf:x-1", "hf:y-1"), ("gpt4", "gpt5")],
)
def test_names_and_addresses_are_no_numbers(texts: tuple[str, str]) -> None:
    assert but_for_numbers(Counter(texts)) == Counter(texts)


def test_ranges_go_by_value_and_each_number_has_its_own() -> None:
    counts = {"9 of 2,000 took 0.5 s": 1, "10 of 900 took 0.25 s": 2, "10 of 900 files": 4}
    assert but_for_numbers(counts) == {"9 to 10 of 900 to 2,000 took 0.25 to 0.5 s": 3, "10 of 900 files": 4}


def test_of_a_long_cause_beginning_and_end_are_told_in_whole_words() -> None:
    found = told(f"It began. {' '.join(['remember'] * 60)} It ended; wait.")
    assert re.search(r"\(It began\. (remember )+… (remember )+It ended; wait\.\); see", found)
    assert len(found) < 400
    assert re.search(r"x{100} … x{90}", told("x" * 500))


def test_what_has_no_scores_is_grouped_as_well() -> None:
    scorer = ScorerRecord("hf:tiny", {})
    left_out = Counter({FULL.format(600): 2, FULL.format(700): 1})
    lines = list(parts([ArmScored("python", scorer=scorer, left_out=left_out)]))
    assert lines[1] == f"python: 3 left out: {FULL.format('600 to 700')}"
