"""Chat models against `transformers serve` with the reference model, with faults in front of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.faulty_proxy import CUT, HANG, MALFORMED, WRONG_ARGUMENTS, Proxy, Refusal, Response
from helpers.served_model import LISTED, NAME, served_reference
from testbed import registry
from testbed.errors import FaultKind, ModelError, ModelUnavailable, TransportError
from testbed.experiment_file import parse_experiment
from testbed.models import Request, Sampling
from testbed.models.chat import Chat
from testbed.protocol import parse
from testbed.report.analyse import analyse_run
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import REDRAWN, RESENT, Message

PYTHON = {"type": "function", "function": {"name": "python", "description": "", "parameters": {"type": "object"}}}
QUESTION: Message = {"role": "user", "content": "What is 4821*9377?"}
GREEDY = Sampling(temperature=0.0, max_tokens=64)
PLUGIN = Path(__file__).parents[1] / "scripts" / "bench" / "episode.py"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_spec("accelerate") is None:
        pytest.skip("transformers serve needs accelerate: pip install 'transformers[serving]'")
    with served_reference(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
def say(nothing_registered: None) -> None:
    registry.load_plugin(PLUGIN)


@asynccontextmanager
async def served(server: str, *faults: Any, **options: Any) -> AsyncIterator[tuple[Chat, Proxy]]:
    async with Proxy(server, faults) as proxy:
        model = Chat(f"openai:{NAME}", base_url=proxy.url, system="", **options)
        try:
            yield model, proxy
        finally:
            await model.aclose()


def ask(*more: Message, **fields: Any) -> Request:
    return Request([QUESTION, *more], [PYTHON], **{"sampling": GREEDY, "max_tokens": 64, **fields})


async def test_the_model_calls_a_tool_natively_and_answers_with_what_it_said(server: str) -> None:
    async with served(server) as (model, _):
        first = await model.generate(ask())
        (call,) = parse(first.text).calls
        assert (call.name, call.fault, dict(call.arguments)) == ("python", None, {"code": "print(4821*9377)"})
        said: Message = {"role": "assistant", "content": first.text}
        second = await model.generate(ask(said, {"role": "tool", "name": "python", "content": "45206517\n"}))
    assert parse(second.text).answer == "45206517"
    assert 0 < first.usage.generated_tokens < second.usage.prompt_tokens
    assert not model.counts_are_approximate


async def test_a_refused_request_is_sent_again_as_it_was(server: str) -> None:
    async with served(server, Refusal(), Refusal(503), None) as (model, proxy):
        began = time.monotonic()
        reply = await model.generate(ask(stream=7))
    assert parse(reply.text).calls
    assert reply.usage.resent == model.refused == 2
    assert len(proxy.bodies) == 3
    assert proxy.bodies[0] == proxy.bodies[1] == proxy.bodies[2]
    assert time.monotonic() - began - reply.usage.seconds > 1.5  # half a second, then a whole one


@pytest.mark.parametrize("form", ["seconds", "date", "milliseconds"])
async def test_retry_after_is_waited_for_in_all_its_forms(server: str, form: str) -> None:
    when = datetime.now(UTC) + timedelta(seconds=2)
    said = {
        "seconds": ("retry-after", "1"),
        "date": ("retry-after", format_datetime(when, usegmt=True)),  # whole seconds: 1 to 2 from now
        "milliseconds": ("retry-after-ms", "1000"),
    }
    async with served(server, Refusal(headers=(said[form],))) as (model, proxy):
        began = time.monotonic()
        await model.generate(ask())
    assert time.monotonic() - began > 0.9
    assert len(proxy.bodies) == 2


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Refusal(500, message="crashed"), ModelUnavailable, "500.*crashed"),
        (HANG, TransportError, "did not answer within"),
        (CUT, TransportError, "connection failed"),
        (MALFORMED, TransportError, "cannot be read"),
        (Refusal(404, message="no such model"), ModelError, "404.*Check the model's name"),
    ],
)
async def test_what_may_have_been_answered_is_asked_once(server: str, fault: Any, error: Any, message: str) -> None:
    async with served(server, fault, timeout=1.0 if fault == HANG else 60.0) as (model, proxy):
        with pytest.raises(error, match=message):
            await model.generate(ask())
        assert len(proxy.bodies) == 1


async def test_a_spent_quota_is_told_at_once(server: str) -> None:
    spent = Refusal(429, message="You exceeded your current quota, please check your plan (insufficient_quota).")
    async with served(server, spent) as (model, proxy):
        with pytest.raises(ModelUnavailable, match="quota") as raised:
            await model.generate(ask())
    assert not raised.value.passing
    assert len(proxy.bodies) == 1


async def test_wrong_arguments_are_the_models_fault(server: str) -> None:
    async with served(server, WRONG_ARGUMENTS) as (model, _):
        reply = await model.generate(ask())
    assert [call.fault for call in parse(reply.text).calls] == [FaultKind.PARSE_ERROR]


async def test_a_server_without_log_probabilities_is_told_by_name(server: str) -> None:
    async with served(server) as (model, _):
        with pytest.raises(ModelError, match="does not tell the log-probability"):
            await model.generate(ask(logprobs=True, sampling=Sampling()))
        with pytest.raises(ModelError, match=f"chat:openai:{NAME}.*prompt_logprobs"):
            await model.score([QUESTION], [], [0])


def experiment(samples: int, tasks: int, max_tokens: int = 8, name: str = NAME) -> Any:
    return parse_experiment(
        {
            "name": "test",
            "samples": samples,
            "model": {"id": f"chat:openai:{name}", "max_tokens": max_tokens},
            "env": [{"id": "Say-v0", "tasks": tasks}],
            "arm": [{"name": "bare"}],
            "budget": {"turns": 1, "seconds": 60.0},
            "measure": {"elicitation": samples},
        }
    )


async def made(model: Chat, exp: Any, path: Path, **options: Any) -> list[Any]:
    with Store.open(path) as store:
        await Runner(exp, store, models={model.name: model}, back_off=0.05, **options).run()
        return list(store.attempts("test"))


async def run(model: Chat, exp: Any, path: Path, **options: Any) -> tuple[list[Any], Any]:
    attempts = await made(model, exp, path, **options)
    with Store.open(path) as store:
        return attempts, analyse_run(store, "test")


async def test_in_a_run_refusals_cost_nothing_and_lost_replies_are_redraws(
    say: None, server: str, tmp_path: Path
) -> None:
    faults = (Refusal(), None, Refusal(500), None, None, CUT, None, MALFORMED, Refusal(503))
    async with served(server, *faults) as (model, proxy):
        attempts, found = await run(model, experiment(4, 4), tmp_path / "s.sqlite", concurrency=4)
    assert len(attempts) == 16
    assert all(attempt.status == "complete" for attempt in attempts)
    assert sum(attempt.faults.get(RESENT, 0) for attempt in attempts) == model.refused == 2
    redrawn = [attempt.faults[REDRAWN] for attempt in attempts if REDRAWN in attempt.faults]
    assert sum(redrawn) == 3  # whose they are is chance: an attempt may lose its reply twice
    assert len(proxy.bodies) == 16 + 5
    warnings = " ".join(found.warnings)
    assert "Requests of bare 2 were refused" in warnings
    assert f"bare {len(redrawn)} were made in a further try" in warnings


@asynccontextmanager
async def called(name: str, server: str, **proxy: Any) -> AsyncIterator[tuple[Chat, Proxy]]:
    async with Proxy(server, **proxy) as there:
        model = Chat(f"openai:{name}", base_url=there.url, system="")
        try:
            yield model, there
        finally:
            await model.aclose()


WRONG = LISTED.replace("c", "ck")


async def test_a_wrong_name_is_told_with_the_nearest_in_the_servers_list_which_is_asked_for_once(
    say: None, server: str, tmp_path: Path
) -> None:
    async with called(WRONG, server) as (model, proxy):
        exp = experiment(2, 2, name=WRONG)
        attempts = await made(model, exp, tmp_path / "s.sqlite", concurrency=4, retries=1)
    assert [attempt.ended for attempt in attempts] == ["missing:model_unavailable"] * 4
    told = f"Its list of models has no '{WRONG}'. Did you mean '{LISTED}'?"
    assert all(
        str(attempt.transcript[-1]["content"]).endswith(f"Internal Server Error. {told}") for attempt in attempts
    )
    assert (len(proxy.bodies), proxy.asked) == (8, 1)


@pytest.mark.parametrize("unlisted", [Refusal(404), Refusal(200, message="no list")], ids=["none", "unreadable"])
async def test_a_server_without_a_list_of_models_is_told_as_it_answers(
    say: None, server: str, tmp_path: Path, unlisted: Refusal
) -> None:
    async with called(WRONG, server, unlisted=unlisted) as (model, proxy):
        exp = experiment(1, 2, name=WRONG)
        attempts = await made(model, exp, tmp_path / "s.sqlite", concurrency=2, retries=0)
    assert all(str(attempt.transcript[-1]["content"]).endswith("Internal Server Error") for attempt in attempts)
    assert proxy.asked == 1


async def test_a_refused_name_is_told_with_the_nearest_too(say: None, server: str, tmp_path: Path) -> None:
    async with called(WRONG, server, faults=[Refusal(404, message="no such model")]) as (model, _):
        with pytest.raises(ModelError, match=f"Check the model's name and the base_url. Its list.*'{LISTED}'"):
            await made(model, experiment(1, 1, name=WRONG), tmp_path / "s.sqlite")


async def test_of_a_name_that_the_server_has_or_has_answered_to_its_list_says_nothing(
    say: None, server: str, tmp_path: Path
) -> None:
    for name, faults, asked in ((LISTED, [Refusal(500)], 1), (NAME, [None, Refusal(500)], 0)):
        async with called(name, server, faults=faults) as (model, proxy):
            exp = experiment(1, 2, name=name)
            path = tmp_path / f"{asked}.sqlite"
            attempts = await made(model, exp, path, concurrency=1, retries=0)
        lost = [attempt for attempt in attempts if attempt.status == "missing"]
        assert [str(attempt.transcript[-1]["content"])[-9:] for attempt in lost] == ["slow down"]
        assert proxy.asked == asked


class Tagging(Proxy):
    """Lists its models as Ollama does, which takes their names without the tag, too."""

    async def _list(self, path: str) -> Response:
        status, headers, content = await super()._list(path)
        return status, headers, content.replace(LISTED.encode(), f"{LISTED}:latest".encode())


async def test_a_name_without_its_tag_is_not_told_as_wrong(say: None, server: str, tmp_path: Path) -> None:
    async with Tagging(server, faults=[Refusal(500)]) as proxy:
        model = Chat(f"openai:{LISTED}", base_url=proxy.url, system="")
        (attempt,) = await made(model, experiment(1, 1, name=LISTED), tmp_path / "s.sqlite", retries=0)
        await model.aclose()
    assert str(attempt.transcript[-1]["content"]).endswith("slow down")
    assert proxy.asked == 1


@pytest.mark.slow
async def test_two_hundred_attempts_all_pass_a_server_that_takes_four_at_a_time(
    say: None, server: str, tmp_path: Path
) -> None:
    async with Proxy(server, places=4, refusal=Refusal(headers=(("retry-after-ms", "200"),))) as proxy:
        model = Chat(f"openai:{NAME}", base_url=proxy.url, system="")
        attempts, _ = await run(model, experiment(20, 10, max_tokens=4), tmp_path / "s.sqlite", concurrency=200)
        await model.aclose()
    assert len(attempts) == 200
    assert all(attempt.first_draw is not None for attempt in attempts)
    assert proxy.refused == model.refused == sum(attempt.faults.get(RESENT, 0) for attempt in attempts) <= 20
    assert np.mean([attempt.cost.seconds for attempt in attempts]) < 5
