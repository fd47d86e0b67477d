"""Nearest vectors: exactly up to a number, above it through faiss; and the fusion of rankings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.errors import UsageError

Vectors = npt.NDArray[np.float32]

DECIMALS = 5  # similarities nearer than this are equal, so that rounding in the last bits cannot reorder results
SPARE = 64  # candidates beyond k that faiss gives, to be ordered exactly
FUSION = 60  # the constant of reciprocal rank fusion, as published (Cormack, Clarke and Büttcher 2009)


def nearest(similarity: Vectors, k: int) -> npt.NDArray[np.intp]:
    """Numbers of the k highest similarities, highest first, equal ones in order of number."""
    k = min(k, len(similarity))
    if k == 0:
        return np.empty(0, np.intp)
    threshold = np.partition(similarity, -k)[-k]
    candidates = np.flatnonzero(similarity >= threshold)
    return candidates[np.argsort(-similarity[candidates], kind="stable")][:k]


def fuse(rankings: Sequence[Sequence[int]], k: int) -> list[int]:
    """The k best of several rankings by the sum of 1 / (60 + rank), equal sums in order of number."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, at in enumerate(ranking, 1):
            scores[at] = scores.get(at, 0.0) + 1 / (FUSION + rank)
    return sorted(scores, key=lambda at: (-scores[at], at))[:k]


def index_kind(size: int, exact_limit: int) -> str:
    """How so many vectors are searched: part of an arm's identity, since faiss may miss a neighbour.

    Raises:
        UsageError: faiss is needed and not installed.
    """
    return "exact" if size <= exact_limit else f"ivf/1/faiss-{_faiss().__version__}"


class DenseIndex:
    """Vectors that can be searched.

    Args:
        vectors: unit vectors, shape (documents, dimensions).
        exact_limit: up to so many are compared one by one; above, faiss looks only into the nearest of its cells.

    Raises:
        UsageError: faiss is needed and not installed.
    """

    def __init__(self, vectors: Vectors, exact_limit: int) -> None:
        self.vectors = vectors
        self._cells = _cells(vectors) if len(vectors) > exact_limit else None

    def similarity(self, query: Vectors) -> Vectors:
        """Cosine similarity of the query to every document, rounded, shape (documents,)."""
        return np.round(self.vectors @ query, DECIMALS)

    def best(self, query: Vectors, k: int) -> list[int]:
        """Numbers of the k nearest documents, nearest first, equal ones in order of number."""
        if self._cells is None:
            return [int(at) for at in nearest(self.similarity(query), k)]
        _, found = self._cells.search(query[None], k + SPARE)
        candidates = np.sort(found[0][found[0] >= 0])
        similarity = np.round(self.vectors[candidates] @ query, DECIMALS)
        return [int(candidates[at]) for at in nearest(similarity, k)]


def _cells(vectors: Vectors) -> Any:
    """An inverted file of 4·√n cells; a query sees one in sixteen. One thread makes it, so that it repeats."""
    faiss = _faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        count, dimensions = vectors.shape
        cells = max(1, min(int(4 * math.sqrt(count)), count // 40))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, cells, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        index.nprobe = max(1, cells // 16)
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UsageError(
            "so many vectors need faiss: pip install 'capability-testbed[faiss]', or raise the option exact_limit."
        ) from None
    return faiss
