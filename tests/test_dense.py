from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from testbed.dense import DenseIndex, Vectors, fuse, index_kind, nearest
from testbed.errors import UsageError


def unit(count: int, seed: int = 0) -> Vectors:
    drawn = np.random.default_rng(seed).standard_normal((count, 32)).astype(np.float32)
    vectors: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return vectors


@pytest.mark.parametrize("k", [1, 2, 3, 7, 10, 50])
def test_nearest_equals_a_full_sort_with_ties(k: int) -> None:
    similarity = np.round(np.random.default_rng(k).random(40), 1).astype(np.float32)
    whole = sorted(range(40), key=lambda at: (-similarity[at], at))
    assert nearest(similarity, k).tolist() == whole[:k]


def test_nothing_is_nearest_to_nothing() -> None:
    assert nearest(np.empty(0, np.float32), 3).tolist() == []


def test_fusion_sums_reciprocal_ranks() -> None:
    # 1: 1/61 + 1/62; 2: 1/62 + 1/61; 3: 1/63 twice; 4: 1/64 once
    assert fuse([[2, 1, 3, 4], [1, 2, 3]], 9) == [1, 2, 3, 4]
    assert fuse([[2, 1, 3, 4], [1, 2, 3]], 2) == [1, 2]
    assert fuse([[7, 8], [8, 9]], 3) == [8, 7, 9]
    assert fuse([[], []], 3) == []


def test_exact_search_orders_equal_vectors_by_number() -> None:
    index = DenseIndex(np.repeat(unit(1), 30, axis=0), exact_limit=100)
    assert index.best(unit(1)[0], 4) == [0, 1, 2, 3]


def test_cells_find_nearly_what_exact_search_finds_and_repeat() -> None:
    """On clustered vectors, as texts have: recall of ten, and equality of two builds."""
    pytest.importorskip("faiss", reason="the extra faiss is not installed")
    centres, noise = unit(100, 1), unit(8000, 2)
    vectors = centres[np.arange(8000) % 100] + 0.7 * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, cells, again = (DenseIndex(vectors, limit) for limit in (8000, 7999, 7999))
    queries = vectors[::80] + 0.1 * unit(100, 3)
    found = [cells.best(query, 10) for query in queries]
    assert found == [again.best(query, 10) for query in queries]
    overlap = [len(set(a) & set(exact.best(query, 10))) for a, query in zip(found, queries, strict=True)]
    assert np.mean(overlap) >= 9
    assert all(
        list(exact.similarity(query)[a]) == sorted(exact.similarity(query)[a], reverse=True)
        for a, query in zip(found, queries, strict=True)
    )


def test_building_cells_leaves_the_number_of_threads_alone() -> None:
    faiss = pytest.importorskip("faiss", reason="the extra faiss is not installed")
    before = faiss.omp_get_max_threads()
    DenseIndex(unit(200), exact_limit=100)
    assert faiss.omp_get_max_threads() == before


def test_the_kind_of_index_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert index_kind(200, 200) == "exact"
    real = builtins.__import__

    def without_faiss(name: str, *rest: Any, **more: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    for ask in (lambda: index_kind(201, 200), lambda: DenseIndex(unit(201), 200)):
        with pytest.raises(UsageError, match=r"pip install 'capability-testbed\[faiss\]'"):
            ask()
