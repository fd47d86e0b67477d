from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import UsageError
from testbed.types import (
    COST_COMPONENTS,
    Attempt,
    Cost,
    Status,
    Task,
    attempt_id,
    canonical,
    digest,
    stream_key,
    well_formed,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def attempt(**changes: object) -> Attempt:
    base = Attempt("i", "t", "a", 0, 1, Status.COMPLETE, "answered", True, None, "4", Cost(turns=2, seconds=0.5))
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=6))
def test_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_is_no_number(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical([number])


def test_digest_tells_values_of_different_types_apart() -> None:
    values = [0, "0", False, None, [], {}, [0], {"0": 0}, 0.5, ""]
    assert len({digest(value) for value in values}) == len(values)


@given(st.text(alphabet=st.characters()) | st.text())
def test_well_formed_text_can_be_encoded_and_is_left_alone_where_it_could_be(text: str) -> None:
    cleaned = well_formed(text)
    cleaned.encode()
    assert well_formed(cleaned) == cleaned
    try:
        text.encode()
    except UnicodeEncodeError:
        assert cleaned != text
    else:
        assert cleaned is text


def test_well_formed_joins_pairs_and_replaces_what_stands_alone() -> None:
    assert well_formed("a\ud83d\ude42b\ud83dc\ude42") == "a🙂b\ufffdc\ufffd"


def test_task_hash_covers_content_and_grading_but_neither_cluster_nor_labels() -> None:
    base = Task("E-v0", "p", "r", "exact/1")
    changed = [
        Task("F-v0", "p", "r", "exact/1"),
        Task("E-v0", "q", "r", "exact/1"),
        Task("E-v0", "p", "s", "exact/1"),
        Task("E-v0", "p", "r", "exact/2"),
    ]
    assert len({t.hash for t in [base, *changed]}) == 5
    assert Task("E-v0", "p", "r", "exact/1", cluster="c", meta={"size": 3}).hash == base.hash


def test_task_parts_do_not_run_into_each_other_in_the_hash() -> None:
    assert Task("E", "ab", "c").hash != Task("E", "a", "bc").hash


@pytest.mark.parametrize("reference", [{1, 2}, math.nan, b"x", object(), {"x": {3}}])
def test_task_refuses_a_reference_that_is_no_json(reference: object) -> None:
    with pytest.raises(UsageError, match=r"E-v0: the reference .* 'What' is not a JSON value"):
        Task("E-v0", "What", reference)


def test_task_refuses_a_reference_that_holds_itself() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(UsageError, match="not a JSON value"):
        Task("E-v0", "What", endless)


@pytest.mark.parametrize("prompt", ["half \ud800", 3, None, b"x"])
def test_task_refuses_a_prompt_that_no_model_could_be_shown(prompt: object) -> None:
    with pytest.raises(UsageError, match="prompt must be text"):
        Task("E-v0", prompt, "r")  # type: ignore[arg-type]


def test_tasks_with_unhashable_references_can_be_put_in_sets() -> None:
    assert len({Task("E", "p", [1]), Task("E", "p", [1]), Task("E", "p", [2])}) == 2


def test_costs_add_by_component() -> None:
    one = Cost(*range(1, 9))
    assert (one + one).as_dict() == {c: 2 * (i + 1) for i, c in enumerate(COST_COMPONENTS)}


def test_attempt_ids_differ_in_every_part() -> None:
    parts = [("t", "a", 0, 0), ("u", "a", 0, 0), ("t", "b", 0, 0), ("t", "a", 1, 0), ("t", "a", 0, 1)]
    assert len({attempt_id(*p) for p in parts}) == 5


def test_stream_key_depends_on_task_sample_and_seed_only_and_has_128_bits() -> None:
    keys = {stream_key(0, "t", 0), stream_key(1, "t", 0), stream_key(0, "u", 0), stream_key(0, "t", 1)}
    assert len(keys) == 4
    assert all(0 <= key < 2**128 for key in keys)
    assert max(keys) > 2**100


def test_same_outcome_ignores_the_clock_and_nothing_else() -> None:
    base = attempt()
    assert base.same_outcome(attempt(cost=Cost(turns=2, seconds=9.0)))
    for change in [
        {"cost": Cost(turns=3)},
        {"success": False},
        {"answer": "5"},
        {"faults": {"timeout": 1}},
        {"status": Status.MISSING},
        {"transcript": ({"role": "user", "content": "x"},)},
        {"ended": "limit:turns"},
    ]:
        assert not base.same_outcome(attempt(**change)), change


def test_same_outcome_does_not_care_how_a_transcript_is_held() -> None:
    message = {"role": "user", "content": "x"}
    assert attempt(transcript=[message]).same_outcome(attempt(transcript=(message,)))
