from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given
from hypothesis import strategies as st

from testbed.spaces import Utf8


@given(st.text())
def test_contains_every_text_that_utf8_holds(text: str) -> None:
    assert text in Utf8()


@pytest.mark.parametrize("other", ["\ud800", "a\udfffb", b"bytes", 3, None, ["a"], np.array("a")])
def test_does_not_contain_anything_else(other: object) -> None:
    assert other not in Utf8()


def test_length_is_counted_in_characters_and_the_limit_belongs_to_it() -> None:
    assert "漢" * 5 in Utf8(5)
    assert "a" * 6 not in Utf8(5)
    assert "" in Utf8(0)


def test_contains_numpy_strings_since_vector_environments_make_them() -> None:
    assert np.str_("é") in Utf8()


@pytest.mark.parametrize("length", [0, 1, 7, 1 << 20])
def test_samples_are_members_repeat_under_the_seed_and_vary(length: int) -> None:
    one, other = Utf8(length, seed=3), Utf8(length, seed=3)
    samples = [one.sample() for _ in range(200)]
    assert samples == [other.sample() for _ in range(200)]
    assert all(s in one for s in samples)
    assert len(set(samples)) > (1 if length else 0)


def test_samples_try_scripts_and_markup_beyond_ascii() -> None:
    space = Utf8(seed=0)
    seen = set("".join(space.sample() for _ in range(300)))
    assert {"<", '"', "\n", "漢", "🙂"} <= seen


def test_masks_are_refused_rather_than_ignored() -> None:
    with pytest.raises(ValueError, match="mask"):
        Utf8().sample(mask=1)
    with pytest.raises(ValueError, match="probability"):
        Utf8().sample(probability=1)


def test_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Utf8(-1)


def test_equality_is_by_length_and_agrees_with_the_hash() -> None:
    assert Utf8(5) == Utf8(5, seed=9)
    assert hash(Utf8(5)) == hash(Utf8(5))
    assert Utf8(5) != Utf8(6)
    assert Utf8(5) != gym.spaces.Text(5)


def test_pickling_keeps_the_space_and_its_random_state() -> None:
    space = Utf8(9, seed=1)
    space.sample()
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert [copy.sample() for _ in range(5)] == [space.sample() for _ in range(5)]


def test_works_inside_a_dict_space() -> None:
    space = gym.spaces.Dict({"text": Utf8(), "n": gym.spaces.Discrete(3)})
    space.seed(0)
    assert space.sample() in space
    assert {"text": "\ud800", "n": 0} not in space
    assert space == gym.spaces.Dict({"text": Utf8(), "n": gym.spaces.Discrete(3)})


def test_can_be_batched_and_taken_apart_as_vector_environments_do() -> None:
    space = Utf8()
    batch = batch_space(space, 3)
    out = concatenate(space, ["a", "", "漢"], create_empty_array(space, 3))
    assert list(iterate(batch, out)) == ["a", "", "漢"]


def test_goes_through_json() -> None:
    space = Utf8()
    assert space.from_jsonable(space.to_jsonable(["a", "", "漢\n"])) == ["a", "", "漢\n"]
