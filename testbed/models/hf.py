"""Local transformers models, batched over concurrent attempts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import ContextFull, ModelError, ModelUnavailable, UnknownName, UsageError
from testbed.models import hf_files
from testbed.models.base import Reply, Request, Score
from testbed.models.hf_text import TextCodec
from testbed.types import Message, Usage

if TYPE_CHECKING:
    from testbed.models.hf_decode import Decoder
    from testbed.models.hf_worker import Worker

VERSION = "1"
DTYPES = ("float32", "bfloat16", "float16")


class HuggingFace:
    """A causal language model in a directory or on the Hugging Face Hub.

    Requests of concurrent attempts are decoded in one batch, which they join and leave between tokens. What an attempt
    writes depends on the attempt alone: its random numbers are its own, and batch-mates change its logits by rounding
    only (about 1e-5 in float32).

    Args:
        path: directory, or a name on the Hub.
        dtype: "float32", "bfloat16", "float16", or "auto": bfloat16 on a GPU, else float32.
        device: "cpu", "cuda", "cuda:1", or "auto": a GPU where there is one.
        batch: most messages written at once.
        threads: processor threads of one model.
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
        dtype: str = "float32",
        device: str = "auto",
        batch: int = 64,
        threads: int = 1,
        system: str | None = None,
        name: str = "",
    ) -> None:
        if dtype not in (*DTYPES, "auto"):
            raise UnknownName("dtype", str(dtype), (*DTYPES, "auto"))
        for option, value in (("batch", batch), ("threads", threads)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"model: {option} must be a whole number of at least 1, not {value!r}.")
        self.name = name or f"hf:{path}"
        self._path = hf_files.locate(path)
        self._dtype, self._device, self._batch, self._threads, self._system = dtype, device, batch, threads, system
        self._context: int | None = None
        self._vocabulary = 0
        self._codec: TextCodec | None = None
        self._codec_lock = threading.Lock()
        self._worker: Worker | None = None

    def fingerprint(self) -> Mapping[str, Any]:
        """Hashes of weights, settings and tokenizer, and how the model is run and asked; not where its files are."""
        device, dtype = self._placement()
        return {
            "kind": "hf",
            "version": VERSION,
            **hf_files.hashes(self._path),
            "dtype": dtype,
            "device": device.partition(":")[0],
            "system": self._system,
            "rendering": asdict(self.codec.rendering),
        }

    @property
    def codec(self) -> TextCodec:
        """The tokenizer, loaded when first needed."""
        with self._codec_lock:
            if self._codec is None:
                tokenizer = hf_files.load_tokenizer(self._path, self.name)
                stops = hf_files.stop_ids(self._path, tokenizer)
                self._codec = TextCodec(tokenizer, stops, self._system, self.name)
            return self._codec

    def count(self, text: str) -> int:
        """Tokens of `text`, none added."""
        return (self._codec or self.codec).count(text)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Token ids of a conversation up to where the model goes on: what it is given for its next message.

        Raises:
            ModelError: the chat template refuses the conversation.
        """
        return self.codec.prompt(messages, tools)

    async def start(self) -> None:
        """Loads the model.

        Raises:
            ModelError: its files cannot be read.
        """
        if self._worker is None:
            from testbed.models.hf_worker import Worker

            self._worker = Worker(self._load)
        await asyncio.shield(asyncio.wrap_future(self._worker.ready))

    async def generate(self, request: Request) -> Reply:
        """Writes the next message.

        Raises:
            ModelError: the conversation does not fit the model's context, or its chat template refuses it.
            ModelUnavailable: memory ran out.
        """
        worker = await self._started()
        from testbed.models.hf_decode import Row

        begun = time.monotonic()
        prompt = self.codec.prompt(request.messages, request.tools)
        sampling = request.sampling
        limit = self._limit(prompt, request.max_tokens)
        row = Row(prompt, limit, sampling.temperature, sampling.top_p, request.stream, request.position)
        row.logprobs = [] if request.logprobs else None
        row = await worker.decode(row)
        usage = Usage(len(prompt), len(row.tokens), time.monotonic() - begun)
        logprobs = None if row.logprobs is None else tuple(row.logprobs)
        return Reply(self.codec.decode(row.tokens), usage, row.finish, logprobs)

    async def score(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], which: Sequence[int]
    ) -> list[Score]:
        """See `testbed.models.base.Scorer.score`.

        Raises:
            ModelError: the conversation does not fit the model's context, its chat template refuses it or does not show
                its messages word for word, or the tokenizer does not say where its tokens begin and end.
            ModelUnavailable: memory ran out.
        """
        worker = await self._started()
        tokens, spans = self.codec.spans(messages, tools, which)
        if self._context is not None and len(tokens) > self._context:
            raise ContextFull(f"the conversation has {len(tokens)} tokens, and {self.name} takes {self._context}.")
        logprobs = await worker.score(tokens)
        return [Score(n, tuple(logprobs[i] for i in span)) for n, span in zip(which, spans, strict=True)]

    async def aclose(self) -> None:
        """Ends the model's thread and frees the model."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()

    async def _started(self) -> Worker:
        if self._worker is None or not self._worker.ready.done():
            await self.start()
        if self._worker is None:  # meanwhile
            raise ModelUnavailable(f"{self.name} was closed.")
        return self._worker

    def _limit(self, prompt: Sequence[int], wanted: int) -> int:
        """Most tokens of the reply: what is wanted, or what the context leaves."""
        if max(prompt) >= self._vocabulary:
            raise ModelError(f"{self.name}: its tokenizer makes tokens that the model does not know; do they match?")
        if self._context is None:
            return wanted
        if len(prompt) >= self._context:
            raise ContextFull(
                f"the conversation has {len(prompt)} tokens, and {self.name} takes {self._context} with the reply. "
                "Limit tool output (budget: observed_tokens), the turns, or use a model with a longer context."
            )
        return min(wanted, self._context - len(prompt))

    def _load(self) -> Decoder:
        import torch

        from testbed.models.hf_decode import Decoder

        torch.set_num_threads(self._threads)
        device, dtype = self._placement()
        codec = self.codec
        model = hf_files.load_model(self._path, self.name, dtype, device)
        self._context = hf_files.context_length(model.config)
        self._vocabulary = model.get_input_embeddings().num_embeddings
        return Decoder(model, codec.stops, self._batch)

    def _placement(self) -> tuple[str, str]:
        """Device and dtype, "auto" decided."""
        import torch

        device = self._device
        gpus = torch.cuda.device_count()
        if device == "auto":
            device = "cuda" if gpus else "cpu"
        try:
            kind = torch.device(device)
        except RuntimeError:
            raise UnknownName("device", device, ("auto", "cpu", "cuda")) from None
        if kind.type == "cuda" and (kind.index or 0) >= gpus:
            raise ModelError(
                f"{self.name}: device {device!r} was asked for, and this machine has {gpus} GPUs; use device = 'auto'."
            )
        gpu = kind.type != "cpu"
        return device, (("bfloat16" if gpu else "float32") if self._dtype == "auto" else self._dtype)
