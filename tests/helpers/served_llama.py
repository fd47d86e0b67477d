"""llama.cpp with a Llama of transformers: weights and tokenizer as GGUF, and llama-cpp-python's server over them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from helpers.processes import end
from testbed.models.hf_text import MARKUP

PATIENCE = 60  # seconds until it must be up
MISSING = [name for name in ("llama_cpp", "gguf", "sse_starlette", "starlette_context") if find_spec(name) is None]
needs_llama_cpp = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install 'llama-cpp-python[server]' gguf"
)


def write_gguf(folder: Path, path: Path, *, pre: str = "gpt-2") -> Path:
    """The Llama and the byte-level tokenizer of a folder, in float32.

    Args:
        folder: a model as transformers saves it.
        path: the file to be written.
        pre: which of llama.cpp's rules splits texts into words; it knows no others.
    """
    from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, tokenizer, config.vocab_size, pre)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        rotated = next((heads[part] for part in name.split(".") if part in heads), 0)
        written = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(written, (_interleaved(weight, rotated) if rotated else weight).float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any, size: int, pre: str) -> None:
    from gguf import TokenType

    told = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = {id: piece for piece, id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    kinds = [  # the server shows no control tokens, so the protocol's tags are none
        (TokenType.CONTROL if added[id].special and added[id].content not in MARKUP else TokenType.USER_DEFINED)
        if id in added
        else (TokenType.NORMAL if id in pieces else TokenType.UNUSED)
        for id in range(size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([pieces.get(id, f"[unused {id}]") for id in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in told["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _interleaved(weight: Any, heads: int) -> Any:
    """llama.cpp turns neighbouring rows of a head together, transformers rows half a head apart."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


@contextmanager
def served_llama(path: Path, *options: str) -> Iterator[str]:
    """The base URL of llama-cpp-python's server, which is there until the end of the block."""
    log = path.with_suffix(".log")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path), "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--n_threads", "1", *options], stdout=output, stderr=output, cwd=path.parent
        )
    try:
        yield f"http://127.0.0.1:{_port(process, log)}/v1"
    finally:
        end(process)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"running on http://[\d.]+:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.1)
    raise AssertionError(f"llama-cpp-python's server is not up: {log.read_text()[-2000:]}")
