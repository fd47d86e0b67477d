#!/usr/bin/env python3
"""Measures lexical and dense search on generated documents, beside other engines, in one run.

Documents have about 60 words, drawn by Zipf's law from a vocabulary of 200,000, whose 29 most frequent are stop words,
as in English; queries are three to six words of a document. Times of queries are CPU time of this process, warm. Each
build runs in a process of its own, whose peak memory is told.

Anchors: bm25s, SQLite's FTS5 and rank_bm25 on the first 100,000 documents (or all, if fewer).

Example:
    scripts/bench/search.py --documents 1000000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from testbed.corpus import Corpus, Document
from testbed.corpus_build import build
from testbed.corpus_sources import read_documents
from testbed.corpus_store import open_corpus
from testbed.dense import DenseIndex
from testbed.lexical import LexicalIndex, analyser
from testbed.tools.search import Search

STOP = "the of and to a in is that for it was on with as be at by this are or an not but they their if will no such"
WORDS, ANCHORED, DIMENSIONS = 200_000, 100_000, 384


def main() -> None:
    """Runs every measurement and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="keep the files here; by default they are removed")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        source, stored = folder / f"{chosen.documents}.jsonl", folder / f"corpus-{chosen.documents}"
        if not source.exists():
            write(source, chosen.documents)
        print(f"{chosen.documents} documents, {source.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        measure_build(source, stored)
        queries = make_queries(source, chosen.queries)
        measure_open(stored)
        measure_queries(stored, queries)
        measure_readers(stored, queries, chosen.readers)
        measure_anchors(source, min(chosen.documents, ANCHORED), queries)
        measure_dense(chosen.vectors)


def names() -> list[str]:
    """Made-up words behind the English stop words, the most frequent first."""
    starts = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    made = [starts[n % 90] + starts[n // 90 % 90] + starts[n // 8100 % 90] + "nrlst"[n % 5] for n in range(WORDS)]
    return [*STOP.split(), *made][:WORDS]


def drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """Numbers of words by Zipf's law: the density of rank r is as 1 / r."""
    return np.asarray(np.minimum(np.exp(rng.random(count) * np.log(WORDS)).astype(int), WORDS) - 1)


def write(file: Path, count: int) -> None:
    """Writes documents as JSONL."""
    rng, words = np.random.default_rng(0), names()
    with file.open("w", encoding="utf-8") as out:
        for first in range(0, count, 10_000):
            lengths = rng.integers(30, 91, min(10_000, count - first))
            picked, at = drawn(rng, int(lengths.sum())), 0
            for n, length in enumerate(lengths, first):
                text = " ".join(words[w] for w in picked[at : at + length])
                out.write(json.dumps({"id": f"d{n:08}", "text": text}) + "\n")
                at += length


def make_queries(source: Path, count: int) -> list[str]:
    """Three to six words, as they come, of documents from all over the first hundred thousand."""
    rng, texts = np.random.default_rng(1), [document.text.split() for document in first(source, ANCHORED)]
    chosen = [texts[at] for at in rng.integers(0, len(texts), count)]
    return [" ".join(rng.choice(text, rng.integers(3, 7), replace=False)) for text in chosen]


def in_a_process(work: Callable[..., object], *arguments: object) -> tuple[float, float]:
    """Seconds and peak MiB of a call in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed, work, *arguments).result()


def timed(work: Callable[..., object], *arguments: object) -> tuple[float, float]:
    """Seconds by the clock, and this process' peak MiB."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build_ours(source: Path, stored: Path) -> None:
    """Builds the corpus as `testbed corpus build` does."""
    build(read_documents(source), stored)


def measure_build(source: Path, stored: Path) -> None:
    """Prints time, memory and size of a build, and the time of one that finds nothing new."""
    seconds, peak = in_a_process(build_ours, source, stored)
    size = sum(file.stat().st_size for file in stored.rglob("*") if file.is_file())
    print(f"build             {seconds:8.1f} s   peak {peak:.0f} MiB   {size / 1e6:.0f} MB on disk")
    print(f"build, unchanged  {in_a_process(build_ours, source, stored)[0]:8.1f} s")


def measure_open(stored: Path) -> None:
    """Prints the time until the first result."""
    Search(corpus=open_corpus(stored))._run("bacada")
    times = []
    for _ in range(20):
        started = time.perf_counter()
        LexicalIndex.of(open_corpus(stored))
        times.append(time.perf_counter() - started)
    print(f"open              {np.median(times) * 1e3:8.1f} ms  worst of 20: {max(times) * 1e3:.1f}")


def quantiles(ask: Callable[[str], object], queries: Sequence[str]) -> str:
    """Median and 95th percentile of CPU milliseconds, after one warm round."""
    for query in queries[:100]:
        ask(query)
    times = []
    for query in queries:
        started = time.process_time()
        ask(query)
        times.append(time.process_time() - started)
    return f"p50 {np.median(times) * 1e3:8.3f} ms   p95 {np.quantile(times, 0.95) * 1e3:8.3f} ms"


def measure_queries(stored: Path, queries: Sequence[str]) -> None:
    """Prints times of whole results and of the ranking alone."""
    corpus = open_corpus(stored)
    search, index = Search(corpus=corpus), LexicalIndex.of(corpus)
    for _ in range(2):
        for query in queries:
            search._run(query)
    print(f"search            {quantiles(search._run, queries)}")
    print(f"  ranking alone   {quantiles(lambda query: index.best(index.words(query), 3), queries)}")


def meet(barrier: Barrier) -> None:
    """Gives a reader's process the place where all wait for each other."""
    globals()["everybody"] = barrier


def ask_all(stored: Path, queries: Sequence[str], rounds: int) -> tuple[float, float]:
    """When one process, warm, began to ask all queries some times over, and when it ended."""
    search = Search(corpus=open_corpus(stored))
    for query in queries:
        search._run(query)
    globals()["everybody"].wait()
    started = time.perf_counter()
    for _ in range(rounds):
        for query in queries:
            search._run(query)
    return started, time.perf_counter()


def measure_readers(stored: Path, queries: Sequence[str], most: int) -> None:
    """Prints queries a second of several processes on one index, from the first start to the last end."""
    spawn, readers, rounds = multiprocessing.get_context("spawn"), 1, 3
    while readers <= most:
        with ProcessPoolExecutor(readers, spawn, initializer=meet, initargs=(spawn.Barrier(readers),)) as pool:
            spans = list(pool.map(ask_all, [stored] * readers, [queries] * readers, [rounds] * readers))
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        print(f"{readers} readers         {readers * rounds * len(queries) / seconds:8.0f} queries/s", flush=True)
        readers *= 2


def first(source: Path, count: int) -> Iterator[Document]:
    """The first documents of the file."""
    for (_, document), _ in zip(read_documents(source), range(count), strict=False):
        yield document


def measure_anchors(source: Path, count: int, queries: Sequence[str]) -> None:
    """Prints build time and query times of ours and of other engines on the same documents."""
    print(f"on {count} documents:")
    documents = list(first(source, count))

    def report(name: str, make: Callable[[], Callable[[str], object]], asked: Sequence[str] = queries) -> None:
        started = time.perf_counter()
        ask = make()
        built = time.perf_counter() - started
        print(f"  {name:14}  {quantiles(ask, asked)}   build {built:6.1f} s", flush=True)

    report("ours", lambda: Search(corpus=Corpus.of(documents))._run)
    report("SQLite FTS5", lambda: fts5(documents))
    words = [analyser().analyze(document.text) for document in documents]
    report("bm25s", lambda: with_bm25s(words))
    report("rank_bm25", lambda: with_rank_bm25(words), queries[:20])


def fts5(documents: Sequence[Document]) -> Callable[[str], object]:
    """SQLite's full-text search with its Porter stemmer; it knows no stop words, so they are taken out of queries."""
    split = analyser()
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE d USING fts5(text, tokenize='porter')")
    database.executemany("INSERT INTO d(text) VALUES (?)", ((document.text,) for document in documents))
    ask = "SELECT text FROM d WHERE d MATCH ? ORDER BY rank LIMIT 3"

    def answer(query: str) -> object:
        words = [f'"{word}"' for word in query.split() if split.analyze(word)]
        return database.execute(ask, [" OR ".join(words)]).fetchall() if words else []

    return answer


def with_bm25s(words: list[list[str]]) -> Callable[[str], object]:
    """The library bm25s, its scores computed when indexing."""
    import bm25s

    index, split = bm25s.BM25(k1=1.2, b=0.75), analyser()
    index.index(words, show_progress=False)
    return lambda query: index.retrieve([split.analyze(query)], k=3, show_progress=False)


def with_rank_bm25(words: list[list[str]]) -> Callable[[str], object]:
    """The library rank_bm25."""
    from rank_bm25 import BM25Okapi

    index, split = BM25Okapi(words), analyser()
    return lambda query: np.argsort(-index.get_scores(split.analyze(query)))[:3]


def measure_dense(count: int) -> None:
    """Prints the time of exact search among random unit vectors."""
    vectors = np.random.default_rng(2).standard_normal((count, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = DenseIndex(vectors, exact_limit=count)
    times = []
    for query in vectors[:50]:
        started = time.perf_counter()
        index.best(query, 3)
        times.append(time.perf_counter() - started)
    print(
        f"dense exact {count} x {DIMENSIONS}: median {np.median(times) * 1e3:.1f} ms, worst {max(times) * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
