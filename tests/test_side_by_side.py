from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.transcripts import CALL, returns, says, view_of
from testbed.report.differing_words import Effort, Run
from testbed.report.side_by_side import MOST_STEPS, how_alike, names_of, side_by_side
from testbed.types import Message

ANSWER, OTHER = says("<answer>4</answer>"), says("<answer>5</answer>")
SEARCH = '<tool_call>{"name":"search","arguments":{"query":"sums"}}</tool_call>'


def pairs(left: list[Message], right: list[Message]) -> list[tuple[int | None, int | None, bool]]:
    rows = side_by_side(view_of(*left), view_of(*right, sample=1))
    return [(row.left.number if row.left else None, row.right.number if row.right else None, row.same) for row in rows]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([ANSWER], [ANSWER], [(1, 1, True), (2, 2, True)]),
        ([ANSWER], [OTHER], [(1, 1, True), (2, 2, False)]),
        ([], [ANSWER], [(1, 1, True), (None, 2, False)]),
        ([ANSWER], [], [(1, 1, True), (2, None, False)]),
        # The same end after a longer way: the ends belong together.
        (
            [ANSWER],
            [says(CALL), returns("4"), ANSWER],
            [(1, 1, True), (None, 2, False), (None, 3, False), (2, 4, True)],
        ),
        # Another answer after a longer way: answers belong together, and a call to none of them.
        (
            [OTHER],
            [says(CALL), returns("4"), ANSWER],
            [(1, 1, True), (None, 2, False), (None, 3, False), (2, 4, False)],
        ),
        # Calls of different tools: by who speaks.
        (
            [says(CALL), returns("4"), ANSWER],
            [says(SEARCH), returns("no", tool="search"), ANSWER],
            [(1, 1, True), (2, 2, False), (3, None, False), (None, 3, False), (4, 4, True)],
        ),
        # The same call, another result.
        (
            [says(CALL), returns("4"), ANSWER],
            [says(CALL), returns("5"), OTHER],
            [(1, 1, True), (2, 2, True), (3, 3, False), (4, 4, False)],
        ),
        # A step put in between equal ones.
        (
            [says(CALL), returns("4"), ANSWER],
            [says("Hm."), says(CALL), returns("4"), ANSWER],
            [(1, 1, True), (None, 2, False), (2, 3, True), (3, 4, True), (4, 5, True)],
        ),
    ],
)
def test_steps_that_belong_together_stand_in_one_row(
    left: list[Message], right: list[Message], expected: list[tuple[int | None, int | None, bool]]
) -> None:
    assert pairs(left, right) == expected
    turned = [(j, i, same) for i, j, same in pairs(right, left)]
    assert sorted(turned, key=str) == sorted(expected, key=str)


messages = st.lists(
    st.sampled_from([ANSWER, OTHER, says(CALL), says(SEARCH), says("Hm."), returns("4"), returns("5", tool="search")]),
    max_size=12,
)


@given(messages, messages)
@settings(max_examples=100, deadline=None)
def test_every_step_of_both_stands_once_and_in_order(left: list[Message], right: list[Message]) -> None:
    found = pairs(left, right)
    assert [i for i, _, _ in found if i is not None] == list(range(1, len(left) + 2))
    assert [j for _, j, _ in found if j is not None] == list(range(1, len(right) + 2))


def marks(left: str, right: str) -> tuple[str, str]:
    def shown(runs: tuple[Run, ...]) -> str:
        return "".join(f"[{run.text}]" if run.differs else run.text for run in runs)

    ours, theirs = Effort().marked(left, right)
    return shown(ours), shown(theirs)


@pytest.mark.parametrize(
    ("left", "right", "ours", "theirs"),
    [
        ("same", "same", "same", "same"),
        ("", "new", "", "[new]"),
        ("the cat sat", "the dog sat", "the [cat] sat", "the [dog] sat"),
        ("cat", "cats", "[cat]", "[cats]"),
        ("I see cats", "I see cat", "I see [cats]", "I see [cat]"),
        ("f(1, 2)", "f(1, 3)", "f(1, [2])", "f(1, [3])"),
        ("a b c", "a c", "a [b ]c", "a c"),
        ("one\ntwo\n", "one\nthree\n", "one\n[two]\n", "one\n[three]\n"),
        ("x = 18277792", "x = 19830182", "x = [18277792]", "x = [19830182]"),
    ],
)
def test_whole_words_that_differ_are_marked(left: str, right: str, ours: str, theirs: str) -> None:
    assert marks(left, right) == (ours, theirs)


texts = st.text(alphabet="ab \n_1é☂", max_size=60)


@given(texts, texts)
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_and_what_is_not_marked_is_equal(left: str, right: str) -> None:
    ours, theirs = Effort().marked(left, right)
    assert "".join(run.text for run in ours) == left
    assert "".join(run.text for run in theirs) == right
    plain = ["".join(run.text for run in runs if not run.differs) for runs in (ours, theirs)]
    assert plain[0] == plain[1]
    assert (left == right) == (not any(run.differs for run in (*ours, *theirs)))


def test_too_many_words_are_compared_by_lines_and_too_many_lines_as_a_whole() -> None:
    lines = [f"line {n} of a long text" for n in range(1000)]
    changed = lines.copy()
    changed[300], changed[700] = "another line", "and another"
    ours, _ = Effort().marked("\n".join(lines), "\n".join(changed))
    assert [run.text.strip() for run in ours if run.differs] == ["line 300 of a long text", "line 700 of a long text"]
    many = [f"{n}" for n in range(5000)]
    ours, _ = Effort().marked("a\n" + "\n".join(many) + "\nz", "b\n" + "\n".join(many[::-1]) + "\ny")
    assert [run.differs for run in ours] == [True]


def test_the_work_of_a_whole_page_is_bounded() -> None:
    effort, began = Effort(), time.process_time()
    for n in range(150):
        left, right = (" ".join(str((i * k + n) % 50) for i in range(900)) for k in (7, 11))
        ours, _ = effort.marked(left, right)
    assert time.process_time() - began < 20  # seconds; about one on an idle machine
    assert sum(run.differs for run in ours) == 1  # marked as a whole once the work is spent


def test_very_many_steps_are_paired_by_position_in_bounded_time() -> None:
    left = [says(f"{n}") for n in range(2 * MOST_STEPS)]
    right = [says(f"{n * 7 % 1000}") for n in range(3 * MOST_STEPS)]
    began = time.process_time()
    found = pairs(left, right)
    assert time.process_time() - began < 20
    assert len(found) == 3 * MOST_STEPS + 1


def test_names_tell_two_attempts_apart_whatever_their_arms_are_called() -> None:
    one, other = view_of(ANSWER, name="bare"), view_of(ANSWER, name="python", sample=1)
    assert names_of(one, other) == ("bare", "python")
    assert names_of(one, view_of(ANSWER, name="bare", sample=1)) == (one.id[:12], other.id[:12])
    assert names_of(one, one) == ("left", "right")
    assert how_alike(one, one, same=2) == "This is one attempt twice."
