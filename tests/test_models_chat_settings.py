"""What chat models are asked for, and what becomes of a request that is refused for what it says."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.answering import answer, called, served
from testbed import registry
from testbed.errors import ContextFull, ModelError, ModelNotAsked, UsageError
from testbed.experiment_file import parse_experiment
from testbed.models import Request, Sampling, make_model
from testbed.models.chat import Chat
from testbed.models.chat_clients import without_key
from testbed.models.chat_settings import kind_of
from testbed.protocol import parse, write_call
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import Message

PLUGIN = Path(__file__).parents[1] / "scripts" / "bench" / "episode.py"
ASKED: list[Message] = [{"role": "user", "content": "Who?"}]


def lookup(name: str = "lookup") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def after(name: str) -> Request:
    """A request after a tool of this name was called and has answered; "lookup" is offered."""
    call: Message = {"role": "assistant", "content": write_call(name, {})}
    return Request([*ASKED, call, {"role": "tool", "name": name, "content": "x"}], [lookup()], max_tokens=64)


class Strict:
    """A provider that takes only some contents and names; keeps what it was asked."""

    def __init__(self, status: int = 400) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._status = status

    def __call__(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        self.asked.append(body)
        said = " ".join(str(message["content"]) for message in body["messages"])
        if "<script>" in said or body.get("temperature") == 5:
            return self._status, {"error": {"message": "Invalid request."}}
        return 200, answer()

    @property
    def names(self) -> list[str]:
        return [c["function"]["name"] for m in self.asked[-1]["messages"] for c in m.get("tool_calls") or ()]


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_a_conversation_that_alone_is_refused_is_missing_and_ends_no_run(status: int) -> None:
    async with served(Strict(status)) as model:
        hostile = Request([{"role": "user", "content": "<script>"}], max_tokens=64)
        with pytest.raises(ModelError, match=f"{status}.*Invalid request"):
            await model.generate(hostile)  # nothing of its kind was taken yet: it may be how the model is asked
        await model.generate(Request(ASKED, max_tokens=64))
        with pytest.raises(ModelNotAsked, match=f"{status}.*Invalid request.*about this conversation") as raised:
            await model.generate(hostile)
        assert not raised.value.passing
        for other in (
            Request(ASKED, max_tokens=64, sampling=Sampling(temperature=5)),
            Request([*ASKED, {"role": "user", "content": "<script>"}], max_tokens=64),
            Request(hostile.messages, [lookup()], max_tokens=64),
        ):
            with pytest.raises(ModelError, match="Invalid request"):
                await model.generate(other)


SGLANG = "max_completion_tokens is too large: {}.This model supports at most 1024 completion tokens"
VLLM = "'max_tokens' is too large: {}. This model's maximum context length is 1024 tokens and your request has 16."


@pytest.mark.parametrize(("said", "fits"), [(SGLANG, 1024), (VLLM, 1023)])
async def test_a_limit_that_no_conversation_leaves_room_for_is_told_as_such(said: str, fits: int) -> None:
    def strict(body: Mapping[str, Any]) -> tuple[int, Any]:
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        return (400, {"error": {"message": said.format(limit)}}) if limit > 64 else (200, answer())

    async with served(strict) as model:
        await model.generate(Request(ASKED, max_tokens=64))  # others of its kind are taken, as those of another arm
        with pytest.raises(ModelError, match=rf"max_tokens = {fits + 1} is more than .*1024 tokens.* lower max_tokens"):
            await model.generate(Request(ASKED, max_tokens=fits + 1))
        with pytest.raises((ModelNotAsked, ContextFull)):  # here the prompt decides
            await model.generate(Request(ASKED, max_tokens=fits))


@pytest.mark.parametrize("status", [401, 404])
async def test_a_key_that_is_withdrawn_and_a_model_that_is_gone_end_the_run(status: int) -> None:
    async with served(Strict(status)) as model:
        await model.generate(Request(ASKED, max_tokens=64))
        with pytest.raises(ModelError, match=str(status)):
            await model.generate(Request([{"role": "user", "content": "<script>"}], max_tokens=64))


async def test_a_run_goes_on_behind_a_conversation_that_is_refused(nothing_registered: None, tmp_path: Path) -> None:
    registry.load_plugin(PLUGIN)
    told: list[Any] = [answer(), lambda body: (400, {"error": {"message": "Invalid."}}), answer()]
    experiment = parse_experiment(
        {
            "name": "test",
            "samples": 4,
            "model": {"id": "scripted", "replies": ["unused"]},
            "env": [{"id": "Say-v0", "tasks": 1}],
            "arm": [{"name": "bare"}],
            "budget": {"turns": 1},
        }
    )
    async with served(*told) as model:
        with Store.open(tmp_path / "s.sqlite") as store:
            await Runner(experiment, store, models={"scripted": model}, concurrency=1).run()
            ended = sorted(attempt.ended for attempt in store.attempts("test"))
    assert ended == ["answered", "answered", "answered", "missing:model_not_asked"]


def test_requests_are_of_one_kind_whatever_is_said_in_them() -> None:
    longer: list[Message] = [
        *ASKED,
        {"role": "assistant", "content": "b"},
        *ASKED,
        {"role": "assistant", "content": ""},
    ]
    assert kind_of(Request(ASKED, stream=1, max_tokens=3)) == kind_of(Request([{"role": "user", "content": "x"}]))
    assert kind_of(Request([*longer, *ASKED])) == kind_of(Request([*ASKED, longer[1], *ASKED]))
    kinds = [
        Request(ASKED),
        Request(ASKED, [lookup()]),
        Request(ASKED, logprobs=True),
        Request(longer),
        Request(ASKED * 2),
    ]
    assert len(set(map(kind_of, kinds))) == len(kinds)


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("functions.lookup:0", "functions_lookup_0"),
        ("é" * 80, "_" * 64),
        ("look up", "look_up"),
        ("", "unreadable_call"),
        ("lookup", "lookup"),
    ],
)
async def test_a_name_that_is_none_of_a_tools_is_sent_back_as_strict_providers_take_it(said: str, sent: str) -> None:
    provider = Strict()
    async with served(provider) as model:
        await model.generate(after(said))
    assert provider.names == [sent]


async def test_the_name_of_an_offered_tool_is_sent_back_as_it_is() -> None:
    provider = Strict()
    async with served(provider) as model:
        request = after("maps.look up")
        await model.generate(Request(request.messages, [lookup("maps.look up")], max_tokens=64))
    assert provider.names == ["maps.look up"]


async def test_a_call_by_another_name_is_the_models_and_can_be_answered() -> None:
    provider = Strict()
    async with served(answer(called("{}", name="functions.lookup")), provider) as model:
        first = await model.generate(Request(ASKED, [lookup()], max_tokens=64))
        assert parse(first.text).calls[0].name == "functions.lookup"
        await model.generate(after("functions.lookup"))
    assert provider.names == ["functions_lookup"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 0.5),
        ("repetition_penalty", 1.1),
        ("repeat_penalty", 1.1),
        ("presence_penalty", -1),
        ("logit_bias", {"5": -100}),
        ("top_k", 40),
        ("min_p", 0.05),
    ],
)
async def test_logprobs_behind_a_stated_penalty_are_refused_before_anything_is_asked(field: str, value: Any) -> None:
    provider = Strict()
    async with served(provider, extra_body={field: value}) as model:
        with pytest.raises(ModelError, match=f"extra_body sets {field} = .*not the model's own"):
            await model.generate(Request(ASKED, max_tokens=64, logprobs=True))
        assert provider.asked == []
        await model.generate(Request(ASKED, max_tokens=64))
    assert provider.asked[0][field] == value


async def test_neutral_settings_leave_logprobs_as_they_are() -> None:
    neutral = {"frequency_penalty": 0.0, "repetition_penalty": 1.0, "top_k": -1, "min_p": 0, "logit_bias": {}}
    told = [{"token": "x", "logprob": -1.0}] * 7
    async with served(answer(logprobs={"content": told}), extra_body={**neutral, "other": 3}) as model:
        reply = await model.generate(Request(ASKED, max_tokens=64, logprobs=True))
    assert reply.logprobs == (-1.0,) * 7


async def test_texts_are_read_without_the_penalties_that_replies_are_drawn_by() -> None:
    provider = Strict()
    stated = {"repetition_penalty": 1.1, "top_k": 40, "min_p": 0.0, "logit_bias": {"5": 1}, "other": 3}
    async with served(provider, extra_body=stated) as model:
        with pytest.raises(ModelError, match="cannot score"):
            await model.score(ASKED, [], [0])
    assert provider.asked
    for body in provider.asked:
        kept = {field: body[field] for field in stated}
        assert kept == {"repetition_penalty": 1, "top_k": 0, "min_p": 0.0, "logit_bias": {}, "other": 3}


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "localhost/v1", "ftp://server/v1", "http://", "http:///v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="base_url must be an address such as"):
        make_model("chat:openai:x", {"base_url": url})


@pytest.mark.parametrize("key", ["sk-secret\n", " sk-secret", "sk-sécret", "sk-\tsecret"])
async def test_a_key_that_no_request_can_hold_is_told_without_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    for variable, options in (("MY_KEY", {"api_key_env": "MY_KEY"}), ("OPENAI_API_KEY", {})):
        monkeypatch.setenv(variable, key)
        with pytest.raises(ModelError, match=f"the key in {variable} cannot be sent") as raised:
            await Chat("openai:x", base_url="http://127.0.0.1:9/v1", **options).start()
        assert "cret" not in str(raised.value)


async def test_what_a_connection_failed_of_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and not listening
        url = f"127.0.0.1:{unused.getsockname()[1]}/v1"
        model = Chat("openai:x", base_url=f"http://me:hidden@{url}", timeout=30)
        with pytest.raises(ModelNotAsked, match=rf"no connection: Connection error: .*\w.*{url}.*base_url") as raised:
            await model.generate(Request(ASKED))
        assert "hidden" not in str(raised.value)
        await model.aclose()


@pytest.mark.parametrize("key", ["sk-SECRET", "sk-proj-aSECRET*****", "plainSECRET", "gsk_abSECRETSECRET"])
async def test_what_looks_like_a_key_in_a_servers_words_is_hidden_and_they_end_in_a_stop(key: str) -> None:
    refused: Any = lambda body: (401, {"error": {"message": f"Incorrect API key provided: {key}"}})  # noqa: E731
    async with served(refused) as model:
        with pytest.raises(ModelError, match=r"provided: …\S*\. Check the API key") as raised:
            await model.generate(Request(ASKED))
    assert "SECRET" not in str(raised.value)


def test_names_that_begin_like_keys_are_shown() -> None:
    said = "Bearer authentication required: the model xai-org/grok needs task-sk and hf_transfer; see https://x.ai/sk"
    assert without_key(said, "openai:x", None) == said


async def test_a_server_that_takes_no_connection_was_not_asked() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:  # in the queue, which nobody empties: the system drops whoever comes next
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        model = Chat("openai:x", base_url=f"http://127.0.0.1:{full.getsockname()[1]}/v1", timeout=1.0)
        with pytest.raises(ModelNotAsked, match="no connection"):
            await model.generate(Request(ASKED))
        await model.aclose()
        for one in waiting:
            one.close()


async def test_a_redirected_request_that_became_another_says_where_to_look() -> None:
    moved: Any = lambda body: (405, {"detail": "Method Not Allowed"})  # noqa: E731
    async with served(moved) as model:
        with pytest.raises(ModelError, match=r"405.*Check the model's name and the base_url"):
            await model.generate(Request(ASKED))
