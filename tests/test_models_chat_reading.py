"""Log-probabilities from servers, beside those of the same model in this process."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.openai_process import Server, openai_server
from helpers.served_model import SAID, SAID_OR_CALLED
from testbed.errors import ModelError, ModelNotAsked, TransportError, UsageError
from testbed.experiment_file import parse_experiment
from testbed.models import Request, Sampling, chat_stated, make_model
from testbed.models.base import Score, Scorer
from testbed.models.chat import Chat
from testbed.models.reference_model import reference_path
from testbed.runner import Runner
from testbed.scoring import Scoring
from testbed.store import Store
from testbed.types import Message

PYTHON = {"type": "function", "function": {"name": "python", "description": "", "parameters": {"type": "object"}}}
SUM: list[Message] = [
    {"role": "user", "content": "What is 4821*9377?"},
    {"role": "assistant", "content": "I compute it."},
    {"role": "user", "content": "Go on, and mind that 4821 is no 4812."},
    {"role": "assistant", "content": "<answer>45206517</answer>"},
]
CALLED: list[Message] = [
    SUM[0],
    {
        "role": "assistant",
        "content": '<tool_call>{"name": "python", "arguments": {"code": "print(4821*9377)"}}</tool_call>',
    },
    {"role": "tool", "name": "python", "content": "45206517"},
    {"role": "assistant", "content": "<answer>45206517</answer>"},
]


ACCENTS: list[Message] = [
    {"role": "user", "content": "é🙂 and what is 7*9🙂"},
    {"role": "assistant", "content": "🙂<answer>63</answer>"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server() as server:
        yield server


@asynccontextmanager
async def chat(server: Server, name: str, **options: Any) -> AsyncIterator[Chat]:
    model = Chat(f"openai:{name}", base_url=server.url, **options)
    try:
        yield model
    finally:
        await model.aclose()


def text_chat(server: Server, name: str, **options: Any) -> Any:
    """Without native calls and a system text."""
    return chat(server, name, **{"system": "", "native": False, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model's tokenizer as its server has it."""
    return tokenizer(tmp_path_factory.mktemp("tokenizer") / "reference")


@pytest.fixture
async def here() -> AsyncIterator[Any]:
    model = make_model("reference")
    yield model
    await model.aclose()


def tokenizer(path: Path, *, said: str = SAID_OR_CALLED, **config: str) -> Path:
    shutil.copytree(reference_path(), path, ignore=shutil.ignore_patterns("*.safetensors"))
    template, settings = path / "chat_template.jinja", path / "tokenizer_config.json"
    template.write_text(template.read_text().replace(SAID, said))
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **config}))
    return path


def figures(scores: list[Score]) -> list[tuple[int, list[float]]]:
    return [(score.message, list(score.logprobs)) for score in scores]


def assert_alike(found: list[Score], expected: list[Score]) -> None:
    for theirs, ours in zip(figures(found), figures(expected), strict=True):
        assert theirs[0] == ours[0]
        assert theirs[1] == pytest.approx(ours[1], abs=1e-4)


@pytest.mark.parametrize(
    ("messages", "which", "tools", "native"),
    [
        (SUM, [3, 1, 2], [], False),
        (CALLED, [2, 3], [PYTHON], True),
        (SUM, [0], [PYTHON], True),
        (ACCENTS, [1, 0], [], False),
    ],
)
async def test_a_server_gives_the_figures_of_teacher_forcing(
    server: Server, messages: list[Message], which: list[int], tools: list[object], native: bool
) -> None:
    here = make_model("reference")
    assert isinstance(here, Scorer)
    expected = await here.score(messages, tools, which)  # type: ignore[arg-type]
    async with chat(server, "reader", system="", native=native) as there:
        found = await there.score(messages, tools, which)  # type: ignore[arg-type]
    await here.aclose()
    assert [score.message for score in found] == which
    for ours, theirs in zip(expected, found, strict=True):
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4)


async def test_native_calls_are_not_scored(server: Server) -> None:
    async with chat(server, "reader") as model:
        with pytest.raises(ModelError, match="set native = false"):
            await model.score(CALLED, [PYTHON], [1, 2])


@pytest.mark.parametrize(("name", "stated"), [("echo-tokens", False), ("echo-text", False), ("echo", True)])
async def test_echo_gives_the_figures_of_teacher_forcing(
    server: Server, folder: Path, here: Any, name: str, stated: bool
) -> None:
    options = {"tokenizer": str(folder)} if stated else {}
    for native, tools, which in ((False, [], [3, 0, 2]), (True, [PYTHON], [1])):
        async with text_chat(server, name, native=native, **options) as there:
            assert_alike(await there.score(SUM, tools, which), await here.score(SUM, tools, which))


async def test_split_characters_and_tokens_that_the_server_hides_are_found_by_the_stated_tokenizer(
    server: Server, tmp_path: Path, here: Any
) -> None:
    begins = tokenizer(tmp_path / "begins", bos_token="<|system|>")
    for messages in (SUM, ACCENTS):
        async with text_chat(server, "begins", tokenizer=str(begins)) as there:
            assert_alike(await there.score(messages, [], [0, 1]), await here.score(messages, [], [0, 1]))


async def test_a_way_is_tried_once(server: Server) -> None:
    async with text_chat(server, "echo-text") as model:
        await model.score(SUM, [], [0])
        tried = len(server.requests("echo-text"))
        await model.score(SUM, [], [0])
        assert len(server.requests("echo-text")) == tried  # of chat completions
    async with text_chat(server, "caller") as model:
        for _ in range(2):
            with pytest.raises(ModelError, match="cannot score"):
                await model.score(SUM, [], [0])
        assert len(server.requests("caller")) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("caller", {}, r"prompt_logprobs .*: the answer has none; .*/tokenize .* 404.*/apply-template .* 404"),
        ("echo", {}, r"/tokenize .* 404.*/apply-template .* 404.* tokenizer = NAME_OR_PATH"),
        ("ignored", {}, r"/apply-template returns: echo brings no log-probabilities"),
        ("afterwards", {"tokenizer": ""}, r"after it was read, not before \(llama-cpp-python"),
        ("ignored", {"tokenizer": ""}, r"tokenizer stated: .*echo brings no log-probabilities"),
    ],
)
async def test_a_server_that_cannot_is_told_by_what_was_tried(
    server: Server, folder: Path, name: str, options: dict[str, str], message: str
) -> None:
    stated = {key: str(folder) for key in options}
    async with text_chat(server, name, **stated) as model:
        with pytest.raises(ModelError, match=rf"chat:openai:{name} cannot score texts. Tried .*{message}"):
            await model.score(SUM, [], [0])


async def test_a_server_that_is_not_there_is_no_server_that_cannot(tmp_path: Path, server: Server) -> None:
    model = Chat("openai:echo", base_url="http://127.0.0.1:9/v1", patience=0.1)
    with pytest.raises(ModelNotAsked):
        await model.score(SUM, [], [0])
    await model.aclose()


async def test_those_who_wait_while_a_server_is_tried_that_says_nothing_do_not_ask_it_one_after_another() -> None:
    """Of one that lets everybody wait for its `timeout`, a hundred would wait for hours."""
    asked: list[bytes] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as there:
        address, port = there.sockets[0].getsockname()
        model = Chat("openai:echo", base_url=f"http://{address}:{port}/v1")
        told = await asyncio.gather(*(model.score(SUM, [], [0]) for _ in range(8)), return_exceptions=True)
        assert [type(error) for error in told] == [TransportError] * 8
        assert len(asked) == 1
        with pytest.raises(TransportError):  # who comes later asks again
            await model.score(SUM, [], [0])
        assert len(asked) == 2
        await model.aclose()


async def test_another_tokenizer_than_the_servers_is_refused(server: Server, tmp_path: Path) -> None:
    other = tokenizer(tmp_path / "other")
    made = json.loads((other / "tokenizer.json").read_text())
    made["model"]["merges"] = made["model"]["merges"][:100]
    (other / "tokenizer.json").write_text(json.dumps(made))
    async with text_chat(server, "echo-text", tokenizer=str(other)) as model:
        with pytest.raises(ModelError, match=r"the server read \d+ tokens, where the tokenizer .* has \d+"):
            await model.score(SUM, [], [0])


@pytest.mark.parametrize(
    ("name", "theirs", "ours", "message"),
    [
        ("echo", "<|assistant|>{% endif", "<|user|>{% endif", "is not the server's: after the same conversation"),
        ("echo-text", "<|assistant|>{{", "<|user|>{{", "is not the server's: the server writes <|system|>tools"),
        (
            "reader",
            "<|assistant|>{{",
            "<|user|>{{",
            r"read other tokens .*: '<\|assistant\|>' in place of '<\|user\|>'",
        ),
    ],
)
async def test_another_chat_template_than_the_servers_is_refused_though_it_comes_to_as_many_tokens(
    server: Server, tmp_path: Path, name: str, theirs: str, ours: str, message: str
) -> None:
    template = tokenizer(tmp_path / "other") / "chat_template.jinja"
    assert theirs in template.read_text()
    template.write_text(template.read_text().replace(theirs, ours))
    async with text_chat(server, name, tokenizer=str(template.parent)) as model:
        with pytest.raises(ModelError, match=message):
            await model.score(SUM, [], [0])


@pytest.mark.parametrize("counts", [True, False])
async def test_a_server_that_shows_nothing_of_its_template_is_held_to_the_number_of_tokens(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, counts: bool
) -> None:
    tell = chat_stated.next_token

    async def mute(*asked: Any) -> tuple[dict[str, float], int | None]:
        return {}, (await tell(*asked))[1] if counts else None

    monkeypatch.setattr(chat_stated, "next_token", mute)
    async with text_chat(server, "echo", tokenizer=str(folder)) as model:
        if counts:
            assert await model.score(SUM, [], [0])
        else:
            with pytest.raises(ModelError, match="tell neither the most likely tokens nor how many a prompt has"):
                await model.score(SUM, [], [0])


async def test_a_token_that_holds_the_end_of_a_message_is_refused(server: Server, tmp_path: Path) -> None:
    said = "{% if 'the sum' in message.content %}What is{% endif %}{{ message.content }}{% if not (message.content"
    joined = tokenizer(tmp_path / "joined", said=said)
    messages: list[Message] = [SUM[0], {"role": "assistant", "content": " the sum"}]
    async with text_chat(server, "echo", tokenizer=str(joined)) as model:
        with pytest.raises(ModelError, match="a token holds the end of a message"):
            await model.score(messages, [], [1])


@pytest.mark.parametrize("name", ["reader", "echo", "begins"])
async def test_how_likely_ends_are_is_told_where_the_tokenizer_is_stated(
    server: Server, tmp_path: Path, here: Any, name: str
) -> None:
    stated = tokenizer(tmp_path / "stated", **({"bos_token": "<|system|>"} if name == "begins" else {}))
    empty: list[Message] = [*SUM[:1], {"role": "assistant", "content": ""}, SUM[2]]
    async with text_chat(server, name, tokenizer=str(stated)) as there:
        for messages in (SUM, empty):
            (found,), (expected,) = [await model.score(messages, [], [1]) for model in (there, here)]
            assert found.end == pytest.approx(expected.end, abs=1e-4)
        answered, asked = await there.score(SUM, [], [3, 0])
    assert (answered.end, asked.end) == (None, None)  # the template writes no token that ends these


@pytest.mark.parametrize("name", ["reader", "echo"])
async def test_ends_of_a_message_are_summed_as_far_as_they_are_told(server: Server, tmp_path: Path, name: str) -> None:
    both = tokenizer(tmp_path / "both", eos_token="ke")  # beside the template's own
    shutil.copy(reference_path() / "model.safetensors", both)
    messages: list[Message] = [SUM[0], {"role": "assistant", "content": " "}, SUM[2]]
    here: Any = make_model(f"hf:{both}", {"system": "", "device": "cpu"})
    async with text_chat(server, name, tokenizer=str(both)) as there:
        (found,), (expected,) = [await model.score(messages, [], [1]) for model in (there, here)]
    await here.aclose()
    assert found.end == pytest.approx(expected.end, abs=1e-4)
    assert found.end == pytest.approx(-1.2, abs=0.05)  # of the template's end alone, -12.4


async def test_a_result_counts_what_closes_it(server: Server, here: Any) -> None:
    async with text_chat(server, "reader", native=True) as there:
        (found,), (expected,) = [await model.score(CALLED, [PYTHON], [2]) for model in (there, here)]
    assert found.end == pytest.approx(expected.end, abs=1e-4)


@pytest.mark.parametrize(("change", "message"), [("missing", "cannot be loaded"), ("untold", "has no chat template")])
async def test_a_tokenizer_that_cannot_be_used_is_told_before_the_run(
    tmp_path: Path, change: str, message: str
) -> None:
    path = tmp_path / "missing"
    if change == "untold":
        (tokenizer(path) / "chat_template.jinja").unlink()
    model = Chat("openai:echo", base_url="http://127.0.0.1:9/v1", tokenizer=str(path))
    with pytest.raises(ModelError, match=message):
        await model.start()


async def test_a_run_is_scored_only_where_its_prompts_come_to_the_recorded_tokens(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    experiment = parse_experiment(
        {
            "name": "sums",
            "samples": 2,
            "model": {"id": "chat:openai:echo", "base_url": server.url, "native": False, "max_tokens": 32},
            "env": [{"id": "Multiplication-v0", "tasks": 2}],
            "arm": [{"name": "bare"}],
        }
    )
    wordy = tokenizer(tmp_path / "wordy", said="Well: {{ message.content }}{% if not (message.content")
    (wordy / "chat_template.jinja").write_text("<|user|>" + (wordy / "chat_template.jinja").read_text())
    name = "chat:openai:echo"
    with Store.open(tmp_path / "s.sqlite") as store:
        async with text_chat(server, "echo", system=None) as model:
            await Runner(experiment, store, models={name: model}).run()
        async with text_chat(server, "echo", system=None, tokenizer=str(wordy)) as model:
            await model.start()
            with pytest.raises(UsageError, match=r"cannot be shown as its model read it: its prompts come to"):
                await Scoring(store, "sums", models={name: model}).run()
        async with text_chat(server, "echo", system=None, tokenizer=str(folder)) as model:
            await model.start()
            (scored,) = await Scoring(store, "sums", models={name: model}).run()
    assert (scored.done, scored.total, dict(scored.left_out)) == (4, 4, {})


async def test_logprobs_of_what_was_written_are_the_models(server: Server) -> None:
    async with chat(server, "reference", system="") as model:
        reply = await model.generate(Request(SUM[:1], max_tokens=80, stream=3, logprobs=True))
    assert reply.logprobs is not None
    assert len(reply.logprobs) == reply.usage.generated_tokens
    assert all(logprob <= 0 for logprob in reply.logprobs)


@pytest.mark.parametrize(
    ("name", "sampling", "message"),
    [
        ("without-end-logprob", Sampling(), "chat:openai:without-end-logprob: .* of every token that it bills"),
        ("caller", Sampling(), "chat:openai:caller: .* leave logprobs out"),
        ("reference", Sampling(temperature=0.5), "only at temperature = 1"),
        ("reference", Sampling(top_p=0.9), "top_p = 1"),
    ],
)
async def test_logprobs_that_are_not_told_or_mean_something_else_are_refused(
    server: Server, name: str, sampling: Sampling, message: str
) -> None:
    async with chat(server, name, system="") as model:
        with pytest.raises(ModelError, match=message):
            await model.generate(Request(SUM[:1], sampling=sampling, max_tokens=80, logprobs=True))
