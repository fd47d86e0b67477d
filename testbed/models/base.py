"""What a model is to the testbed: something that continues a conversation and says what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from testbed.errors import UsageError
from testbed.types import Message, Task, Usage

_WORD = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """How a model decodes.

    Attributes:
        temperature: 0 is greedy; 1 samples the model's own distribution.
        top_p: nucleus mass in (0, 1]; 1 keeps every token.
        max_tokens: most tokens of one message.

    Raises:
        UsageError: a value is out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "max_tokens"):
            value, kinds = getattr(self, name), (int,) if name == "max_tokens" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise UsageError(f"model: {name} must be a number, not {value!r}.")
        if not 0 <= self.temperature <= 10:
            raise UsageError(f"model: temperature must be between 0 and 10, not {self.temperature!r}.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"model: top_p must be above 0 and at most 1, not {self.top_p!r}.")
        if self.max_tokens < 1:
            raise UsageError(f"model: max_tokens must be at least 1, not {self.max_tokens!r}.")

    def as_dict(self) -> dict[str, Any]:
        """The settings, for the arm's hash."""
        return asdict(self)


def _no_clock(since: float | None = None) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Request:
    """One message to be written.

    Attributes:
        messages: the conversation so far, the task's prompt first; "tool" messages hold results.
        tools: function schemas of the offered tools, as in `ToolSet.schemas`.
        sampling: how to decode.
        max_tokens: most tokens of this message: the smaller of `sampling.max_tokens` and what the budget leaves.
        stream: 128-bit key of the attempt's random stream, the same in every arm.
        position: tokens the attempt generated before; the stream goes on from there.
        task: for models that know the answers (oracle); others do not look at it.
        logprobs: whether the log-probability of each written token is wanted; models that have none do not look at it.
        off_clock: `with request.off_clock():` around a wait for others (a free place, a server that refuses for now)
            keeps it out of the attempt's seconds; `off_clock(since)` goes back to a time of the event loop's.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 512
    stream: int = 0
    position: int = 0
    task: Task | None = None
    logprobs: bool = False
    off_clock: Callable[..., AbstractContextManager[None]] = field(default=_no_clock, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """A message the model wrote.

    Attributes:
        text: in the text protocol, native tool calls included.
        usage: this attempt's own tokens.
        finish: "stop"; "length" when it was cut at `max_tokens`; "context" when it was cut before that, where the
            model's context was full.
        logprobs: of each token that was written, the end token included, in nats: what the model itself gives it, at
            temperature 1 and without a nucleus, whatever the sampling; None if not wanted, or not to be had.
    """

    text: str
    usage: Usage
    finish: str = "stop"
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What a model gives a message of a conversation, having read what stands before it.

    Attributes:
        message: the message's index.
        logprobs: of each of its tokens, in nats.
        end: ln of the probability that it ends after these, a tool's result by the markup that closes it; None where
            that is not told.
    """

    message: int
    logprobs: tuple[float, ...]
    end: float | None = None

    @property
    def nats(self) -> float:
        """−ln of the probability that the model would have written the message: what it costs to guess it."""
        return -sum(self.logprobs)


@runtime_checkable
class Scorer(Protocol):
    """A model that can say how likely a text is to it."""

    async def score(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], which: Sequence[int]
    ) -> list[Score]:
        """Log-probabilities of some messages of a conversation, by teacher forcing at temperature 1.

        Args:
            messages: the conversation.
            tools: function schemas of the offered tools.
            which: indices of the messages; only their contents count, not the markup around them.

        Raises:
            ModelError: the messages' tokens cannot be told from those around them.
        """
        ...


@runtime_checkable
class Imaginer(Protocol):
    """A model that can go on inside the markup of a tool's result, and so write the result itself."""

    async def imagine(self, request: Request) -> Reply:
        """Writes what a tool would say: the text of the result that follows the conversation, until its markup closes.

        Args:
            request: the conversation up to where the tool would speak; the rest as for `Model.generate`.

        Returns:
            The result's text, without the markup that closes it; its usage counts those tokens as well, since the model
            wrote them.

        Raises:
            ModelError: the chat template does not show a tool's result, or nothing of it closes one.
            InfrastructureError: it could not; the attempt is retried.
        """
        ...


@runtime_checkable
class Model(Protocol):
    """A model that many attempts share; `generate` is called concurrently and may batch.

    Attributes:
        name: how the experiment names it.
        reproducible: whether the same request brings the same reply, so that a try that was lost to the infrastructure
            can be made again; a model that does not say so is taken not to be.
        priced: whether asking it can cost money; one that does not say so is taken to.
        gives_logprobs: whether its replies bring `Reply.logprobs`; one that does not say so is taken not to.
        explain: of one that has it, awaited with an error that has ended a try, to add what it finds out of the cause.
    """

    name: str

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that can change an outcome: weights' hash, tool rendering, dtype, device kind."""
        ...

    def count(self, text: str) -> int:
        """Tokens of `text`, at least 0."""
        ...

    async def start(self) -> None:
        """Loads what it needs before the first request."""
        ...

    async def generate(self, request: Request) -> Reply:
        """Writes the next message.

        Raises:
            InfrastructureError: it could not; the attempt is retried.
        """
        ...

    async def aclose(self) -> None:
        """Frees what it holds."""
        ...


class _Key(np.random.bit_generator.ISeedSequence):
    """A stream as a key."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return np.array([self._stream & _WORD, self._stream >> 64], dtype=np.uint64)


def philox(stream: int, counter: Sequence[int] | None = None) -> np.random.Philox:
    """`Philox(key=stream)`, which first draws a seed from the system for nothing, at a fifth of the cost.

    Args:
        stream: an attempt's.
        counter: four words, where it begins; zeros for None.
    """
    return np.random.Philox(_Key(stream), counter=counter)  # type: ignore[arg-type]  # documented, and not annotated


def uniforms(stream: int, position: int, n: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`n` uniform numbers in [0, 1) of an attempt's stream, from its `position`-th on.

    Counter-based (Philox), so that any part of the stream can be had without what came before, and no attempt's numbers
    depend on another's.
    """
    generator = philox(stream)
    if position >= 4:  # a Philox block is four 64-bit numbers
        generator.advance(position // 4)
    skip = position % 4
    return np.random.Generator(generator).random(skip + n)[skip:]
