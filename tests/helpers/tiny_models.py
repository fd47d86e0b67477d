"""Tiny models, made when asked for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from testbed.models import Reply, Request
from testbed.models.hf import HuggingFace
from testbed.models.hf_decode import Decoder, Row
from testbed.models.hf_text import TextCodec

TEMPLATE = (
    "{% if tools %}<|system|>tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %} in <tool_call></tool_call>"
    "{% endif %}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_TOOLS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
TURNS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
TOOL = {"type": "function", "function": {"name": "lookup", "description": "d", "parameters": {"type": "object"}}}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4}


has_reference = pytest.mark.skipif(
    not (Path(__file__).parents[2] / "testbed" / "models" / "reference" / "model.safetensors").is_file(),
    reason="the reference model's weights are not in this checkout",
)


def make_tokenizer(template: str | None = TEMPLATE) -> Any:
    """Byte-level BPE, in which the protocol's tags are ordinary text of several tokens."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(400)]
    texts = [" ".join(rng.choices(words, k=30)) + " What is 12*34? <answer>" for _ in range(50)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", *TURNS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|end|>")
    fast.chat_template = template
    return fast


def random_model(kind: str = "llama", context: int = 512) -> Any:
    """Random weights, spread so that next-token distributions are neither flat nor certain."""
    torch.manual_seed(0)
    common = {"vocab_size": 400, "bos_token_id": None, "eos_token_id": 5, "pad_token_id": 0}
    model: Any
    if kind == "gpt2":
        config = GPT2Config(n_positions=context, n_embd=32, n_layer=2, n_head=4, **common)
        model = GPT2LMHeadModel(config)
    elif kind == "mistral":
        config = MistralConfig(
            num_key_value_heads=2, max_position_embeddings=context, sliding_window=9, **SIZES, **common
        )
        model = MistralForCausalLM(config)
    else:
        config = LlamaConfig(num_key_value_heads=2, max_position_embeddings=context, **SIZES, **common)
        model = LlamaForCausalLM(config)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.4)
    return model.eval()


def countable(seed: int, *, std: float = 0.3) -> Any:
    """A model of five tokens, all of whose short sequences can be listed; chances differ more with a greater `std`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=std)
    return model


def save(model: Any, tokenizer: Any, path: Path) -> Path:
    logging.disable_progress_bar()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def parrot(path: Path, reply: Sequence[int], tokenizer: Any) -> Path:
    """A model that replies to `ask()` with these tokens and then repeats the last one for ever.

    It has a learned position for each dimension and nothing else, so that the position alone decides the token.
    """
    begin = len(TextCodec(tokenizer, [5], None, "parrot").prompt(ask().messages, ())) - 1
    positions = 128
    common = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 5, "tie_word_embeddings": False}
    model = GPT2LMHeadModel(GPT2Config(n_positions=positions, n_embd=positions, n_layer=1, n_head=1, **common))
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(torch.eye(positions))
        model.transformer.ln_f.weight.fill_(1.0)
        for at in range(positions):
            model.lm_head.weight[reply[min(max(at - begin, 0), len(reply) - 1)], at] = 100.0
    return save(model, tokenizer, path)


def ask(content: str = "Go.", **fields: Any) -> Request:
    return Request([{"role": "user", "content": content}], **fields)


async def reply_of(path: Path, request: Request, **options: Any) -> Reply:
    model = HuggingFace(path, device="cpu", **options)
    try:
        return await model.generate(request)
    finally:
        await model.aclose()


def rows(n: int, prompt: int = 10, limit: int = 30) -> list[Row]:
    """Messages of one prompt, each of an attempt of its own."""
    return [Row(tuple(range(6, 6 + prompt)), limit, stream=stream) for stream in range(n)]


def never(tokens: Sequence[int]) -> bool:
    return False


def decode(model: Any, rows: Sequence[Row], slots: int = 64, stops: Callable[[Sequence[int]], bool] = never) -> None:
    decoder, waiting = Decoder(model, stops, slots), list(rows)
    while waiting or decoder.rows:
        now, waiting = waiting[: decoder.free], waiting[decoder.free :]
        if now:
            decoder.admit(now)
        if decoder.rows:
            decoder.step()
