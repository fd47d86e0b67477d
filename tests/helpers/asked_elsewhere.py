"""What a server of models that is installed elsewhere must do alike, whichever it is, with the reference model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.experiment_file import parse_experiment
from testbed.models import Request, Sampling
from testbed.models.chat import Chat
from testbed.protocol import parse
from testbed.runner import Runner
from testbed.scoring import Scoring
from testbed.store import Store
from testbed.types import Message

NAME = "served"
WHOLE = {"skip_special_tokens": False}  # the reference model's tags are special tokens
PYTHON = {"type": "function", "function": {"name": "python", "description": "", "parameters": {"type": "object"}}}
QUESTION: Message = {"role": "user", "content": "What is 4821*9377?"}
SAID: list[Message] = [
    {"role": "user", "content": "é🙂 What is 12*34? é🙂"},
    {"role": "assistant", "content": "abc 🙂fed <answer>3</answer>"},
    {"role": "user", "content": "🙂 dcab x"},
]


@asynccontextmanager
async def chat(url: str, **options: Any) -> AsyncIterator[Chat]:
    """The model behind a server."""
    model = Chat(f"openai:{NAME}", base_url=url, **{"system": "", "extra_body": WHOLE, **options})
    try:
        yield model
    finally:
        await model.aclose()


async def check_figures(there: Chat, here: Any) -> None:
    """It gives the figures of teacher forcing, also of characters of several tokens."""
    found, expected = [await model.score(SAID, [], [2, 0, 1]) for model in (there, here)]
    for theirs, ours in zip(found, expected, strict=True):
        assert theirs.message == ours.message
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4)


async def check_native_call(there: Chat, here: Any) -> None:
    """The model calls a tool natively, and answers with what that said."""
    greedy: dict[str, Any] = {"sampling": Sampling(temperature=0.0, max_tokens=64), "max_tokens": 64}
    messages = [QUESTION]
    for _ in range(2):
        theirs, ours = [await model.generate(Request(messages, [PYTHON], **greedy)) for model in (there, here)]
        one, other = parse(theirs.text), parse(ours.text)
        assert (one.calls, one.answer) == (other.calls, other.answer)
        said: Message = {"role": "assistant", "content": theirs.text}
        messages = [*messages, said, {"role": "tool", "name": "python", "content": "45206517\n"}]
    assert parse(theirs.text).answer == "45206517"


async def check_run(url: str, tokenizer: Path, store: Path) -> None:
    """A run against it is scored whole."""
    options = {"base_url": url, "system": "", "extra_body": WHOLE, "tokenizer": str(tokenizer)}
    experiment = parse_experiment(
        {
            "name": "elsewhere",
            "samples": 2,
            "model": {"id": f"chat:openai:{NAME}", "max_tokens": 48, "native": False, **options},
            "env": [{"id": "Multiplication-v0", "tasks": 2}],
            "arm": [{"name": "bare"}, {"name": "sums", "tools": ["calculator"]}],
            "budget": {"turns": 2},
        }
    )
    with Store.open(store) as opened:
        await Runner(experiment, opened).run()
        scored = await Scoring(opened, "elsewhere").run()
    assert [(arm.arm, arm.done, arm.total, dict(arm.left_out)) for arm in scored] == [
        ("bare", 4, 4, {}),
        ("sums", 4, 4, {}),
    ]
