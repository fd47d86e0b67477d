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

BEGINNING = 2  # <|system|>, with which the reference model's conversations begin
# How servers answer /v1/completions with `echo`. "begins" adds a beginning and shows no special tokens nor parts of
# characters, as llama-cpp-python; "afterwards" is off by one, as llama-cpp-python is without a beginning; "ignored"
# tells of what it wrote only, as llama-server; "echo-bytes" writes parts of characters as Latin-1, as SGLang.
ECHOES = ("echo", "echo-tokens", "echo-bytes", "echo-text", "begins", "afterwards", "ignored")

app = FastAPI()
seen: list[dict[str, Any]] = []
reference = make_model("reference")


@app.get("/seen")
def requests_seen() -> list[dict[str, Any]]:
    return seen


@app.post("/tokenize")
async def tokenize(request: Request) -> Any:
    body = await request.json()
    if body["model"] not in ("echo-tokens", "echo-bytes"):
        return failure(404, "no such path")
    return {"tokens": reading()[0].encode(rendered(body))}


@app.post("/apply-template")
async def apply_template(request: Request) -> Any:
    body = await request.json()
    return {"prompt": rendered(body)} if body["model"] in ("echo-text", "ignored") else failure(404, "no such path")


@app.post("/v1/completions")
async def go_on(request: Request) -> Any:
    """Goes on after a prompt, and says how likely its tokens are, each server in its own way."""
    body = await request.json()
    kind, prompt = body["model"], body["prompt"]
    if kind not in ECHOES:
        return failure(404, "no such path")
    if kind not in ("echo", "echo-tokens", "echo-bytes") and not isinstance(prompt, str):
        return failure(422, "prompt must be text")
    begun = [BEGINNING] if kind == "begins" else []
    ids = [*begun, *(reading()[0].encode(prompt) if isinstance(prompt, str) else prompt)]
    rows = read(ids)
    written = int(rows[-1].argmax())
    told = [*zip(ids, [None, *rows[:-1]], strict=True), (written, rows[-1])]
    if kind == "afterwards":
        told = list(zip(ids, rows, strict=True))
    told = told[-1:] if kind == "ignored" else told[len(begun) :]
    choice = {"index": 0, "text": "", "logprobs": legacy(told, body["logprobs"], kind), "finish_reason": "length"}
    usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
    return {"id": "x", "object": "text_completion", "created": 0, "model": kind, "choices": [choice], "usage": usage}


def legacy(told: Sequence[tuple[int, Any]], likely: int, kind: str) -> dict[str, list[Any]]:
    """Tokens, each with the distribution that it was drawn from, as /v1/completions tells them."""
    tokenizer, _ = reading()
    hides = kind in ("begins", "afterwards")
    texts = [tokenizer.decode([token], skip_special_tokens=hides) for token, _ in told]
    if kind == "echo-bytes":
        texts = [as_bytes(token) if "\ufffd" in text else text for text, (token, _) in zip(texts, told, strict=True)]
    made: dict[str, list[Any]] = {
        "tokens": [text.replace("\ufffd", "") for text in texts] if hides else texts,
        "token_logprobs": [None if row is None else float(row[token]) for token, row in told],
        "top_logprobs": [None if row is None else most_likely(row, likely) for _, row in told],
    }
    if hides:
        made["token_logprobs"][0] = made["top_logprobs"][0] = None  # whatever stood before it
    return made


def as_bytes(token: int) -> str:
    """A part of a character as SGLang writes it: each byte as the Latin-1 character of its number."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    tokenizer, _ = reading()
    return bytes(byte_of[letter] for letter in tokenizer.convert_ids_to_tokens(token)).decode("latin-1")


def most_likely(row: Any, n: int) -> dict[str, float]:
    tokenizer, _ = reading()
    values, tokens = row.topk(n)
    return {tokenizer.decode([token]): value for value, token in zip(values.tolist(), tokens.tolist(), strict=True)}


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
    told: list[dict[str, Any]] = [
        {"token": "", "logprob": x, "bytes": None, "top_logprobs": []} for x in reply.logprobs or ()
    ]
    made["choices"][0]["logprobs"] = {"content": told} if told else None
    return made


async def with_alternatives(body: dict[str, Any], request: Request) -> Any:
    """Tells the most likely first tokens too."""
    made = await reference_model(body, request)
    if likely := body.get("top_logprobs"):
        found = most_likely(read(reading()[0].encode(rendered(body)))[-1], likely)
        first = made["choices"][0]["logprobs"]["content"][0]
        first["top_logprobs"] = [{"token": text, "logprob": x, "bytes": None} for text, x in found.items()]
    return made


async def without_end_logprob(body: dict[str, Any], request: Request) -> Any:
    """As servers that leave out the end token."""
    made = await reference_model(body, request)
    made["choices"][0]["logprobs"]["content"].pop()
    return made


async def reader(body: dict[str, Any], request: Request) -> Any:
    """Says how likely each token of the prompt is, in vLLM's form: the last token of a character shows it whole."""
    tokenizer, _ = reading()
    ids = tokenizer.encode(rendered(body))
    told: list[Any] = [None]
    begun: list[int] = []
    for before, token in zip(read(ids), ids[1:], strict=False):
        shown = dict.fromkeys([token, *before.topk(body.get("prompt_logprobs") or 0).indices.tolist()])  # its own first
        begun = [*begun, token]
        if tokenizer.decode(begun).endswith("\ufffd"):
            text = ""
        else:
            text, begun = tokenizer.decode(begun), []
        texts = {t: text if t == token else tokenizer.decode([t]) for t in shown}
        told.append({str(t): {"logprob": float(before[t]), "decoded_token": texts[t]} for t in shown})
    return {**answer(""), "prompt_logprobs": told if body.get("prompt_logprobs") is not None else None}


def rendered(body: dict[str, Any]) -> str:
    """A conversation as the chat template writes it."""
    messages = [{**message, "content": message.get("content") or ""} for message in body["messages"]]
    for message in messages:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    opened = body.get("add_generation_prompt", True)
    tokenizer, _ = reading()
    text: str = tokenizer.apply_chat_template(
        messages, tools=body.get("tools"), add_generation_prompt=opened, tokenize=False
    )
    return text


def read(ids: list[int]) -> Any:
    """Log-probabilities of what may come after each token."""
    import torch  # slow, and most models here do without

    _, model = reading()
    logits = model(input_ids=torch.tensor([ids])).logits
    return logits[0].detach().log_softmax(-1)


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


async def newer(body: dict[str, Any], request: Request) -> Any:
    """As hosted models behind another address."""
    if "max_tokens" in body:
        return failure(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    return answer("<answer>4</answer>")


async def unlimited(body: dict[str, Any], request: Request) -> Any:
    return answer("<answer>4</answer>", {"completion_tokens": 300})


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
    **dict.fromkeys(ECHOES, with_alternatives),
    "caller": caller,
    "invalid-arguments": invalid_arguments,
    "text-calls": text_calls,
    "cut-short": cut_short,
    "newer": newer,
    "unlimited": unlimited,
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
