"""Tokenizer and chat template of the reference model.

Names are split into open syllables, numbers into digits, and the skeleton of a tool call into three pieces, so that
a call costs few tokens and a name is copied in few, distinct steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

SPECIAL = (
    "<pad>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_result>",
    "</tool_result>",
    "<answer>",
    "</answer>",
)
CHAT_TEMPLATE = (
    "<|system|>tools: {% if tools %}{% for tool in tools %}{{ (tool.function or tool).name }}"
    "{% if not loop.last %} {% endif %}{% endfor %}{% else %}none{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}<tool_result>{{ message.content }}</tool_result>"
    "{% elif message.role == 'assistant' %}<|assistant|>{{ message.content }}"
    "{% if not (message.content.endswith('</tool_call>') or message.content.endswith('</answer>')) %}<|end|>{% endif %}"
    "{% else %}<|{{ message.role }}|>{{ message.content }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_CONSONANTS = "b-df-hj-np-tv-z"
_VOWELS = "aeiouy"
_PIECES = "|".join(
    (
        r'\{"name":"',
        r'","arguments":\{"(?:code|query)":"',
        r'"\}\}',
        r"print\(",
        # Names of tools stand alone, so that any set of them reads alike in any order.
        r" ?(?:python|search|retrieve|none)(?![a-z])",
        # Phrases: one of the templates' first words and more, or lower-case words that do not continue a name.
        r"(?:The|Who|What|Which|When|How|Reply|No)(?: [a-z]+)* ?(?![a-z])",
        r"(?: |(?<![A-Za-z]))[a-z]+(?: [a-z]+)* ?",
        # Syllables of names: an onset with its vowels; what is left of a name is a coda.
        rf"[A-Z]?[{_CONSONANTS}]*[{_VOWELS}]+|[AEIOUY][{_VOWELS}]*",
        rf"[A-Z]?[{_CONSONANTS}]+|[A-Z]",
        r"\d",
        r"\n?\[d",
        r"\] ?",
        r"\s+",
        r"[^\sA-Za-z\d]+?",
    )
)


def make_tokenizer(texts: Iterable[str], vocabulary: int = 768) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on rendered transcripts.

    Args:
        texts: Transcripts, as `Transcript.render` returns them.
        vocabulary: Size of the vocabulary, special tokens and the 256 bytes included.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    specials = re.compile("|".join(re.escape(special) for special in SPECIAL))
    tokenizer.train_from_iterator((part for text in texts for part in specials.split(text) if part), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=[special for special in SPECIAL if special not in ("<pad>", "<|end|>")],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
