from __future__ import annotations

import asyncio
from typing import Any

import pytest

from testbed.errors import ModelError, UsageError
from testbed.models import Request, make_model
from testbed.models.oracle import Oracle
from testbed.protocol import parse
from testbed.types import Task, stream_key


def request(task: Task | None, sample: int = 0, **fields: Any) -> Request:
    key = stream_key(0, task.hash if task else "", sample)
    return Request([{"role": "user", "content": "?"}], task=task, stream=key, **fields)


def task(reference: Any) -> Task:
    return Task("Test-v0", "What is 6*7?", reference)


@pytest.mark.parametrize(("reference", "answer"), [("42", "42"), (42, "42"), ([1, "é"], '[1,"é"]'), (True, "true")])
async def test_it_answers_with_the_reference(reference: Any, answer: str) -> None:
    reply = await Oracle().generate(request(task(reference)))
    assert parse(reply.text).answer == answer


async def test_the_answer_can_be_made_by_a_function() -> None:
    reply = await Oracle(lambda t: str(t.reference["number"])).generate(request(task({"number": 42})))
    assert parse(reply.text).answer == "42"


async def test_accuracy_is_the_share_of_right_answers() -> None:
    model = make_model("oracle", {"accuracy": 0.3})
    replies = await asyncio.gather(*(model.generate(request(task("42"), sample)) for sample in range(4000)))
    right = sum(parse(reply.text).answer == "42" for reply in replies)
    assert abs(right - 1200) < 4 * (4000 * 0.3 * 0.7) ** 0.5  # four standard deviations


async def test_the_same_attempt_repeats() -> None:
    model = Oracle(accuracy=0.5)
    runs = [[(await model.generate(request(task("42"), sample))).text for sample in range(50)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 2


async def test_without_a_task_it_says_so() -> None:
    with pytest.raises(ModelError, match="no task"):
        await Oracle().generate(request(None))


async def test_a_limit_on_tokens_cuts_the_answer() -> None:
    reply = await Oracle().generate(request(task("42"), max_tokens=2))
    assert (reply.usage.generated_tokens, reply.finish, parse(reply.text).answer) == (2, "length", None)


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, True, "high"])
def test_an_accuracy_that_is_no_probability_is_refused(accuracy: Any) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        make_model("oracle", {"accuracy": accuracy})


def test_accuracy_is_part_of_the_fingerprint() -> None:
    assert Oracle(accuracy=0.5).fingerprint() != Oracle().fingerprint()
