"""A server that speaks the OpenAI chat protocol, for tests: a process of its own on a loopback port, printed first.

The model's name says what it does: "reference" runs the packaged model; "caller" calls a tool and then answers with its
result; the others fail in one way each.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from helpers.served_model import SAID, SAID_OR_CALLED
from testbed import protocol
from testbed.models import Request as Ask
from testbed.models import Sampling, make_model
from testbed.models.reference_model import reference_path
from testbed.types import Message

app = FastAPI()
seen: list[dict[str, Any]] = []
reference = make_model("reference")


@app.get("/seen")
def requests_seen() -> list[dict[str, Any]]:
    return seen


@app.post("/v1/chat/completions")
async def complete(request: Request) -> Any:
    body = await request.json()
    seen.append({**body, "authorization": request.headers.get("authorization")})
    refusal = untied(body["messages"])
    if refusal:
        return failure(400, refusal)
    return await BEHAVIOURS.get(body["model"], unknown)(body, request)


def untied(messages: Sequence[Mapping[str, Any]]) -> str:
    """What a strict provider says of tool messages that answer no call, and of calls that are not answered."""
    open_calls: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                return f"no call has the id {message['tool_call_id']!r}"
            open_calls.remove(message["tool_call_id"])
        elif open_calls:
            return f"the calls {sorted(open_calls)} were not answered"
        open_calls |= {call["id"] for call in message.get("tool_calls") or []}
    return f"the calls {sorted(open_calls)} were not answered" if open_calls else ""


async def reference_model(body: dict[str, Any], request: Request) -> Any:
    messages: list[Message] = []
    for message in body["messages"]:
        content = message["content"] or ""
        for call in message.get("tool_calls") or []:
            function = call["function"]
            content += protocol.write_call(function["name"], json.loads(function["arguments"]))
        messages.append({"role": message["role"], "content": content})
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 512
    sampling = Sampling(body.get("temperature", 1.0), body.get("top_p", 1.0), limit)
    ask = Ask(
        messages, body.get("tools") or [], sampling, limit, body.get("seed", 0), logprobs=bool(body.get("logprobs"))
    )
    reply = await reference.generate(ask)
    usage = {"prompt_tokens": reply.usage.prompt_tokens, "completion_tokens": reply.usage.generated_tokens}
    calls = protocol.parse(reply.text).calls if body.get("tools") else ()
    if calls:
        text = reply.text[: reply.text.index(protocol.CALL_OPEN)]
        made = answer(text, usage, [(call.name, json.dumps(dict(call.arguments))) for call in calls])
    else:
        made = answer(reply.text, usage, finish=reply.finish)
    told = [{"token": "", "logprob": x, "bytes": None, "top_logprobs": []} for x in reply.logprobs or ()]
    made["choices"][0]["logprobs"] = {"content": told} if told else None
    return made


async def without_end_logprob(body: dict[str, Any], request: Request) -> Any:
    """As servers that leave out the end token."""
    made = await reference_model(body, request)
    made["choices"][0]["logprobs"]["content"].pop()
    return made


async def reader(body: dict[str, Any], request: Request) -> Any:
    """Says how likely each token of the prompt is, in vLLM's form."""
    tokenizer, model = reading()
    messages = [{**message, "content": message.get("content") or ""} for message in body["messages"]]
    for message in messages:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    tools, opened = body.get("tools"), body.get("add_generation_prompt", True)
    ids = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=opened, return_dict=True, return_tensors="pt"
    )["input_ids"]
    logprobs = model(input_ids=ids).logits[0, :-1].detach().log_softmax(-1)
    told: list[Any] = [None]
    for before, token in zip(logprobs, ids[0, 1:].tolist(), strict=True):
        entry = {"logprob": float(before[token]), "rank": 1, "decoded_token": tokenizer.decode([token])}
        told.append({str(token): entry})
    return {**answer(""), "prompt_logprobs": told if body.get("prompt_logprobs") == 0 else None}


@lru_cache
def reading() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # slow, and most models here do without

    folder = str(reference_path())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace(SAID, SAID_OR_CALLED)
    return tokenizer, AutoModelForCausalLM.from_pretrained(folder).eval()


async def caller(body: dict[str, Any], request: Request) -> Any:
    results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
    if results:
        return answer(protocol.write_answer("+".join(results)))
    names = [tool["function"]["name"] for tool in body.get("tools", [])]
    if not names:
        return answer("no tools")
    return answer("I <answer>guess</answer>", calls=[(names[0], '{"query": "</tool_call>é"}'), (names[-1], "{}")])


async def invalid_arguments(body: dict[str, Any], request: Request) -> Any:
    if body["messages"][-1]["role"] == "tool":
        return answer(protocol.write_answer(body["messages"][-1]["content"]))
    return answer("", calls=[("lookup", '{"query": "unclosed')])


async def text_calls(body: dict[str, Any], request: Request) -> Any:
    """Writes a call as text and stops at the closing tag, which it leaves out as servers do."""
    text = '<tool_call>{"name": "lookup", "arguments": {"query": "x"}}</tool_call>'
    stop = next((stop for stop in body.get("stop") or [] if stop in text), None)
    return answer(text[: text.index(stop)] if stop else text)


async def cut_short(body: dict[str, Any], request: Request) -> Any:
    return answer("<answer>4", finish="length")


async def no_usage(body: dict[str, Any], request: Request) -> Any:
    reply = answer("<answer>12345678</answer>")
    del reply["usage"]
    return reply


async def rate_limited(body: dict[str, Any], request: Request) -> Any:
    return failure(429, "slow down")


async def overloaded(body: dict[str, Any], request: Request) -> Any:
    return failure(503, "overloaded")


async def crashed(body: dict[str, Any], request: Request) -> Any:
    return failure(500, "crashed")


async def locked(body: dict[str, Any], request: Request) -> Any:
    if request.headers.get("authorization") != "Bearer right":
        return failure(401, "wrong key")
    return answer("<answer>in</answer>")


async def unknown(body: dict[str, Any], request: Request) -> Any:
    return failure(404, f"no model {body['model']!r}")


async def hang(body: dict[str, Any], request: Request) -> Any:
    await asyncio.sleep(60)


async def cut_off(body: dict[str, Any], request: Request) -> Any:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"id": "x", "choices": [{"mess'
        await asyncio.sleep(0.05)
        raise ConnectionAbortedError

    return StreamingResponse(half(), media_type="application/json", headers={"content-length": "1000"})


async def malformed(body: dict[str, Any], request: Request) -> Any:
    return PlainTextResponse('{"choices": [', media_type="application/json")


async def no_choices(body: dict[str, Any], request: Request) -> Any:
    return JSONResponse({"id": "x", "object": "chat.completion", "created": 0, "model": "x", "choices": None})


def answer(
    text: str, usage: Mapping[str, int] | None = None, calls: Sequence[tuple[str, str]] = (), finish: str = "stop"
) -> dict[str, Any]:
    used = {"prompt_tokens": 11, "completion_tokens": 7, **(usage or {})}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        finish = "tool_calls"
        message["tool_calls"] = [
            {"id": f"call-{uuid.uuid4().hex}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in calls
        ]
    return {
        "id": uuid.uuid4().hex,
        "object": "chat.completion",
        "created": 0,
        "model": "x",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {**used, "total_tokens": sum(used.values())},
    }


async def too_long(body: dict[str, Any], request: Request) -> Any:
    return failure(400, "This model's maximum context length is 4096 tokens, but 5000 were requested.")


def failure(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "error", "code": status}}, status_code=status)


BEHAVIOURS = {
    "reference": reference_model,
    "without-end-logprob": without_end_logprob,
    "reader": reader,
    "caller": caller,
    "invalid-arguments": invalid_arguments,
    "text-calls": text_calls,
    "cut-short": cut_short,
    "no-usage": no_usage,
    "rate-limited": rate_limited,
    "overloaded": overloaded,
    "crashed": crashed,
    "locked": locked,
    "hang": hang,
    "cut-off": cut_off,
    "malformed": malformed,
    "no-choices": no_choices,
    "too-long": too_long,
}

if __name__ == "__main__":
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
    sys.exit(uvicorn.Server(config).run(sockets=[listening]))
