"""What exceptions of other providers' clients mean, as a langchain model raises them."""

from __future__ import annotations

import asyncio
from enum import Enum
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core import exceptions
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from testbed import registry
from testbed.errors import ContextFull, ModelBusy, ModelError, ModelNotAsked, ModelUnavailable, TransportError
from testbed.experiment_file import parse_experiment
from testbed.models import Request
from testbed.models.chat import Chat
from testbed.models.chat_errors import translated
from testbed.runner import Runner
from testbed.store import Store
from testbed.types import REDRAWN, RESENT

PLUGIN = Path(__file__).parents[1] / "scripts" / "bench" / "episode.py"
POST = httpx.Request("POST", "http://server")


class Hosted(BaseChatModel):
    """A langchain model of another provider, whose client raises some errors before it answers."""

    raises: list[Any]

    @property
    def _llm_type(self) -> str:
        return "hosted"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        await asyncio.sleep(0)
        if self.raises and (error := self.raises.pop(0)):
            raise error
        return ChatResult(generations=[ChatGeneration(message=AIMessage("<answer>0</answer>"))])


class APIStatusError(Exception):
    """As Anthropic's client has it, and those made from the same description."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        self.status_code, self.response = status, httpx.Response(status, headers=headers, request=POST)
        super().__init__(message)


class GoogleError(Exception):
    def __init__(self, code: int, status: str, details: str = "") -> None:
        self.code, self.status, self.response = code, status, None
        super().__init__(f"{code} {status}. {details}")


class ChatGoogleError(Exception):
    """langchain's, around the client's."""


class ClientError(Exception):
    """As botocore has it."""

    def __init__(self, code: str, status: int, **headers: str) -> None:
        self.response = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
        }
        super().__init__(f"An error occurred ({code}) when calling the Converse operation")


class RpcError(Exception):
    """As grpc has it."""

    def __init__(self, name: str) -> None:
        self._code = Enum("StatusCode", [name])[name]  # type: ignore[misc]
        super().__init__(name)

    def code(self) -> Enum:
        return self._code


class ClientResponseError(Exception):
    """As aiohttp has it."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers
        super().__init__("refused")


class ResponseError(Exception):
    """As Ollama's client has it: what breaks off a stream has no status."""

    status_code = -1


class EndpointConnectionError(Exception): ...


class ReadTimeoutError(Exception): ...


class ThrottlingException(Exception): ...


class ServiceUnavailable(Exception): ...


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def http(status: int, text: str = "", **headers: str) -> httpx.HTTPStatusError:
    response = httpx.Response(status, text=text, headers=headers, request=POST)
    return httpx.HTTPStatusError(f"Error response {status} {text}", request=POST, response=response)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (APIStatusError(529, "Overloaded"), ModelBusy, "529.*Overloaded"),
        (APIStatusError(400, "prompt is too long: 208310 tokens > 200000 maximum"), ContextFull, "too long"),
        (APIStatusError(400, "input length and `max_tokens` exceed context limit: 9 + 2 > 10"), ContextFull, "limit"),
        (APIStatusError(401, "invalid x-api-key"), ModelError, "401.*Check the API key"),
        (APIStatusError(499, "The operation was cancelled"), ModelUnavailable, "499"),
        (APIStatusError(424, "dependency"), ModelUnavailable, "424"),
        (APIStatusError(422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000"), ContextFull, "4096"),
        (APIStatusError(405, "Method Not Allowed"), ModelError, "405.*base_url"),
        (http(429, "slow"), ModelBusy, "429"),
        (http(500, "x"), ModelUnavailable, "500"),
        (caused(ChatGoogleError("no"), GoogleError(429, "RESOURCE_EXHAUSTED")), ModelBusy, "429"),
        (caused(ChatGoogleError("no"), GoogleError(403, "PERMISSION_DENIED")), ModelError, "403"),
        (GoogleError(503, "UNAVAILABLE"), ModelBusy, "503"),
        (ClientError("ThrottlingException", 400), ModelBusy, "Throttling"),
        (ClientError("AccessDeniedException", 403), ModelError, "AccessDenied"),
        (ClientError("ModelTimeoutException", 408), ModelUnavailable, "ModelTimeout"),
        (ClientError("ModelErrorException", 424), ModelUnavailable, "ModelError"),
        (RpcError("RESOURCE_EXHAUSTED"), ModelBusy, "RESOURCE"),
        (RpcError("INTERNAL"), ModelUnavailable, "INTERNAL"),
        (RpcError("UNAUTHENTICATED"), ModelError, "UNAUTH"),
        (ClientResponseError(429, {}), ModelBusy, "429"),
        (ResponseError("stream broke off"), ModelUnavailable, "ResponseError: stream"),
        (EndpointConnectionError("no such host"), ModelNotAsked, "no connection.*no such host"),
        (httpx.ConnectTimeout("x"), ModelNotAsked, "no connection"),
        (httpx.PoolTimeout("x"), ModelNotAsked, "no connection"),
        (httpx.ReadTimeout("x"), TransportError, "did not answer within 7 s"),
        (ReadTimeoutError("x"), TransportError, "did not answer"),
        (httpx.RemoteProtocolError("peer closed"), TransportError, "connection failed: peer closed"),
        (httpx.DecodingError("gzip"), TransportError, "cannot be read: gzip"),
        (httpx.UnsupportedProtocol("no http://"), ModelError, "cannot be asked: no http://.*base_url"),
        (ThrottlingException("x"), ModelBusy, "ThrottlingException"),
        (ServiceUnavailable("x"), ModelBusy, "ServiceUnavailable"),
        (exceptions.ModelRateLimitError("x"), ModelBusy, "ModelRateLimitError"),
        (exceptions.ModelAPIError("x"), ModelUnavailable, "ModelAPIError"),
        (exceptions.ModelTimeoutError("x"), TransportError, "did not answer"),
        (exceptions.ModelConnectionError("x"), TransportError, "connection failed"),
        (exceptions.ModelAuthenticationError("x"), ModelError, "Check the API key"),
        (exceptions.ModelNotFoundError("x"), ModelError, "Check the model's name"),
        (exceptions.ContextOverflowError("x"), ContextFull, "ContextOverflowError"),
        (ValueError("No generation chunks were returned"), TransportError, "cannot be read"),
    ],
)
async def test_errors_of_other_clients_are_told_by_what_they_mean(
    error: Exception, kind: type[Exception], message: str
) -> None:
    model = Chat(Hosted(raises=[error]), patience=1e-9, timeout=7)
    with pytest.raises(ModelNotAsked if kind is ModelBusy else kind, match=message) as raised:
        await model.generate(Request([{"role": "user", "content": "?"}]))
    found: Any = raised.value.__cause__ if kind is ModelBusy else raised.value  # the pace has lost its patience
    assert isinstance(found, kind)
    assert isinstance(found, ModelBusy) == (kind is ModelBusy)
    assert found.__cause__ is error


@pytest.mark.parametrize("error", [KeyError("a bug"), FileNotFoundError("a.txt"), ModuleNotFoundError("torch")])
async def test_what_says_nothing_of_the_provider_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        await Chat(Hosted(raises=[error])).generate(Request([{"role": "user", "content": "?"}]))
    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        APIStatusError(429, "x", **{"Retry-After": "7"}),
        ClientResponseError(429, {"Retry-After": "7"}),
        ClientError("ThrottlingException", 429, **{"retry-after": "7"}),
        caused(ChatGoogleError("x"), http(429, "x", **{"retry-after": "7"})),
        GoogleError(429, "RESOURCE_EXHAUSTED", "{'@type': 'google.rpc.RetryInfo', 'retryDelay': '7s'}"),
    ],
)
def test_when_to_ask_again_is_read_of_every_client(error: Exception) -> None:
    busy = translated(error, "name", 1.0, client=True)
    assert isinstance(busy, ModelBusy)
    assert busy.retry_after == 7


@pytest.mark.parametrize(
    "error",
    [
        ThrottlingException("x"),
        GoogleError(503, "UNAVAILABLE"),
        RpcError("UNAVAILABLE"),
        ClientError("ThrottlingException", 429),
        EndpointConnectionError("x"),
        caused(ChatGoogleError("x"), http(503)),
        caused(ValueError("x"), ConnectionRefusedError("x")),
    ],
)
def test_code_that_is_no_models_client_does_not_become_unavailable_by_calling_itself_so(error: Exception) -> None:
    assert translated(error, "agent", 1.0) is error


@pytest.mark.parametrize(
    "said", ["Request too large on tokens per minute (TPM): Limit 6000", "code: rate_limit_exceeded"]
)
def test_a_request_too_large_for_a_rate_is_no_full_context(said: str) -> None:
    found = translated(APIStatusError(413, said), "name", 1.0)
    assert type(found) is ModelNotAsked
    assert not found.passing
    assert type(translated(APIStatusError(413, "Request Entity Too Large"), "name", 1.0)) is ContextFull


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("The decoder prompt (length 8357) is longer than the maximum model length of 8192.", ContextFull),
        ("The input (36000 tokens) is longer than the model's context length (32768 tokens).", ContextFull),
        ("'max_tokens' is too large: 512. This model's maximum context length is 600 tokens.", ContextFull),
        ("the request exceeds the available context size, try increasing it", ContextFull),
        ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", ContextFull),
        ("This model's maximum prompt length is 131072 but the request contains 537812 tokens", ContextFull),
        ("Please reduce the length of the messages or completion.", ContextFull),
        ("Input length 2000 exceeds the maximum allowed input length of 1000 tokens.", ContextFull),
        ("Input length (1023 tokens) exceeds the maximum allowed length (1018 tokens).", ContextFull),
        ("prompt token count of 2000 exceeds the limit of 1000", ContextFull),
        ("Your request exceeded model token limit: 8192 (requested: 9000)", ContextFull),
        ("Invalid 'tools[0].function.description': string too long. Expected maximum length 1024.", ModelError),
        ("Invalid 'tools': array too long. Expected an array with maximum length 128.", ModelError),
        ("max_tokens: 5000 > 4096, which is the maximum allowed number of output tokens", ModelError),
        ("max_completion_tokens is too large: 2000.This model supports at most 1024 completion tokens.", ModelError),
        ("max_tokens is too large: 100000. This model supports at most 16384 completion tokens", ModelError),
        ("x" * 400 + " maximum context length", ContextFull),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_conversation_that_is_too_long_is_told_from_other_things_that_are(
    said: str, kind: type[Exception], status: int
) -> None:
    found = translated(APIStatusError(status, said), "name", 1.0)
    assert isinstance(found, kind)
    assert len(str(found)) < 400


@pytest.fixture
def say(nothing_registered: None) -> None:
    registry.load_plugin(PLUGIN)


async def test_in_a_run_their_refusals_are_waited_for_and_their_failures_redrawn(say: None, tmp_path: Path) -> None:
    raises = [ThrottlingException("x"), None, http(500), ReadTimeoutError("x"), None, RpcError("RESOURCE_EXHAUSTED")]
    model = Chat(Hosted(raises=raises))
    experiment = parse_experiment(
        {
            "name": "test",
            "samples": 4,
            "model": {"id": "scripted", "replies": ["unused"]},
            "env": [{"id": "Say-v0", "tasks": 2}],
            "arm": [{"name": "bare"}],
            "budget": {"turns": 1},
        }
    )
    with Store.open(tmp_path / "s.sqlite") as store:
        await Runner(experiment, store, models={"scripted": model}, back_off=0.01).run()
        attempts = list(store.attempts("test"))
    assert [attempt.status for attempt in attempts] == ["complete"] * 8
    assert sum(attempt.faults.get(RESENT, 0) for attempt in attempts) == model.refused == 2
    assert sum(attempt.faults.get(REDRAWN, 0) for attempt in attempts) == 2
