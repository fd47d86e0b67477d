"""Local transformers models, batched over concurrent attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import ContextFull, ModelError, ModelUnavailable, UsageError
from testbed.models import hf_files, hf_placement
from testbed.models.base import Reply, Request, Score
from testbed.models.hf_placement import Placement, Replicas
from testbed.models.hf_text import TextCodec
from testbed.models.hf_turns import turn_on
from testbed.models.template_file import naming_template
from testbed.types import Message, Usage

if TYPE_CHECKING:
    from testbed.models.hf_decode import Decoder, Row

VERSION = "1"


class HuggingFace:
    """A causal language model in a directory or on the Hugging Face Hub.

    Requests of concurrent attempts are decoded in one batch, which they join and leave between tokens. What an attempt
    writes depends on the attempt alone: its random numbers are its own, and batch-mates change its logits by rounding
    only (about 1e-5 in float32).

    Args:
        path: directory, or a name on the Hub.
        dtype: "float32", "bfloat16", "float16", or "auto": bfloat16 on GPUs that compute in it, else float32.
        device: "cpu", "cuda", "cuda:1", or "auto": GPUs where there are any.
        replicas: how many copies of the model share the attempts, each on a GPU of its own (or all on the CPU), or
            "auto": one on every GPU of the first one's kind.
        batch: most messages that one copy writes at once; fewer where they would not fit in its memory.
        context: most tokens of a conversation with its reply, where that is to be less than the model takes.
        memory: GiB that one copy may use for keys and values, or "auto": half of what is free, on a GPU four fifths.
        threads: processor threads of one copy.
        system: system text in place of the instruction to answer in tags; "" for none.
        name: how the experiment names it.

    Raises:
        UsageError: an option has a wrong value.
        ModelError: `path` holds no model.
    """

    reproducible = True
    priced = False
    gives_logprobs = True

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: str = "auto",
        device: str = "auto",
        replicas: int | str = "auto",
        batch: int = 256,
        context: int | None = None,
        memory: float | str = "auto",
        threads: int = 1,
        system: str | None = None,
        name: str = "",
    ) -> None:
        hf_placement.check(dtype, replicas)
        for option, value in (("batch", batch), ("threads", threads), ("context", 1 if context is None else context)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"model: {option} must be a whole number of at least 1, not {value!r}.")
        if memory != "auto" and (not isinstance(memory, int | float) or isinstance(memory, bool) or not memory > 0):
            raise UsageError(f"model: memory must be GiB above 0, or 'auto', not {memory!r}.")
        self.name = name or f"hf:{path}"
        self._path = hf_files.locate(path)
        self._dtype, self._device, self._replicas = dtype, device, replicas
        self._batch, self._threads, self._system = batch, threads, system
        self._shortened, self._memory = context, memory
        self._context: int | None = None
        self._own_context: int | None = None
        self._vocabulary = 0
        self._codec: TextCodec | None = None
        self._tokenizer: Any = None  # the codec's
        self._codec_lock = threading.Lock()
        self._loading = threading.Lock()
        self._workers: Replicas | None = None

    def fingerprint(self) -> Mapping[str, Any]:
        """Hashes of weights, settings and tokenizer, and how the model is run and asked; not where its files are."""
        placement = self._placement()
        return {
            "kind": "hf",
            "version": VERSION,
            **hf_files.hashes(self._path),
            "dtype": placement.dtype,
            "device": placement.kind,
            "system": self._system,
            "rendering": asdict(self.codec.rendering),
            **({} if self._shortened is None else {"context": self._shortened}),
        }

    def tokenization(self) -> Mapping[str, str]:
        """See `testbed.models.hf_files.tokenization`: what a difference of tokenizers' files comes to."""
        return hf_files.tokenization(self._tokenizer) if self.codec else {}

    @property
    def codec(self) -> TextCodec:
        """The tokenizer, loaded when first needed."""
        with self._codec_lock:
            if self._codec is None:
                tokenizer = self._tokenizer = hf_files.load_tokenizer(self._path, self.name)
                stops = hf_files.stop_ids(self._path, tokenizer)
                self._codec = TextCodec(tokenizer, stops, self._system, self.name)
            return self._codec

    def count(self, text: str) -> int:
        """Tokens of `text`, none added."""
        return (self._codec or self.codec).count(text)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Token ids of a conversation up to where the model goes on: what it is given for its next message.

        Raises:
            ModelError: the chat template refuses the conversation; names its file.
        """
        codec = self.codec
        with naming_template(self._path):
            return codec.prompt(messages, tools)

    def too_long(self, text: str, tools: Sequence[Mapping[str, Any]]) -> str:
        """Why the started model cannot answer a task's prompt: it fills the context; empty where it can."""
        tokens = len(self.prompt([{"role": "user", "content": text}], tools))
        if self._context is None or tokens < self._context:
            return ""
        told = f"the prompt {text[:40]!r}…{' with what is said of the tools' if tools else ''} has {tokens} tokens"
        return f"{told}, and {self.name} takes {self._context} with the reply; {self._longer()}"

    async def start(self) -> None:
        """Loads the model.

        Raises:
            ModelError: its files cannot be read, or memory holds no message as long as its context.
        """
        if self._workers is None:
            from testbed.models.hf_worker import Worker

            placement = self._placement()
            workers = [Worker(partial(self._load, on, placement), turn_on(on)) for on in placement.devices]
            self._workers = Replicas(workers)
        await self._workers.start()

    async def generate(self, request: Request) -> Reply:
        """Writes the next message.

        Raises:
            ModelError: the conversation does not fit the model's context, or its chat template refuses it.
            ModelUnavailable: memory ran out.
        """
        row, usage = await self._write(request, self.prompt(request.messages, request.tools))
        full = row.finish == "length" and row.limit < request.max_tokens
        return Reply(self.codec.decode(row.tokens), usage, "context" if full else row.finish, _logprobs(row))

    async def imagine(self, request: Request) -> Reply:
        """See `testbed.models.base.Imaginer.imagine`."""
        from testbed.models.hf_imagine import closes, open_result, result_of

        opened = open_result(self.codec, request.messages, request.tools)
        row, usage = await self._write(request, opened.prompt, partial(closes, self.codec, opened))
        return Reply(result_of(self.codec, opened, row.tokens), usage, row.finish, _logprobs(row))

    async def _write(
        self, request: Request, prompt: tuple[int, ...], stops: Callable[[Sequence[int]], bool] | None = None
    ) -> tuple[Row, Usage]:
        """What the model writes after a prompt, and what that took; `stops` in place of a message's own ends."""
        workers = await self._started()
        from testbed.models.hf_decode import Row

        begun = time.monotonic()
        sampling = request.sampling
        limit = self._limit(prompt, request)
        row = Row(prompt, limit, sampling.temperature, sampling.top_p, request.stream, request.position)
        row.logprobs = [] if request.logprobs else None
        row.stops = stops
        row.keep = bool(request.tools) or request.position > 0  # the attempt may go on
        row = await workers.decode(row)
        return row, Usage(len(prompt), len(row.tokens), time.monotonic() - begun, share=row.share)

    async def score(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], which: Sequence[int]
    ) -> list[Score]:
        """See `testbed.models.base.Scorer.score`.

        Raises:
            ModelError: the conversation does not fit the model's context, its chat template refuses it or does not show
                its messages word for word, or the tokenizer does not say where its tokens begin and end.
            ModelUnavailable: memory ran out.
        """
        from testbed.models.hf_imagine import closings

        workers = await self._started()
        tokens, spans = self.codec.spans(messages, tools, which)
        if self._context is not None and len(tokens) > self._context:
            raise ContextFull(f"the conversation has {len(tokens)} tokens, and {self.name} takes {self._context}.")
        found = await workers.score(tokens)
        results = [n for n in which if messages[n]["role"] == "tool"]
        closed = dict(zip(results, closings(self.codec, messages, tools, results), strict=True)) if results else {}
        scores = []
        for n, span in zip(which, spans, strict=True):
            ends = found.ends[span[-1]] if span and found.ends else None
            if not span and messages[n]["role"] == "assistant":  # it ended at once, where the model was to go on
                ends = next(reversed((await workers.score(self.codec.prompt(messages[:n], tools))).ends), None)
            if n in closed:
                ends = sum(found.logprobs[i] for i in closed[n]) if closed[n] else None
            scores.append(Score(n, tuple(found.logprobs[i] for i in span), ends))
        return scores

    async def aclose(self) -> None:
        """Ends the model's threads and frees the model."""
        workers, self._workers = self._workers, None
        if workers is not None:
            from testbed.models import hf_memory

            await workers.close()
            hf_memory.release(self)

    async def _started(self) -> Replicas:
        if self._workers is None or not self._workers.ready:
            await self.start()
        if self._workers is None:  # meanwhile
            raise ModelUnavailable(f"{self.name} was closed.")
        return self._workers

    def _limit(self, prompt: Sequence[int], request: Request) -> int:
        """Most tokens of the reply: what is wanted, or what the context leaves."""
        if max(prompt) >= self._vocabulary:
            raise ModelError(f"{self.name}: its tokenizer makes tokens that the model does not know; do they match?")
        if self._context is None:
            return request.max_tokens
        if len(prompt) >= self._context:
            raise ContextFull(
                f"the conversation has {len(prompt)} tokens, and {self.name} takes {self._context} with the reply. "
                f"{self._longer().capitalize()}{_or_less(request)}."
            )
        return min(request.max_tokens, self._context - len(prompt))

    def _longer(self) -> str:
        """What to do where the context is full."""
        if self._shortened is None or self._shortened == self._own_context:
            return "use a model with a longer context"
        own = "" if self._own_context is None else f" (the model takes {self._own_context})"
        return f"raise context = {self._shortened} in the model's options{own}, or leave it out"

    def _load(self, device: str, placement: Placement) -> Decoder:
        import torch

        from testbed.models import hf_memory
        from testbed.models.hf_decode import Decoder

        torch.set_num_threads(self._threads)
        codec = self.codec
        with self._loading:  # transformers changes the process's defaults meanwhile
            model = hf_files.load_model(self._path, self.name, placement.dtype, device)
        own = hf_files.context_length(model.config)
        if own is not None and self._shortened is not None and self._shortened > own:
            raise ModelError(
                f"{self.name}: context = {self._shortened} was asked for, and the model takes {own} tokens; leave "
                f"context out, or give it at most {own}."
            )
        steady = hf_files.steady_length(model.config)
        self._own_context = own if steady is None else steady
        self._context = own if self._shortened is None else self._shortened
        if steady is not None and (self._context is None or self._context > steady):
            raise ModelError(
                f"{self.name} takes positions from a batch's longest text where it has more than {steady} tokens, so "
                f"that attempts would depend on one another. Give the model context = {steady} (it then is another "
                "model to the comparison), or serve it and use chat:openai:NAME."
            )
        self._vocabulary = model.get_input_embeddings().num_embeddings
        memory = hf_memory.granted(self._memory, model.device, placement.devices.count(device), self)
        decoder = Decoder(model, codec.stops, self._batch, memory, codec.end_ids)
        decoder.room.check(self.name, self._context)
        return decoder

    def _placement(self) -> Placement:
        return hf_placement.place(self.name, self._device, self._dtype, self._replicas)


def _logprobs(row: Row) -> tuple[float, ...] | None:
    return None if row.logprobs is None else tuple(row.logprobs)


def _or_less(request: Request) -> str:
    """What may help besides, of a conversation in which tools said something."""
    if not any(message["role"] == "tool" for message in request.messages):
        return ""
    return "; where tools said much, limit that (budget: observed_tokens)"
