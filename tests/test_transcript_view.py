from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.transcripts import CALL, SPEC, TASK, attempt_of, returns, says, view_of
from testbed.protocol import parse
from testbed.report.budget_left import left_by_step
from testbed.report.message_blocks import MOST_CALLS, Block, read_blocks
from testbed.report.transcript_view import TranscriptView, amounts
from testbed.report.unseen import visible
from testbed.types import Attempt, Cost, Message, Status, Task

BUDGET = SPEC["budget"]


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", [Block("", "")]),
        ("Hm.", [Block("", "Hm.")]),
        ("<answer> 4 </answer>", [Block("answers", "4")]),
        ("So: <answer>4</answer> done", [Block("", "So: "), Block("answers", "4"), Block("", " done")]),
        (f"I call. {CALL}", [Block("", "I call. "), Block("calls python", ""), Block("code", "print(2+2)")]),
        (
            '<tool_call>{"name":"f","arguments":{"n":3,"s":"3","e":"","t":"a\\nb","l":[1,2]}}</tool_call>',
            [
                Block("calls f", ""),
                Block("n", "3"),
                Block("s", '"3"'),
                Block("e", '""'),
                Block("t", "a\nb"),
                Block("l", "[\n  1,\n  2\n]"),
            ],
        ),
        ("<tool_call>{}", [Block("calls", ""), Block("parse error", "<tool_call> without </tool_call>", fault=True),
                           Block("as written", "{}")]),
        ("<tool_call>x</tool_call> then <answer>4</answer>",
         [Block("calls", ""),
          Block("parse error", "the call is not valid JSON (Expecting value: line 1 column 1 (char 0))", fault=True),
          Block("as written", "x"), Block("", " then <answer>4</answer>")]),
        ("think <answer> of <answer>4</answer>", [Block("", "think <answer> of "), Block("answers", "4")]),
        ("<answer>a<answer>b<answer> 4</answer></answer>",
         [Block("", "<answer>a<answer>b"), Block("answers", "4"), Block("", "</answer>")]),
    ],
)  # fmt: skip
def test_a_message_is_shown_as_the_parser_reads_it(text: str, blocks: list[Block]) -> None:
    assert list(read_blocks(text)) == blocks


pieces = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "<answer>", "</answer>", '{"name":"f","arguments":{"a":1}}', "w ", "{}"]
    ),
    max_size=14,
)


@given(pieces)
@settings(max_examples=100, deadline=None)
def test_every_call_and_answer_that_counts_is_shown_and_no_other(parts: list[str]) -> None:
    text = "".join(parts)
    action, blocks = parse(text), list(read_blocks(text))
    called = [block.label for block in blocks if block.label.startswith("calls")]
    assert called == [f"calls {call.name}".rstrip() for call in action.calls]
    assert [block.text for block in blocks if block.label == "answers"] == (
        [action.answer] if action.answer is not None else []
    )
    for block in blocks:
        if not block.label:
            assert block.text in text


def test_thousands_of_calls_and_deep_nesting_are_shown_in_bounded_pieces() -> None:
    blocks = list(read_blocks(CALL * 20_000))
    assert sum(block.label == "calls python" for block in blocks) == MOST_CALLS
    assert blocks[-1] == Block("", CALL * (20_000 - MOST_CALLS))
    deep = "[" * 600 + "]" * 600
    read = list(read_blocks(f'<tool_call>{{"name":"f","arguments":{{"a":{deep}}}}}</tool_call>'))
    assert any("[" in block.text for block in read)


@pytest.mark.parametrize(
    "body",
    [
        '{"name":"f","arguments":{"a":1},"note":"hidden"}',
        '{"name":"hidden","name":"f","arguments":{"a":1}}',
        '{"name":"f","arguments":{"a":"hidden","a":1}}',
        '{"name":"f","arguments":{"a":{"b":"hidden","b":1}}}',
    ],
)
def test_what_the_parser_passes_over_in_a_call_stands_as_it_was_written(body: str) -> None:
    blocks = list(read_blocks(f"<tool_call>{body}</tool_call>"))
    assert blocks[0] == Block("calls f", "")
    assert blocks[-1] == Block("as written", body)


@given(pieces)
@example(["<answer>", "<answer>", "</answer>"])
@settings(max_examples=50, deadline=None)
def test_no_word_of_a_message_is_left_out(parts: list[str]) -> None:
    words = [f"{part}w{n} " for n, part in enumerate(parts)]
    said = " ".join(block.text for block in read_blocks("".join(words)))
    assert [n for n in range(len(parts)) if f"w{n} " not in f"{said} "] == []


def test_a_call_with_very_many_arguments_stands_as_it_was_written() -> None:
    body = '{"name":"f","arguments":{' + ",".join(f'"a{n}":{n}' for n in range(100_000)) + "}}"
    assert list(read_blocks(f"<tool_call>{body}</tool_call>")) == [Block("calls f", ""), Block("as written", body)]


def test_lists_in_lists_are_not_spread_over_more_than_their_worth() -> None:
    deep = "[" * 400 + "]" * 400
    blocks = list(read_blocks(f'<tool_call>{{"name":"f","arguments":{{"a":{deep}}}}}</tool_call>'))
    assert blocks == [Block("calls f", ""), Block("a", deep)]


def lefts(attempt: Attempt) -> list[dict[str, float]]:
    return left_by_step(attempt, BUDGET)[1]


def test_what_was_left_is_known_after_every_step() -> None:
    recorded = {"generated_tokens": 280.0, "tool_calls": 3.0, "turns": 7.0}
    attempt = attempt_of(says(CALL), returns("4", tokens=1, remaining=recorded), says("<answer>4</answer>"))
    assert lefts(attempt) == [
        {"generated_tokens": 300, "tool_calls": 4, "turns": 8},
        {"generated_tokens": 280, "tool_calls": 4, "turns": 7},  # the tokens are those that the result tells
        {"generated_tokens": 280, "tool_calls": 3, "turns": 7},
        {"generated_tokens": 260, "tool_calls": 3, "turns": 6},  # 300 less the 40 that the attempt cost
    ]


def test_what_does_not_add_up_to_the_cost_is_left_out_rather_than_guessed() -> None:
    attempt = attempt_of(says("Hm."), says("<answer>4</answer>"), cost=Cost(40, 100, 0, 5, 2, 5, 1.0, 0.0))
    first, second, last = lefts(attempt)
    assert first == {"generated_tokens": 300, "tool_calls": 4, "turns": 8}
    assert second == {}
    assert last == {"generated_tokens": 260, "tool_calls": 2, "turns": 3}


def test_limits_of_single_tools_are_followed_and_an_unknown_budget_is_none() -> None:
    attempt = attempt_of(says(CALL), returns("4"), says("<answer>4</answer>"))
    _, steps = left_by_step(attempt, {"calls": {"python": 2}})
    assert [step["calls.python"] for step in steps] == [2, 2, 1, 1]
    assert amounts(steps[-1]) == "1 call of python"
    assert left_by_step(attempt, {}) == ({}, [{}, {}, {}, {}])


def ended(code: str, *said: Message, **changes: object) -> str:
    return view_of(*said, ended=code, **changes).ended


def test_why_an_attempt_ended_is_told_in_words() -> None:
    assert ended("answered") == "It answered, and the answer was graded."
    assert ended("limit:turns") == "It ran out of turns (limit 8)."
    assert amounts({"seconds": 1234.6, "usd": 0.25, "turns": 1}) == "1,235 seconds, 0.25 USD, 1 turn"
    assert ended("limit:seconds") == "It ran out of seconds."
    late = ended("limit:generated_tokens", says("<answer>4</answer>"), answer=None)
    assert late == "It ran out of generated tokens (limit 300); the answer came after that and does not count."
    assert ended("limit:context") == "The conversation no longer fitted into the model's context."
    note: Message = {"role": "system", "content": "no connection"}
    lost = {"status": Status.MISSING, "success": None, "answer": None}
    assert ended("missing:model_not_asked", note, **lost) == (
        "The infrastructure ended it: the model could not be asked (no connection)."
    )
    assert ended("missing:new kind", **lost) == "The infrastructure ended it: new kind."
    assert ended("something else") == "something else"


def test_the_graders_view_is_told_in_words() -> None:
    def facts(**changes: object) -> dict[str, str]:
        return dict(view_of(**changes).facts(reveal_reference=True))

    assert facts()["outcome"] == "success, says the grader exact/1"
    assert facts(success=False)["outcome"] == "failure, says the grader exact/1"
    assert facts(success=False, answer=None)["outcome"] == "failure: no answer was graded"
    assert facts(success=None)["outcome"] == "missing: it counts neither as a success nor as a failure"
    assert facts(score=0.25)["score"] == "0.25"
    assert facts()["reference"] == "4"
    assert (
        facts(faults={"timeout": 2, "redrawn": 1})["faults"] == "2 timeout, 1 earlier tries lost to the infrastructure"
    )
    assert "reference" not in dict(view_of(task=Task("Sums-v0", "?", None)).facts(reveal_reference=True))


@pytest.mark.parametrize("success", [True, False])
def test_of_an_imported_outcome_nothing_is_told_that_nobody_recorded(success: bool) -> None:
    view = view_of(
        task=Task("imported:log", "q", None),
        transcript=(),
        answer=None,
        success=success,
        cost=Cost(seconds=float("nan")),
    )
    facts = dict(view.facts(reveal_reference=True))
    assert facts["outcome"] == f"{'success' if success else 'failure'}, as it was imported"
    assert facts["why it ended"] == "Not recorded."
    assert facts["cost"] == "none recorded"


def test_a_success_without_an_answer_is_no_failure() -> None:
    assert view_of(answer=None).verdict == "success, says the grader exact/1"


def test_amounts_are_told_in_whole_numbers_and_three_digits_else() -> None:
    cost = {"turns": 1, "generated_tokens": 12345, "seconds": 7.3588, "usd": 1.0}
    assert amounts(cost) == "1 turn, 12,345 generated tokens, 7.36 seconds, 1 USD"


def test_a_view_of_an_arm_that_nobody_knows_still_shows_the_attempt() -> None:
    view = TranscriptView.of(attempt_of(says("<answer>4</answer>")), TASK)
    assert (view.arm, view.budget) == ("", {})
    assert view.title == f"attempt {view.id[:12]}"


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_visible_text_has_no_character_that_drives_or_hides(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert all(c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) <= 0x9F) for c in shown)
    assert not set(shown) & set("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\xad")
    assert visible(shown) == shown


def test_rows_of_selectors_are_named_as_they_can_carry_hidden_text_and_emoji_stay() -> None:
    assert visible("☂\ufe0f naïve ❤\ufe0e") == "☂\ufe0f naïve ❤\ufe0e"
    assert visible("a\ufe00\ufe01\ufe0f b") == "a‹U+FE00›‹U+FE01›‹U+FE0F› b"
    assert visible("\ufe01 \ufdd0\uffff") == "‹U+FE01› ‹U+FDD0›‹U+FFFF›"
