"""What a tool may say about itself beyond what langchain asks for."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from langchain_core.tools import BaseTool
from langchain_core.tools.base import create_schema_from_function
from pydantic import ConfigDict

from testbed.game import Game
from testbed.replay import Recorded
from testbed.results import NO_OUTPUT


@dataclass(frozen=True)
class AttemptContext:
    """What a tool may know of the attempt it serves: nothing of the task or its reference but what acting reveals.

    Attributes:
        key: the attempt's random stream, see `testbed.types.stream_key`.
        replay: results to replay in order (yoked arms), shared by all tools of the attempt; None elsewhere.
        recorded: the results that a recorded attempt had, which calls are answered from; None where they are made.
        game: what the attempt's tools act on, where one of them does; shared by them all.
        imagine: writes a tool's result as the model itself goes on (imagined arms); None elsewhere.
        off_clock: `with context.off_clock():` around a wait for a place that others have (a sandbox, a thread, a
            server) keeps it out of the attempt's seconds, and the limit on them moves away meanwhile; in `_arun` only.
            The tool's own `timeout` runs on, unless it `keeps_time`.
    """

    key: int = 0
    replay: Iterator[str] | None = None
    recorded: Recorded | None = field(default=None, repr=False)
    game: Game | None = field(default=None, repr=False)  # it holds what the game keeps secret
    imagine: Callable[[], Awaitable[str]] | None = field(default=None, repr=False)
    off_clock: Callable[[], AbstractContextManager[None]] = field(default=nullcontext, compare=False, repr=False)


class Tool(BaseTool):
    """Base of tools that say more about themselves than langchain asks for; plain `BaseTool`s work too.

    Implement `_run` (runs in a thread) or `_arun` (runs on the event loop; it must neither block the loop nor withstand
    being cancelled, for then no time limit can help). Raise `ToolFault` to name a fault of the model, an
    `InfrastructureError` for one of yours; any other exception becomes execution_error.

    Attributes:
        version: raise it when results change; part of the arm's identity.
        timeout: wall seconds a call may take, above 0; infinite for tools that keep the time themselves.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    observes: ClassVar[bool] = True  # whether the model is told its results by others; not where it writes them itself
    keeps_time: ClassVar[bool] = False  # whether its own `_arun` keeps the time limit: waiting for its turn is no fault
    version: str = "1"
    timeout: float = 10.0

    def fingerprint(self) -> dict[str, Any]:
        """Everything besides name, version and schema that can change a result: index hash, image digest, options.

        By default every option of the subclass: JSON values as they are, other objects by their `hash` or their type.
        """
        options = {n: getattr(self, n) for n in type(self).model_fields if n not in Tool.model_fields}
        return {n: v if _is_json(v) else str(getattr(v, "hash", type(v).__qualname__)) for n, v in options.items()}

    def looks(self) -> BaseTool:
        """The tool whose name, description, arguments and time limit it shows: itself, but for disguises."""
        return self

    def acts_on(self) -> type | None:
        """What the tool needs the attempt's game to be: `Game`, `CloneableGame`; None for tools that need no game."""
        return None

    def get_input_schema(self, config: Any = None) -> Any:
        """The arguments, read from `_arun` where only that is implemented."""
        if self.args_schema is None and type(self)._run is Tool._run:
            return create_schema_from_function(self.name, self._arun)
        return super().get_input_schema(config)

    def for_attempt(self, context: AttemptContext) -> Tool:
        """The object that serves one attempt; `self` for tools that keep no state."""
        return self

    def keeps_state(self) -> bool:
        """Whether a result may depend on the attempt's earlier calls: a recording then holds in its order only."""
        return type(self).for_attempt is not Tool.for_attempt

    async def end_attempt(self) -> None:
        """Frees what `for_attempt` took."""

    async def start(self) -> None:
        """Prepares shared resources before a run."""

    async def aclose(self) -> None:
        """Frees shared resources after a run."""

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """An uninformative result of the usual shape, for the placebo control."""
        return NO_OUTPUT

    def check_inert(self) -> None:
        """Refuses to be a placebo where it has no uninformative result of the usual shape.

        Raises:
            UsageError: it has none.
        """

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # Gymnasium copies the arguments in an environment's specification: they name this tool, which may hold locks.
        return self

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"tool {self.name!r} runs on the event loop only: await its ainvoke()")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
