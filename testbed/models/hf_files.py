"""A local model's files: found, hashed and loaded, with errors that name what is wrong."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from testbed.edges import Foreign
from testbed.errors import ModelError, did_you_mean
from testbed.types import digest

WEIGHTS = ("*.safetensors", "*.bin")
SETTINGS = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Of these, some file holds a tokenizer's vocabulary, whatever else its kind needs.
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab*", "merges.txt", "*.tiktoken", "tekken.json")
# What may stand beside a language model's weights without a say in what it writes: parts for other inputs, heads for
# other outputs, and masks and positions' waves, which older versions of transformers saved.
_APART = re.compile(
    r"(^|\.)(vision_\w+|visual|audio_\w+|multi_modal_projector|mtp|v_head)\."
    r"|(^|\.)attn\.(attention\.)?((masked_)?bias|causal_mask|embed_positions)$"
    r"|(^|\.)(inv_freq|embed_positions\.weights|decoder\.version|position_ids)$"
)
_UNREACHED = re.compile("LocalEntryNotFound|Connect|Timeout|Proxy|NetworkError|OfflineMode")  # of the Hub's client


def locate(name: str | Path) -> Path:
    """The directory of a model: a local one, or a copy from the Hugging Face Hub.

    Raises:
        ModelError: there is no such directory and the Hub does not give one, or it holds no model.
    """
    try:
        path = Path(name).expanduser()
        there = path.exists()
    except (OSError, RuntimeError) as error:  # too long, not to be looked into, or of a user that there is not
        raise ModelError(f"{str(name)!r} cannot be looked for as a model directory: {_first_line(error)}.") from error
    if not there and _may_be_on_the_hub(str(name)):
        path = _fetch(str(name))
    if path.is_file():
        raise ModelError(f"{str(name)!r} is a file; give the directory that holds config.json and weights.")
    if not path.is_dir():
        raise ModelError(
            f"there is no model directory {str(name)!r}; give a directory with config.json and weights.{_near(path)}"
        )
    if not (path / "config.json").is_file():
        raise ModelError(f"{str(name)!r} is not a model directory: it has no config.json.{_adapter(path)}")
    if not weight_files(path):
        raise ModelError(f"{str(name)!r} has no weights (*.safetensors or *.bin); was the download complete?")
    return path


def weight_files(path: Path) -> list[Path]:
    """The files with the weights; safetensors where there are any."""
    return next((found for pattern in WEIGHTS if (found := sorted(path.glob(pattern)))), [])


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 over the weights, the settings and the tokenizer; the directory's own name has no part in it."""
    groups = {
        "weights": weight_files(path),
        "config": [path / file for file in SETTINGS],
        "tokenizer": [path / file for file in TOKENIZER],
    }
    return {group: _combined(files) for group, files in groups.items()}


def tokenization(tokenizer: Any) -> dict[str, str]:
    """Hashes of what tokens and prompts depend on, whatever else a tokenizer's files say; empty where it is not told.

    "tokens" is how a text becomes tokens and tokens a text, "template" how a conversation becomes a text.
    """
    written = getattr(getattr(tokenizer, "backend_tokenizer", None), "to_str", None)
    if written is None:
        return {}
    template = tokenizer.chat_template
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    words = {name: word for name, word in tokenizer.special_tokens_map.items() if name in str(template)}
    return {
        "tokens": digest([written(), sorted(special | set(tokenizer.all_special_ids)), tokenizer.eos_token_id]),
        "template": digest([template, words]),
    }


def load_tokenizer(path: Path, name: str) -> Any:
    """The directory's tokenizer.

    Raises:
        ModelError: it has none, or its files cannot be read.
    """
    return read_tokenizer(str(path), f"the tokenizer of {name} cannot be loaded from {str(path)!r}", fetch=False)


def read_tokenizer(place: str, failed: str, *, fetch: bool) -> Any:
    """A tokenizer of transformers.

    Args:
        place: a directory, or a name on the Hub.
        failed: what is said where it cannot be had.
        fetch: whether it may be fetched from the Hub.

    Raises:
        ModelError: there is none, or its files cannot be read.
    """
    from transformers import AutoTokenizer

    def told(error: Exception) -> ModelError:
        why = _no_tokenizer(Path(place)) or _broken_json(Path(place)) or f"{_first_line(error)}."
        return ModelError(f"{failed}: {why}")

    with Foreign(told):  # malformed files raise bare Exception
        return AutoTokenizer.from_pretrained(place, local_files_only=not fetch)


def load_model(path: Path, name: str, dtype: str, device: str) -> Any:
    """The directory's causal language model, ready for inference.

    Raises:
        ModelError: the files are corrupt, incomplete, of another model than config.json's, or of an architecture that
            transformers does not know.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    remedy = "Check that the files are whole (compare their sizes with the source) and fetch them again if not."
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, EOFError) as error:
        raise ModelError(
            f"the model {name} cannot be loaded from {str(path)!r}: {_first_line(error)}. {remedy}"
        ) from error
    if other := sorted(info["mismatched_keys"]):
        tensor, stored, wanted = other[0]
        raise ModelError(
            f"the weights of {name} in {str(path)!r} are not those of its config.json: {tensor!r} has the shape "
            f"{list(stored)}, and config.json makes it {list(wanted)} ({len(other)} such tensors in all). Give the "
            "directory the config.json that was saved with these weights."
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"the weights of {name} in {str(path)!r} lack {missing[0]!r} ({len(missing)} tensors in all). {remedy}"
        )
    if spare := sorted(key for key in info["unexpected_keys"] if not _APART.search(key)):
        raise ModelError(
            f"the weights of {name} in {str(path)!r} hold {spare[0]!r}, for which the model of its config.json has no "
            f"place ({len(spare)} such tensors in all): without them it is another model. Give the directory the "
            "config.json that was saved with these weights, or save the weights without them."
        )
    return model.to(device).eval()


def context_length(config: Any) -> int | None:
    """Most tokens that a model takes, prompt and reply together; None where it sets no limit."""
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def steady_length(config: Any) -> int | None:
    """Tokens up to which no text changes another's positions in a batch; None where none ever does.

    Some models turn positions by frequencies that follow the longest text they are given at once.
    """
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    bounds = []
    for each in [rope, *(value for value in rope.values() if isinstance(value, dict))]:  # some have them by layer
        if each.get("rope_type") == "longrope":
            bounds.append(each.get("original_max_position_embeddings") or text.max_position_embeddings)
        elif "dynamic" in str(each.get("rope_type")):
            bounds.append(text.max_position_embeddings)
    return min(bounds, default=None)


def stop_ids(model_path: Path, tokenizer: Any) -> list[int]:
    """The tokens that end a message: those of generation_config.json, of config.json, and the tokenizer's own."""
    found = {tokenizer.eos_token_id}
    for file in SETTINGS:
        if (model_path / file).is_file():
            value = read_json(model_path / file).get("eos_token_id")
            found |= set(value) if isinstance(value, list) else {value}
    return sorted(token for token in found if isinstance(token, int))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it cannot be read, or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r} cannot be read: {_first_line(error)}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{str(path)!r} holds no JSON object.")
    return value


def _may_be_on_the_hub(name: str) -> bool:
    return name.count("/") <= 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    def told(error: Exception) -> ModelError:
        unreached = any(_UNREACHED.search(cls.__name__) for cls in type(error).__mro__)
        what = "could not be reached to ask for it" if unreached else "gives no such model"
        why = _first_line(error).removeprefix("Got: ")
        return ModelError(
            f"{name!r} is no directory here, and the Hugging Face Hub {what}: {why}.{_near(Path(name).expanduser())}"
        )

    with Foreign(told):  # its client lets some errors of the network through as they are
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        path = Path(snapshot_download(name, allow_patterns=patterns))
        return path if weight_files(path) else Path(snapshot_download(name, allow_patterns=[*patterns, "*.bin"]))


def _near(path: Path) -> str:
    """Says which model directory beside one that is not there is nearest; "" where none is."""
    beside = [each.parent.name for each in path.parent.glob("*/config.json")]
    found = did_you_mean(path.name, beside)
    near = next((name for name in beside if found == f" Did you mean {name!r}?"), None)
    return "" if near is None else f" Did you mean {str(path.with_name(near))!r}?"


def _no_tokenizer(path: Path) -> str:
    """What a model's directory lacks to have a tokenizer; "" where one of its files holds a vocabulary."""
    if not path.is_dir() or any(next(path.glob(pattern), None) for pattern in _VOCABULARIES):
        return ""
    lacking = [file for file in ("tokenizer.json", "tokenizer_config.json") if not (path / file).is_file()]
    return (
        f"the folder lacks {' and '.join(lacking)}. Save the tokenizer there: tokenizer.save_pretrained({str(path)!r})."
    )


def _broken_json(path: Path) -> str:
    """Which of a directory's files a tokenizer is read from is no JSON; "" where all are."""
    for file in (*TOKENIZER, *SETTINGS):
        if file.endswith(".json") and (path / file).is_file():
            try:
                read_json(path / file)
            except ModelError as error:
                return str(error)
    return ""


def _adapter(path: Path) -> str:
    """What to do with a directory that holds an adapter and no model; "" where it holds none."""
    if not (path / "adapter_config.json").is_file():
        return ""
    return (
        " It holds an adapter (PEFT) alone: load it with its base model and save both as one, with "
        "model.merge_and_unload().save_pretrained(DIRECTORY), and the tokenizer beside them."
    )


def _combined(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        if file.is_file():
            state = file.stat()
            whole.update(f"{file.name}:{_sha256(file, state.st_size, state.st_mtime_ns)}\n".encode())
    return whole.hexdigest()[:32]


@lru_cache(maxsize=256)
def _sha256(file: Path, size: int, changed: int) -> str:
    """Hash of a file; size and time of change are part of the cache's key, so that a changed file is hashed anew."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
