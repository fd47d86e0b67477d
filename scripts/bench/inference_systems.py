"""The same attempts by several systems, for `inference.py`: ours, and `generate` and continuous batching."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from inference_attempts import LIMITS, Attempt, Timing, Turn
from transformers import ContinuousBatchingConfig, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from testbed.models import hf_decode
from testbed.models.hf_decode import Decoder, Row
from testbed.models.hf_worker import Worker


@dataclass
class Gauge:
    """Where the time of our model's thread goes, and how full the batch is while attempts still wait.

    Attributes:
        slots: places in the batch.
        left: attempts that are not done.
    """

    slots: int
    left: int = 0
    forward: list[float] = field(default_factory=lambda: [0.0])
    sampling: list[float] = field(default_factory=lambda: [0.0])
    total: list[float] = field(default_factory=lambda: [0.0])
    steps: int = 0
    filled: int = 0

    def timed(self, function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
        """The function, with its processor time added to `into`; asking for that takes 1 to 4 microseconds here."""

        @functools.wraps(function)
        def run(*arguments: Any, **more: Any) -> Any:
            cpu = time.thread_time()
            try:
                return function(*arguments, **more)
            finally:
                into[0] += time.thread_time() - cpu

        return run

    def begin(self, attempts: int) -> None:
        """Forgets what was measured: the decoder tried itself out, and maybe made other attempts."""
        for into in (self.forward, self.sampling, self.total):
            into[0] = 0.0
        self.steps, self.filled, self.left = 0, 0, attempts

    def watch(self, decoder: Decoder) -> None:
        """Measures a decoder's steps and admissions."""
        step = decoder.step

        def noted() -> list[Row]:
            if self.left > self.slots:  # after that comes the tail: too few are left to fill the batch
                self.steps += 1
                self.filled += len(decoder.rows)
            return step()

        decoder.step = self.timed(noted, self.total)  # type: ignore[method-assign]
        decoder.admit = self.timed(decoder.admit, self.total)  # type: ignore[method-assign]

    @property
    def occupancy(self) -> float:
        """Filled share of the batch until the tail."""
        return self.filled / max(1, self.steps * self.slots)


def ours(
    model: Any,
    attempts: Sequence[Attempt],
    slots: int,
    gauge: Gauge | None = None,
    before: Sequence[Attempt] = (),
    *,
    records: bool = True,
) -> Timing:
    """All attempts at once on our worker; those `before` are made first and not timed.

    Without `records`, a GPU is asked for each operation of a step.
    """
    forward, sample, recorder = model.forward, hf_decode.sample, hf_decode.recorder_for
    if not records:
        hf_decode.recorder_for = lambda device: None
    if gauge is not None:
        model.forward = gauge.timed(forward, gauge.forward)
        hf_decode.sample = gauge.timed(sample, gauge.sampling)

    def load() -> Decoder:
        decoder = Decoder(model, lambda tokens: False, slots)
        if gauge is not None:
            gauge.watch(decoder)
        return decoder

    timing = Timing()

    async def one(worker: Worker, attempt: Attempt, timing: Timing) -> None:
        text, position = attempt.prompt, 0
        for turn in attempt.turns:
            goes_on = turn is not attempt.turns[-1]
            row = await worker.decode(Row(text, turn.limit, stream=attempt.stream, position=position, keep=goes_on))
            assert len(row.tokens) == turn.limit
            position += turn.limit
            text = (*text, *row.tokens, *turn.shown)
        timing.add(attempt)
        if gauge is not None:
            gauge.left -= 1

    async def everything() -> None:
        worker = Worker(load)
        await asyncio.wrap_future(worker.ready)
        await asyncio.gather(*(one(worker, attempt, Timing()) for attempt in before))
        if gauge is not None:
            gauge.begin(len(attempts))
        with timing.running():
            await asyncio.gather(*(one(worker, attempt, timing) for attempt in attempts))
        await worker.close()

    try:
        asyncio.run(everything())
    finally:
        model.forward, hf_decode.sample, hf_decode.recorder_for = forward, sample, recorder
    return timing


class _OwnLimits(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch at a limit of its own: `generate` itself knows one for all."""

    def __init__(self, limits: torch.Tensor, width: int) -> None:
        self._limits, self._width = limits, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        return input_ids.shape[1] - self._width >= self._limits


def sampling(**more: Any) -> GenerationConfig:
    """Plain sampling at temperature 1 without an end."""
    return GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0, **more)


@torch.inference_mode()
def static(model: Any, attempts: Sequence[Attempt], batch: int, within: float) -> Timing:
    """`generate`, batch by batch, turn by turn; whoever has no further turn leaves between turns.

    Args:
        model: the model.
        attempts: in this order.
        batch: attempts at once.
        within: seconds after which no further batch is begun.
    """
    timing = Timing()
    for at in range(0, len(attempts), batch):
        if timing.seconds > within:
            break
        some = attempts[at : at + batch]
        with timing.running():
            texts = [list(attempt.prompt) for attempt in some]
            for number in range(4):
                going = [row for row, attempt in enumerate(some) if len(attempt.turns) > number]
                if not going:
                    break
                turns = [some[row].turns[number] for row in going]
                for row, turn, said in zip(
                    going, turns, _batch(model, [texts[row] for row in going], turns), strict=True
                ):
                    texts[row] += [*said, *turn.shown]
        for attempt in some:
            timing.add(attempt)
    return timing


def _batch(model: Any, texts: Sequence[Sequence[int]], turns: Sequence[Turn]) -> list[list[int]]:
    width = max(map(len, texts))
    ids = torch.tensor([[0] * (width - len(text)) + list(text) for text in texts], device=model.device)
    absent = torch.tensor([width - len(text) for text in texts], device=model.device)
    limits = [turn.limit for turn in turns]
    written = model.generate(
        input_ids=ids,
        attention_mask=(torch.arange(width, device=model.device) >= absent[:, None]).long(),
        generation_config=sampling(max_new_tokens=max(limits)),
        stopping_criteria=StoppingCriteriaList([_OwnLimits(torch.tensor(limits, device=model.device), width)]),
    )[:, width:].tolist()
    assert len(written[0]) == max(limits)
    return [row[:limit] for row, limit in zip(written, limits, strict=True)]


def continuous(model: Any, attempts: Sequence[Attempt], within: float, before: Sequence[Attempt] = ()) -> Timing:
    """Continuous batching of transformers: all attempts handed over at once, each next turn as soon as one is done.

    Those `before` are made first and not timed.
    """
    timing = Timing()
    cpu = model.device.type == "cpu"
    # Left to itself, it may reserve most of a machine's memory on the CPU, and makes graphs that only a GPU has.
    room: dict[str, Any] = {"num_blocks": 2048, "page_size": 32, "max_batch_tokens": 256} if cpu else {}
    config = ContinuousBatchingConfig(use_cuda_graph=False if cpu else None, use_async_batching=False, **room)
    with model.continuous_batching_context_manager(
        generation_config=sampling(max_new_tokens=max(LIMITS), eos_token_id=-1),
        continuous_batching_config=config,
        warmup=not cpu,
    ) as manager:
        _hand_over(manager, before, within, Timing())
        with timing.running():
            _hand_over(manager, attempts, within, timing)
    return timing


def _hand_over(manager: Any, attempts: Sequence[Attempt], within: float, timing: Timing) -> None:
    """All attempts to the end, or until the time is over."""
    waiting = {f"{attempt.stream}-{id(timing)}": (attempt, 0, list(attempt.prompt)) for attempt in attempts}
    ends = time.perf_counter() + within
    for name, (attempt, _, text) in waiting.items():
        manager.add_request(text, request_id=f"{name}/0", max_new_tokens=attempt.turns[0].limit)
    while waiting and time.perf_counter() < ends:
        result = manager.get_result(timeout=1.0)
        if result is None or not result.is_finished():
            continue
        name = result.request_id.partition("/")[0]
        if name not in waiting:  # of those before, when their time was over
            continue
        attempt, number, text = waiting.pop(name)
        if result.error:
            raise RuntimeError(f"continuous batching: {result.error}")
        turn = attempt.turns[number]
        timing.tokens += turn.limit
        if number + 1 == len(attempt.turns):
            timing.attempts += 1
            continue
        text = [*text, *result.generated_tokens, *turn.shown]
        waiting[name] = attempt, number + 1, text
        manager.add_request(text, f"{name}/{number + 1}", max_new_tokens=attempt.turns[number + 1].limit)
    for name, (_, number, _) in waiting.items():  # else they would be written beside those that come next
        manager.cancel_request(f"{name}/{number}")


@torch.inference_mode()
def samples_of_one(model: Any, prompt: Sequence[int], samples: int, limit: int) -> Timing:
    """`generate(num_return_sequences=…)` for one prompt."""
    timing = Timing()
    ids = torch.tensor([list(prompt)], device=model.device)
    with timing.running():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=sampling(max_new_tokens=limit, num_return_sequences=samples),
        )[:, -1].tolist()
    timing.tokens, timing.attempts = samples * limit, samples
    return timing
