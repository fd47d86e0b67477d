"""What a hosted model's tokens cost: prices that the user gives, since no list of a package stays true for long."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import DataError, ModelError, UnknownName, UsageError
from testbed.types import Usage

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage

KEYS = ("input", "output", "cached_input")
MILLION = 1e6
MOST = 1 << 40  # tokens of one message, beyond all contexts
OVER = 8  # tokens by which a server may pass a limit, to end a character


@dataclass(frozen=True)
class Prices:
    """USD of a million tokens.

    Attributes:
        input: of what the model is given.
        output: of what it writes.
        cached_input: of what it is given and the provider had still in store; None for the same as `input`.
    """

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None

    @property
    def known(self) -> bool:
        """Whether anything costs anything."""
        return any((self.input, self.output, self.cached_input))

    def usd(self, prompt: int, cached: int, written: int) -> float:
        """Price of one call.

        Args:
            prompt: tokens the model was given, those in store included.
            cached: how many of them were in store.
            written: tokens it wrote.
        """
        cached_input = self.input if self.cached_input is None else self.cached_input
        return ((prompt - cached) * self.input + cached * cached_input + written * self.output) / MILLION


def prices_of(model: str, usd_per_million: Mapping[str, float] | None, path: str | None) -> Prices:
    """A model's prices: those of the experiment, else those of a file, else none.

    Args:
        model: "PROVIDER:MODEL".
        usd_per_million: {"input": …, "output": …, "cached_input": …}, the last where it differs.
        path: a TOML file with such a table for each model; what is no table (a date, a source) is for readers.

    Raises:
        UsageError: a price is no number of at least 0.
        DataError: the file cannot be read.
        UnknownName: the file has no prices of the model.
    """
    if usd_per_million is not None:
        return _checked(usd_per_million, "model: usd_per_million")
    if path is None:
        return Prices()
    tables = _read(path)
    if model not in tables:
        raise UnknownName(
            f"model in the prices of {path}:", model, tables, f'Add ["{model}"] with input = … and output = …, in USD.'
        )
    return _checked(tables[model], f"{path}: {model}")


def _read(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            return {name: table for name, table in tomllib.load(file).items() if isinstance(table, dict)}
    except OSError as error:
        raise DataError(f"the prices {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the prices {path} are no TOML: {error}.") from error


def _checked(prices: Any, where: str) -> Prices:
    if not isinstance(prices, Mapping):
        raise UsageError(f"{where} must be a table of input = … and output = …, not {prices!r:.80}.")
    for key, price in prices.items():
        number = isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < float("inf")
        if key not in KEYS or not number:
            raise UsageError(f"{where} takes input = … and output = … and cached_input = …, not {key} = {price!r}.")
    if missing := [key for key in ("input", "output") if key not in prices]:  # it would be free without a word
        raise UsageError(f"{where} has no {missing[0]} = …; write 0 where it costs nothing.")
    return Prices(**prices)


def usage_of(message: AIMessage, sent: Sequence[BaseMessage], text: str, prices: Prices) -> tuple[Usage, bool]:
    """What a reply used, but for its seconds.

    Args:
        message: the reply.
        sent: what it replies to.
        text: it as text.
        prices: the model's.

    Returns:
        The usage, and whether its provider told the tokens; else they are estimated. What cannot be true (no token of a
        prompt, or of a text that is there) is as good as not told: no budget would hold.
    """
    told: Mapping[str, Any] = message.usage_metadata or {}
    prompt, written = _count(told.get("input_tokens"), 1), _count(told.get("output_tokens"), 1 if text else 0)
    if prompt is None or written is None:
        prompt, written = sum(estimated(str(m.text)) for m in sent), estimated(text)
        return Usage(prompt, written, 0.0, prices.usd(prompt, 0, written)), False
    whole = _count(told.get("total_tokens"), 0) or 0
    written = max(written, whole - prompt)  # some bill thoughts that they count in the total alone
    cached = min(_count((told.get("input_token_details") or {}).get("cache_read"), 0) or 0, prompt)
    return Usage(prompt, written, 0.0, prices.usd(prompt, cached, written)), True


def _count(value: Any, least: int) -> int | None:
    """A number of tokens; None where it is none that could be true, for servers tell anything."""
    whole = isinstance(value, int | float) and not isinstance(value, bool) and least <= value < MOST
    return int(value) if whole and value == int(value) else None


def check_limit(written: int, limit: int, name: str) -> None:
    """Refuses a server that does not keep to the limit on a reply: no budget would hold.

    Raises:
        ModelError: it wrote more than it takes to end a character.
    """
    if written > limit + OVER:
        raise ModelError(
            f"{name}: the server wrote {written} tokens where the limit was {limit}, so that no budget holds. With "
            "base_url the limit is sent as max_tokens, else as max_completion_tokens."
        )


def estimated(text: str) -> int:
    """Tokens of `text`: four bytes are about one."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4
