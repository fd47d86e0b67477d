"""Token by token: rows of different attempts decoded together, joining and leaving the batch between tokens.

A prompt is read once, and its keys and values are copied to every attempt that starts with it. The model is any
transformers model whose layers keep keys and values; what masks and positions mean is left to the model's own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from testbed.errors import ModelError
from testbed.models.base import uniforms
from testbed.models.hf_cache import AlignedCache, Prefix, Prefixes

Tensor = torch.Tensor

_DRAWS = 256  # uniform numbers made at a time
_PREFILL_TOKENS = 2048  # most tokens, padding included, of one reading of prompts


@dataclass(eq=False)
class Row:
    """One message being written.

    Attributes:
        prompt: token ids that the model is given, at least one.
        limit: most tokens to write.
        temperature: 0 takes the likeliest token.
        top_p: nucleus mass in (0, 1].
        stream: key of the attempt's random numbers.
        position: tokens that the attempt wrote in earlier messages.
        logprobs: of the tokens, at temperature 1 and without a nucleus, in nats; None if nobody wants them.
        tokens: what is written so far.
        finish: "stop" or "length" when done, else "".
    """

    prompt: tuple[int, ...]
    limit: int
    temperature: float = 1.0
    top_p: float = 1.0
    stream: int = 0
    position: int = 0
    logprobs: list[float] | None = None
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    _block: list[float] = field(default_factory=list, repr=False)

    @property
    def seen(self) -> int:
        """Tokens whose keys and values are in the cache: all but the last."""
        return len(self.prompt) + len(self.tokens) - 1

    def draw(self) -> float:
        """The uniform number that decides the next token: a function of the stream and of how many came before."""
        at = len(self.tokens) % _DRAWS
        if at == 0:
            size = min(_DRAWS, self.limit - len(self.tokens))
            self._block = uniforms(self.stream, self.position + len(self.tokens), size).tolist()
        return self._block[at]


class Decoder:
    """The batch.

    Args:
        model: a transformers causal language model in evaluation mode.
        stops: whether the last of these tokens ends the message.
        slots: most rows at once.

    Raises:
        ModelError: the model keeps something else than keys and values.
    """

    def __init__(self, model: Any, stops: Callable[[Sequence[int]], bool], slots: int) -> None:
        self._model, self._stops, self.slots = model, stops, slots
        self._device = model.device
        _check_cache(model)
        takes = inspect.signature(model.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._cache = AlignedCache(slots)
        self._prefixes = Prefixes()
        self.rows: list[Row] = []

    @property
    def free(self) -> int:
        """How many rows can be admitted now."""
        return self.slots - len(self.rows)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Reads the prompts of new rows and writes their first tokens; returns the rows that were done with that."""
        rows = sorted(rows, key=lambda row: row.prompt)  # equal prompts side by side: one copy fills them all
        prefixes = self._read({row.prompt for row in rows})
        self._cache.reserve(len(self.rows) + len(rows), self._width(rows), len(self.rows), self._width(self.rows))
        slot = len(self.rows)
        for prompt, same in groupby(row.prompt for row in rows):
            first, slot = slot, slot + len(list(same))
            self._cache.fill(first, slot, prefixes[prompt])
        logits = torch.stack([prefixes[row.prompt].logits for row in rows])
        self.rows += rows
        return self._append(len(self.rows) - len(rows), logits)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Writes one more token of every row; returns the rows that are done."""
        rows = self.rows
        seen = torch.tensor([row.seen for row in rows], device=self._device)
        width = self._width(rows)
        self._cache.reserve(len(rows), width, len(rows), width)
        self._cache.show(len(rows), width)
        columns = torch.arange(width + 1, device=self._device)
        output = self._model(
            input_ids=torch.tensor([row.tokens[-1:] for row in rows], device=self._device),
            position_ids=seen[:, None],
            attention_mask=columns >= width - seen[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        return self._append(0, output.logits[:, -1])

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of the tokens of some texts, see `testbed.models.hf_score.score`."""
        from testbed.models.hf_score import score

        return score(self._model, texts)

    def drop(self, gone: Iterable[Row]) -> None:
        """Gives up rows that nobody waits for."""
        for row in gone:
            if row in self.rows:
                self._remove([self.rows.index(row)])

    def clear(self) -> None:
        """Gives up every row and frees the memory."""
        self.rows = []
        self._cache = AlignedCache(self.slots)
        self._prefixes = Prefixes()

    def _width(self, rows: Sequence[Row]) -> int:
        # A new row's prompt is cached in full: it has no token yet whose keys are missing.
        return max([row.seen + (not row.tokens) for row in rows], default=0)

    def _append(self, first: int, logits: Tensor) -> list[Row]:
        """Draws the next token of the rows from `first` on, logits (rows, vocabulary); removes those that are done."""
        rows = self.rows[first:]
        done = []
        drawn = sample(logits, rows)
        _note_logprobs(logits, rows, drawn)
        for slot, (row, token) in enumerate(zip(rows, drawn, strict=True), start=first):
            row.tokens.append(token)
            if self._stops(row.tokens):
                row.finish = "stop"
            elif len(row.tokens) >= row.limit:
                row.finish = "length"
            else:
                continue
            done.append(slot)
        finished = [self.rows[slot] for slot in done]
        self._remove(done)
        return finished

    def _remove(self, slots: Sequence[int]) -> None:
        """Takes rows out; the last ones move into their places, so that the batch stays without holes."""
        for slot in reversed(slots):
            last = self.rows.pop()
            if slot < len(self.rows):
                self._cache.move(len(self.rows), slot, last.seen)
                self.rows[slot] = last

    def _read(self, prompts: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Prefix]:
        found = {prompt: prefix for prompt in prompts if (prefix := self._prefixes.get(prompt)) is not None}
        new = sorted((prompt for prompt in prompts if prompt not in found), key=len)
        for group in _by_length(new):
            for prompt, prefix in zip(group, self._prefill(group), strict=True):
                found[prompt] = prefix
                self._prefixes.add(prompt, prefix)
        return found

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> list[Prefix]:
        longest = max(len(prompt) for prompt in prompts)
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        absent = torch.tensor([longest - len(prompt) for prompt in prompts], device=self._device)[:, None]
        columns = torch.arange(longest, device=self._device)
        cache = DynamicCache()
        output = self._model(
            input_ids=torch.tensor(padded, device=self._device),
            position_ids=(columns - absent).clamp(min=0),
            attention_mask=columns >= absent,
            past_key_values=cache,
            use_cache=True,
            **self._last_only,
        )
        return [
            Prefix(
                [
                    (layer.keys[i, :, -len(prompt) :].clone(), layer.values[i, :, -len(prompt) :].clone())
                    for layer in cache.layers
                ],
                output.logits[i, -1].clone(),
            )
            for i, prompt in enumerate(prompts)
        ]


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """The next token of each row, by inversion of the cumulative distribution in the order of token ids.

    Args:
        logits: shape (rows, vocabulary).
        rows: their temperatures, nuclei and random numbers.

    Raises:
        ModelError: the logits are not numbers.
    """
    temperature = torch.tensor([row.temperature for row in rows], dtype=torch.float64, device=logits.device)
    greedy = temperature == 0
    scaled = logits.double() / temperature.masked_fill(greedy, 1.0)[:, None]
    mass = torch.softmax(scaled, dim=-1)
    if any(row.top_p < 1 for row in rows):
        mass = _nucleus(mass, torch.tensor([row.top_p for row in rows], dtype=torch.float64, device=logits.device))
    reached = mass.cumsum(dim=-1)
    if not bool(torch.isfinite(reached[:, -1]).all()):
        raise ModelError("the model's logits are not finite; with half precision, try dtype = 'float32'.")
    drawn = torch.tensor([row.draw() for row in rows], dtype=torch.float64, device=logits.device) * reached[:, -1]
    tokens = (
        (reached <= drawn[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
    )  # rounding can bring a draw up to the total
    if bool(greedy.any()):
        tokens = torch.where(greedy, logits.argmax(dim=-1), tokens)
    return list(map(int, tokens.tolist()))


def _note_logprobs(logits: Tensor, rows: Sequence[Row], tokens: Sequence[int]) -> None:
    """Keeps what the model itself gave the tokens that were drawn, for the rows that want it."""
    wanted = [slot for slot, row in enumerate(rows) if row.logprobs is not None]
    if not wanted:
        return
    chosen = torch.tensor([tokens[slot] for slot in wanted], device=logits.device)
    for slot, value in zip(wanted, logprobs_of(logits[wanted], chosen).tolist(), strict=True):
        kept = rows[slot].logprobs
        assert kept is not None
        kept.append(value)


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of tokens at temperature 1, in nats, float64.

    Args:
        logits: shape (n, vocabulary).
        tokens: shape (n,).
    """
    logits = logits.double()
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)


def _nucleus(mass: Tensor, top_p: Tensor) -> Tensor:
    """`mass` without the tokens outside the smallest set that holds `top_p`; rows with 1 keep all."""
    ordered, order = mass.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    outside = (before >= top_p[:, None]) & (top_p < 1)[:, None]
    return mass.masked_fill(outside.gather(-1, order.argsort(dim=-1)), 0.0)


def _by_length(prompts: Sequence[tuple[int, ...]]) -> Iterable[list[tuple[int, ...]]]:
    """Groups of prompts, shortest first, in which padding is at most about a quarter and the whole fits one reading."""
    group: list[tuple[int, ...]] = []
    for prompt in prompts:
        too_many = len(prompt) * (len(group) + 1) > _PREFILL_TOKENS
        if group and (too_many or 4 * len(group[0]) < 3 * len(prompt)):
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


def _check_cache(model: Any) -> None:
    layers = DynamicCache(config=model.config).layers
    # A sliding window is made by the mask: its keys are all kept here.
    other = {type(layer).__name__ for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)}
    if other or not layers:
        raise ModelError(
            f"{type(model).__name__} keeps a state that cannot be batched here ({', '.join(sorted(other)) or 'none'}); "
            "serve it with vLLM and use chat:openai:NAME instead."
        )
