"""Where the keys of a TOML file stand, and which of them an error is about."""

from __future__ import annotations

import tomllib

import pytest

from testbed.errors import ExperimentError, SandboxUnavailable, UsageError
from testbed.places import Key, Places

TEXT = '''\
# a comment with [brackets] and "quotes
name = "x" # = [
budget.turns = 3
"quoted key" = 1
text = """
[not.a.header]
k = 1
"""
raw = \'\'\'
# no comment
\'\'\'
numbers = [
  1, # one
  2.5,
  [3, 4],
]

[[arm]]
name = "a"
model = { id = "oracle", options = { deep = [
  true] } }

[arm.budget]
turns = 4

[[arm]]
name = "b"
budget = { turns = 5, calls = { python = 2 } }

[tool."my tool"]
k = -1
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("name",), 2),
        (("budget", "turns"), 3),
        (("quoted key",), 4),
        (("text",), 5),
        (("raw",), 9),
        (("numbers",), 12),
        (("numbers", 1), 14),
        (("numbers", 2, 1), 15),
        (("arm", 0), 18),
        (("arm", 0, "model", "id"), 20),
        (("arm", 0, "model", "options", "deep", 0), 21),
        (("arm", 0, "budget", "turns"), 24),
        (("arm", 1), 26),
        (("arm", 1, "name"), 27),
        (("arm", 1, "budget", "calls", "python"), 28),
        (("tool", "my tool"), 30),
        (("tool", "my tool", "k"), 31),
    ],
)
def test_every_form_of_a_key_has_its_line(key: Key, line: int) -> None:
    tomllib.loads(TEXT)
    assert Places.of("f.toml", TEXT).lines[key] == line


def test_nothing_within_texts_and_comments_is_a_key() -> None:
    names = {part for key in Places.of("f.toml", TEXT).lines for part in key}
    assert not names & {"not", "a", "header", "brackets", "one"}


def test_windows_line_ends_count_once() -> None:
    assert Places.of("f.toml", "a = 1\r\n\r\n[b]\r\nc = 2\r\n").lines[("b", "c")] == 4


def test_an_error_without_a_key_of_its_own_stands_at_what_encloses_it() -> None:
    assert str(Places.of("f.toml", TEXT).error("wrong", ("arm", 1, "tools", 3))) == "f.toml:26: wrong."


def test_an_error_stands_at_the_first_key_that_the_file_has() -> None:
    places = Places.of("f.toml", TEXT)
    assert str(places.error("wrong", ("arm", 1, "samples"), ("budget", "turns"))).startswith("f.toml:3:")


def blamed(message: str, *tables: Key) -> str:
    with pytest.raises(ExperimentError) as caught, Places.of("f.toml", TEXT).blaming(*tables):
        raise UsageError(message)
    return str(caught.value)


def test_the_option_that_a_message_names_is_blamed() -> None:
    assert blamed("turns must be less", ("arm", 1, "budget"), ("budget",)).startswith("f.toml:28:")


def test_the_option_whose_value_a_message_quotes_is_blamed_where_it_names_none() -> None:
    assert blamed("limit must be above 0, not -1.0.", ("arm", 0, "budget"), ("tool", "my tool")).startswith(
        "f.toml:31:"
    )


def test_a_part_of_a_word_is_no_mention() -> None:
    assert blamed("kept 1-1 overturns", ("arm", 0, "budget"), ("tool", "my tool")).startswith("f.toml:23:")


def test_where_no_option_is_mentioned_the_table_is_blamed_by_its_id() -> None:
    assert blamed("cannot be loaded", ("arm", 0, "model")).startswith("f.toml:20:")


def test_an_arms_model_that_is_no_table_is_blamed_before_the_id_of_the_files() -> None:
    text = '[model]\nid = "reference"\n[[arm]]\nname = "a"\nmodel = "hf:/nowhere"\n'
    models: list[Key] = [("arm", 0, "model"), ("model",)]
    with pytest.raises(ExperimentError, match=r"^f\.toml:5: "), Places.of("f.toml", text).blaming(*models):
        raise UsageError("there is no model directory '/nowhere'.")


def test_what_the_machine_lacks_is_no_fault_of_the_file() -> None:
    with pytest.raises(SandboxUnavailable, match=r"^none$"), Places.of("f.toml", TEXT).blaming(("arm", 0)):
        raise SandboxUnavailable("none")


def test_an_error_that_has_its_place_keeps_it() -> None:
    with pytest.raises(ExperimentError, match=r"^g\.toml:7: x$"), Places.of("f.toml", TEXT).blaming(("arm", 0)):
        raise ExperimentError("x", path="g.toml", line=7)
