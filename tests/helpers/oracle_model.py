"""A transformers model, made by hand, that plays the m-bit oracle and knows nothing of the bits.

Bare it guesses m digits, each 0 or 1 with probability one half. With a tool it asks, and answers with what it is told,
word for word: an attention head looks at the digit at its place. Of what it is told, the words are certain to it and
the digits are not, so that reading them takes m ln 2 nats and not a bit more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers.tiny_models import save

CALL = '<tool_call>{"name":"ask","arguments":{"text":"?"}}</tool_call>'
TOLD = "The code begins with "
MARKERS = ["<unk>", "<|tools|>", "<|bare|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]
VOCABULARY = [*MARKERS, CALL, "<answer>", "</answer>", TOLD, "0", "1", "."]
ID = {token: n for n, token in enumerate(VOCABULARY)}
POSITIONS = 64
# A message is a marker, its text and an end; the task's text is one unknown token, and so are the tools' names.
TEMPLATE = (
    "{% if tools %}<|tools|>{% for tool in tools %}{{ tool.function.name }}{% endfor %}"
    "{% else %}<|bare|>none{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}{# calls are written as <tool_call> #}"
)
ASKED = 5  # where the marker stands that the model goes on from


def oracle_player(path: Path, bits: int) -> Path:
    """The model for codes of `bits` digits that are all told, saved in a folder."""
    size = len(VOCABULARY) + POSITIONS + 4
    config = GPT2Config(
        vocab_size=len(VOCABULARY), n_positions=POSITIONS, n_embd=size, n_layer=1, n_head=1, n_inner=1,
        bos_token_id=None, eos_token_id=ID["<|end|>"], tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        _write(model, bits)
    return save(model, _tokenizer(), path)


def _write(model: Any, bits: int) -> None:
    """Sets the weights: a direction for every token, every place, either way of being asked, and either digit."""
    words, size = len(VOCABULARY), model.config.n_embd
    by_tools, by_none, copied = words + POSITIONS, words + POSITIONS + 1, (size - 2, size - 1)
    block, body = model.transformer.h[0], model.transformer
    body.wte.weight[:, :words] = torch.eye(words)
    body.wpe.weight[:, words : words + POSITIONS] = torch.eye(POSITIONS)
    _transparent(block.ln_1, 2, size)  # a token and a place
    _transparent(body.ln_f, 3, size)  # … and what the head saw: how it was asked, or a digit
    answer = 13 + bits  # where the answer's tag stands, once told; the digits were told from 10 on
    query, value = block.attn.c_attn.weight[:, :size], block.attn.c_attn.weight[:, 2 * size :]
    for place in range(POSITIONS):
        looks_at = place - answer + 10 if answer <= place < answer + bits else 0
        query[words + place, words + looks_at] = 100.0 * size**0.5
        block.attn.c_attn.weight[words + place, size + words + place] = 1.0
    for token, seen in (("<|tools|>", by_tools), ("<|bare|>", by_none), ("0", copied[0]), ("1", copied[1])):
        value[ID[token], seen] = 1.0
        block.attn.c_proj.weight[seen, seen] = 1.0
    says = model.lm_head.weight

    def then(seen: int, token: str, logit: float) -> None:
        says[ID[token], seen] += logit

    for before, after in ((CALL, "<|end|>"), ("<|tool|>", TOLD), (".", "<|end|>")):
        then(ID[before], after, 80)
    for before in ("<answer>", TOLD, "0", "1"):
        for digit, seen in zip("01", copied, strict=True):
            then(ID[before], digit, 80)
            then(seen, digit, 5)  # four times over, once for each `before`
    for token, seen in ((CALL, by_tools), ("<answer>", by_none)):
        then(words + ASKED, token, 100)
        then(seen, token, 20)
    then(by_none, "</answer>", 50)
    then(words + 6 + bits, "</answer>", 50)  # both together end a guess; told, a digit follows at that place
    then(words + 9 + bits, ".", 100)
    then(words + answer - 1, "<answer>", 100)
    then(words + answer + bits, "</answer>", 100)


def _transparent(norm: Any, ones: int, size: int) -> None:
    """Makes a layer's normalisation give back what it takes, of vectors with so many ones and else zeros."""
    mean = ones / size
    norm.weight.fill_((mean - mean**2 + norm.eps) ** 0.5)
    norm.bias.fill_(mean)


def _tokenizer() -> Any:
    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    tokenizer.add_special_tokens(MARKERS)
    whole = r"Vault .*?alone\.|<tool_call>.+?</tool_call>|</?answer>|The code begins with |[01]|\."
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(whole), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast
