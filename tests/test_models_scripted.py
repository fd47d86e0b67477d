from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.errors import ModelError, UnknownName, UsageError
from testbed.models import MODEL_KINDS, Model, Request, make_model
from testbed.models.scripted import Scripted, from_options


def request(turns: int = 0, **fields: Any) -> Request:
    messages: list[Any] = [{"role": "user", "content": "What is 2*3?"}]
    for turn in range(turns):
        messages += [{"role": "assistant", "content": f"said {turn}"}, {"role": "tool", "content": "result"}]
    return Request(messages, **fields)


async def text(model: Model, asked: Request) -> str:
    return (await model.generate(asked)).text


async def test_replies_go_by_turn_and_the_last_is_repeated() -> None:
    model = Scripted(["one", "two"])
    assert [await text(model, request(turns)) for turns in range(4)] == ["one", "two", "two", "two"]


async def test_a_policy_sees_the_request() -> None:
    model = Scripted(lambda asked: asked.messages[0]["content"].upper())
    assert await text(model, request()) == "WHAT IS 2*3?"


async def test_a_policys_numbers_depend_on_the_attempt_alone() -> None:
    def draw(asked: Request, rng: np.random.Generator) -> str:
        return repr(rng.random(5).tolist())

    model = Scripted(draw)
    mine = await text(model, request(stream=7))
    others = [await text(model, request(stream=stream)) for stream in range(7)]
    assert await text(model, request(stream=7)) == mine
    assert mine not in others


async def test_each_turn_of_an_attempt_has_numbers_of_its_own() -> None:
    model = Scripted(lambda asked, rng: repr(rng.random(100).tolist()))
    first = set(eval(await text(model, request(stream=7, position=0, max_tokens=10_000))))
    second = set(eval(await text(model, request(turns=1, stream=7, position=3, max_tokens=10_000))))
    assert not first & second


async def test_a_reply_is_cut_at_exactly_max_tokens() -> None:
    reply = await Scripted(["a" * 100]).generate(request(max_tokens=5))
    assert (reply.usage.generated_tokens, len(reply.text), reply.finish) == (5, 20, "length")


async def test_a_reply_of_exactly_max_tokens_is_whole() -> None:
    reply = await Scripted(["a" * 20]).generate(request(max_tokens=5))
    assert (reply.usage.generated_tokens, reply.finish) == (5, "stop")


async def test_a_call_takes_microseconds() -> None:
    model, asked = Scripted(["x", "y"]), request(2)
    best = min([await _seconds(model, asked) for _ in range(5)])
    assert best < 50e-6


async def _seconds(model: Model, asked: Request, calls: int = 500) -> float:
    begun = time.thread_time()
    for _ in range(calls):
        await model.generate(asked)
    return (time.thread_time() - begun) / calls


def test_another_policy_has_another_fingerprint() -> None:
    def one(asked: Request) -> str:
        return "1"

    def two(asked: Request) -> str:
        return "2"

    prints = [Scripted(policy).fingerprint() for policy in (one, two, ["1"], ["2"])]
    assert len({repr(p) for p in prints}) == 4
    assert Scripted(one).fingerprint() == Scripted(one).fingerprint()


async def test_a_policy_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def answer(request):\n    return 'from the file'\n")
    model = make_model("scripted", {"policy": f"{file}:answer"})
    assert await text(model, request()) == "from the file"


def test_an_unknown_function_gets_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def answer(request):\n    return 'x'\n")
    with pytest.raises(UnknownName, match="Did you mean 'answer'"):
        make_model("scripted", {"policy": f"{file}:anwser"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either replies"),
        ({"replies": ["x"], "policy": "a:b"}, "give either replies"),
        ({"replies": []}, "at least one text"),
        ({"replies": "abc"}, "list of at least one text"),
        ({"replies": [1]}, "list of at least one text"),
        ({"policy": "nowhere"}, "must be"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_model("scripted", options)


@pytest.mark.parametrize("policy", ["no_such_module:f", "no_such_file.py:f"])
def test_a_policy_that_is_nowhere_is_named(policy: str) -> None:
    with pytest.raises(ModelError, match=policy.partition(":")[0]):
        make_model("scripted", {"policy": policy})


def test_a_misspelt_policy_file_is_answered_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clerk.py").write_text("def clerk(request): ...\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no policy file 'clerc.py'; .* Did you mean 'clerk.py'\?"):
        make_model("scripted", {"policy": "clerc.py:clerk"})


def test_a_policy_file_that_fails_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1/0\n")
    with pytest.raises(ModelError, match=r"broken\.py.*ZeroDivisionError"):
        make_model("scripted", {"policy": f"{file}:answer"})


def test_an_unknown_kind_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'reference'"):
        make_model("refrence")


def test_an_unknown_option_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'accuracy'"):
        make_model("oracle", {"acuracy": 1.0})


@pytest.mark.parametrize("id", ["hf", "hf:", "chat", "oracle:x", "reference:x"])
def test_a_name_where_none_belongs_or_none_where_one_does_is_refused(id: str) -> None:
    with pytest.raises(UsageError, match="write it as"):
        make_model(id)


def test_every_kind_of_model_is_described() -> None:
    assert {form.partition(":")[0] for form in MODEL_KINDS} == {
        *("agent", "chat", "hf", "oracle", "reference", "scripted")
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return {}['x']", r"policy\.py:2: KeyError: 'x'$"),
        ("import json\n    return json.loads('{')", r"policy\.py:3: json\.decoder\.JSONDecodeError: Expecting"),
        ("request.messages", r"policy .*:answer must return text, not None: does it lack a return\?"),
    ],
)
async def test_a_policy_that_fails_is_told_by_its_line(tmp_path: Path, body: str, said: str) -> None:
    file = tmp_path / "policy.py"
    file.write_text(f"def answer(request, random):\n    {body}\n", encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        await from_options(policy=f"{file}:answer").generate(request())
