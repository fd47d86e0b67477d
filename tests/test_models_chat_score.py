"""Where messages stand among the tokens that a server read, and which log-probabilities are believed."""

from __future__ import annotations

import pytest

from testbed.errors import ModelError
from testbed.models.base import Score
from testbed.models.chat_score import Read, hidden_before, marked, placed, scores_of, written_logprobs
from testbed.types import Message


@pytest.mark.parametrize(
    ("said", "text", "finish", "is_told"),
    [
        (("It", " is", "<|im_end|>"), "It is", "stop", True),
        (("It", " is", ""), "It is", "stop", True),  # servers that show no special tokens
        (("It", " is"), "It is", "stop", False),
        (("It", " is", " "), "It is é", "stop", True),
        (("It", "", "s"), "It és", "stop", False),  # servers that show no parts of characters
        (("<answer>", "4", "</answer>"), "<answer>4", "stop", True),
        (("It", " is"), "It is", "length", True),
        (("It", " is"), "It is", "tool_calls", True),
    ],
)
def test_logprobs_that_leave_the_end_out_are_none(said: tuple[str, ...], text: str, finish: str, is_told: bool) -> None:
    told = {"content": [{"token": token, "logprob": -1.0} for token in said]}
    found = written_logprobs({"logprobs": told, "finish_reason": finish}, text, len(said))
    assert (found is not None) == is_told


def tokens(*texts: str) -> tuple[list[Read], str]:
    return placed(texts, [-float(n) for n in range(len(texts))]), "".join(texts)


def test_a_short_message_is_found_by_its_place() -> None:
    messages: list[Message] = [{"role": "user", "content": "a"}, {"role": "tool", "content": "a"}]
    around = f"[ask]a[a]{marked(messages, [1])[1]['content']}[end]"
    (score,) = scores_of(*tokens("", "[a", "sk]", "a", "[a", "]", "a", "[end]"), around, messages, [1])
    assert score == Score(1, (-6.0,), -7.0)


@pytest.mark.parametrize(
    ("read", "template", "own"),
    [
        (("[", "", "é", "", "à", "]"), ("[", "@@mark0@@", "", "é", "", "à", "]"), (-1.0, -2.0, -3.0, -4.0)),
        (("[", "", "", "é", "à", "]"), ("[", "", "@@mark0@@", "", "é", "à", "]"), (-2.0, -3.0, -4.0)),
        (("[", "", "é", "à", "", "]"), ("[", "", "@@mark0@@", "é", "à", "", "]"), (-2.0, -3.0)),
    ],
)
def test_parts_of_characters_are_told_from_what_a_server_hides(
    read: tuple[str, ...], template: tuple[str, ...], own: tuple[float, ...]
) -> None:
    messages: list[Message] = [{"role": "user", "content": "éà"}]
    marks, around = tokens(*template)
    (score,) = scores_of(*tokens(*read), around, messages, [0], hidden_before(marks, around, [0]))
    assert score.logprobs == own


def test_where_nobody_knows_what_is_hidden_a_first_character_of_several_tokens_is_refused() -> None:
    for content, is_sure in (("éà", False), ("aé", True)):
        messages: list[Message] = [{"role": "user", "content": content}]
        read = tokens("[", "", content[0], content[1], "]")
        around = "[" + marked(messages, [0])[0]["content"] + "]"
        if is_sure:
            assert scores_of(*read, around, messages, [0])[0].logprobs == (-2.0, -3.0)
        else:
            with pytest.raises(ModelError, match="no text of some tokens before a message"):
                scores_of(*read, around, messages, [0])


@pytest.mark.parametrize("known", [True, False])
def test_what_a_server_hides_beside_an_empty_message_is_none_of_it(known: bool) -> None:
    messages: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]
    marks, around = tokens("", "a", "", "", "@@mark1@@", "", "[end]")
    hidden = hidden_before(marks, around, [1]) if known else None
    (score,) = scores_of(*tokens("", "a", "", "", "", "[end]"), around, messages, [1], hidden)
    assert score.logprobs == ()


@pytest.mark.parametrize("first", ["", "a"])
def test_what_a_server_hides_before_an_empty_message_is_none_of_the_next_one(first: str) -> None:
    """Which begins where both the template's tokens before it and those before the empty one stand."""
    messages: list[Message] = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "é"},
    ]
    marks, around = tokens("", "@@mark0@@", *first, "", "@@mark1@@", "", "", "@@mark2@@", "", "é", "[end]")
    read = tokens("", *first, "", "", "", "", "é", "[end]")
    scores = scores_of(*read, around, messages, [0, 1, 2], hidden_before(marks, around, [0, 1, 2]))
    parts = (-5.0, -6.0) if first else (-4.0, -5.0)
    assert [score.logprobs for score in scores] == [(-1.0,) if first else (), (), parts]


def test_an_empty_last_message_has_no_tokens() -> None:
    messages: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]
    (score,) = scores_of(*tokens("[", "a", "]", ""), "[a]@@mark1@@", messages, [1])
    assert score == Score(1, (), None)


def test_an_empty_message_ends_where_it_begins() -> None:
    messages: list[Message] = [{"role": "assistant", "content": ""}, {"role": "user", "content": "go"}]
    marks, around = tokens("", "@@mark0@@", "", "", "go")
    read = [Read(0, 0, -1.0, -9.0), Read(0, 0, -2.0, -0.5), Read(0, 0, -3.0, -9.0), Read(0, 2, -4.0)]
    (score,) = scores_of(read, "go", around, messages, [0], hidden_before(marks, around, [0]))
    assert score == Score(0, (), -0.5)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (("[a", " b", "]"), "a token holds the end of a message"),
        (("[", "a b]", ""), "a token holds the end of a message"),
        (("[", "a", "]"), "is not as it was said"),
        (("<", "a", " b", "]"), "is not as it was said"),
        (("[", "a", " b", ")"), "puts other things around"),
    ],
)
def test_messages_that_cannot_be_told_from_their_surroundings_are_refused(read: tuple[str, ...], message: str) -> None:
    messages: list[Message] = [{"role": "user", "content": "a b"}]
    around = "[" + marked(messages, [0])[0]["content"] + "]"
    with pytest.raises(ModelError, match=message):
        scores_of(*tokens(*read), around, messages, [0])
