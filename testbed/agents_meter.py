"""Meters the models that an agent asks through langchain, and stops them where the budget is spent.

The handler is registered with langchain's own hook, so that every call made in an agent's context is seen, whether or
not the agent passes a config on.
"""

from __future__ import annotations

import threading
from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from testbed.agents import PriceList
from testbed.agents_env import AttemptOver
from testbed.budget import Meter
from testbed.errors import UsageError
from testbed.models.chat_prices import Prices
from testbed.types import Usage

_MODEL_LIMITS = ("generated_tokens", "prompt_tokens", "model_calls", "usd")
current: ContextVar[Tap | None] = ContextVar("tap", default=None)
register_configure_hook(current, inheritable=True)  # langchain's way of seeing all calls of a context


class Tap(BaseCallbackHandler):
    """Counts what an agent's models use, from whichever threads they are asked.

    Args:
        meter: what the attempt used so far; read only, the run's loop books on it.
        prices: of the models.
        count: tokens of a text, for models that do not tell.
        stop: ends the attempt because of a limit; "" where `refused` says why.

    Attributes:
        metered: whether any call was seen: from then on only calls count, and no text of a message.
        failures: what calls of models raised.
        refused: an error of the caller's that a call met.
    """

    raise_error = True
    run_inline = True

    def __init__(
        self, meter: Meter, prices: PriceList, count: Callable[[str], int], stop: Callable[[str], None]
    ) -> None:
        self._meter, self._prices, self._count, self._stop = meter, prices, count, stop
        self._lock = threading.Lock()
        self._open: dict[UUID, tuple[Prices, int]] = {}  # prices and, roughly, the tokens of what was asked
        self._used: list[Usage] = []
        self.over = self.metered = False
        self.failures: list[BaseException] = []
        self.refused: UsageError | None = None

    def take(self) -> tuple[Usage, int]:
        """What the calls since the last time used, and how many they were."""
        with self._lock:
            used, self._used = self._used, []
        return _sum(used), len(used)

    def rest(self) -> tuple[Usage, int]:
        """As `take`, at an attempt's end: calls still under way count too, with what they were given to read.

        What a model would have written goes uncounted: nobody has been told of it, and nobody will be.
        """
        with self._lock:
            self._used += [_begun(*call) for call in self._open.values()]
            self._open.clear()
        return self.take()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Lets a call begin, unless the budget is spent."""
        self._begin(run_id, [str(message.text) for batch in messages for message in batch], metadata or {})

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Lets a call begin, unless the budget is spent."""
        self._begin(run_id, prompts, metadata or {})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Counts a call."""
        with self._lock:
            if run_id not in self._open:
                return
            prices, asked = self._open.pop(run_id)
            self._used.append(self._usage(response, prices, asked))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Remembers what a call raised: whether that is the agent's or the infrastructure's is judged later."""
        with self._lock:
            call = self._open.pop(run_id, None)
            if call and isinstance(error, CancelledError):  # the attempt's end cut it off: it fared like one under way
                self._used.append(_begun(*call))
            self.failures.append(error)

    def _begin(self, run_id: UUID, texts: Sequence[str], metadata: Mapping[str, Any]) -> None:
        with self._lock:
            if self.over:
                raise AttemptOver
            if (limit := self._spent()) is None:
                prices = self._priced(f"{metadata.get('ls_provider', '')}:{metadata.get('ls_model_name', '')}")
                if prices is not None:
                    self._open[run_id] = prices, sum(map(self._count, texts))
                    self.metered = True
                    return
            self.over = True
        self._stop(limit or "")
        raise AttemptOver

    def _spent(self) -> str | None:
        used = _sum(self._used)
        more = {"model_calls": len(self._used) + len(self._open)}
        for component in _MODEL_LIMITS:
            limit = getattr(self._meter.budget, component)
            amount = self._meter.amounts[component] + more.get(component, getattr(used, component, 0))
            if limit is not None and amount >= limit:
                return component
        return None

    def _priced(self, model: str) -> Prices | None:
        try:
            return self._prices.of(model)
        except UsageError as error:  # the run must end with it, and not the attempt: the caller can mend it
            self.refused = error
            return None

    def _usage(self, response: LLMResult, prices: Prices, asked: int) -> Usage:
        first = response.generations[0][0] if response.generations and response.generations[0] else None
        message = first.message if isinstance(first, ChatGeneration) else None
        told = message.usage_metadata if isinstance(message, AIMessage) else None
        if told is None:
            prompt, written, cached = asked, self._count(first.text) if first else 0, 0
        else:
            prompt, written = max(told["input_tokens"], 0), max(told["output_tokens"], 0)  # servers tell anything
            cached = min(max(told.get("input_token_details", {}).get("cache_read", 0), 0), prompt)
        return Usage(prompt, written, 0.0, prices.usd(prompt, cached, written))


def _begun(prices: Prices, asked: int) -> Usage:
    """Of a call whose answer nobody waits for."""
    return Usage(asked, 0, 0.0, prices.usd(asked, 0, 0))


def _sum(used: Sequence[Usage]) -> Usage:
    return Usage(
        sum(u.prompt_tokens for u in used), sum(u.generated_tokens for u in used), 0.0, sum(u.usd for u in used)
    )
