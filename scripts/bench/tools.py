#!/usr/bin/env python3
"""Measures the search tools on generated worlds: time to start, time per query, and recall of the passage asked for.

Anchor: a scan of every document for the query's words in plain Python, which is what a tool without an index does.

Example:
    scripts/bench/tools.py --lands 70 700
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from testbed.corpus import Corpus
from testbed.envs.world import Fact, make_world
from testbed.tool import Tool
from testbed.tools.retrieve import Retrieve
from testbed.tools.search import Search


def main() -> None:
    """Runs every measurement and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lands", type=int, nargs="+", default=[70], help="sizes of the worlds; 6 documents a land")
    parser.add_argument("--queries", type=int, default=300, help="queries per measurement (default 300)")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before the start")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # so that embedding is measured, not reading
        for lands in options.lands:
            measure(lands, options.queries)


def measure(lands: int, queries: int) -> None:
    """Both tools on one world."""
    world = make_world(seed=11, known_lands=1, document_lands=lands)
    corpus = Corpus.of(world.documents())
    facts = world.document_only
    chosen = [facts[at] for at in np.random.default_rng(0).permutation(len(facts))[:queries]]
    print(f"\n{len(corpus)} documents{'start':>27}{'p50':>9}{'p95':>9}   recall@3: by query, by question")
    for tool in (Search(corpus=corpus), Retrieve(corpus=corpus)):
        report(tool, chosen)
    words = [(fact, scan(corpus, fact.query)) for fact in chosen[:30]]
    print(f"{'anchor: scan in Python':24}{'':>12}{percentiles([spent for _, (_, spent) in words])}")


def report(tool: Tool, facts: Sequence[Fact]) -> None:
    """One line about one tool."""
    began = time.perf_counter()
    asyncio.run(tool.start())
    started = time.perf_counter() - began
    by_query, spent = recall(tool, facts, lambda fact: fact.query)
    by_question, _ = recall(tool, facts, lambda fact: fact.question)
    print(f"{tool.name:24}{started:10.2f} s{percentiles(spent)}   {by_query:.3f}, {by_question:.3f}")


def recall(tool: Tool, facts: Sequence[Fact], ask: Callable[[Fact], str]) -> tuple[float, list[float]]:
    """Share of facts whose passage comes back, and the seconds of each query."""
    hits, spent = 0, []
    for fact in facts:
        began = time.perf_counter()
        result = tool._run(query=ask(fact))
        spent.append(time.perf_counter() - began)
        hits += f"[{fact.id}] " in result
    return hits / len(facts), spent


def scan(corpus: Corpus, query: str) -> tuple[list[str], float]:
    """Ids of the three documents that share most words with the query, without an index, and the seconds it took."""
    began = time.perf_counter()
    words = set(query.lower().split())
    best = sorted(corpus.documents, key=lambda d: -len(words & set(d.content.lower().split())))[:3]
    return [document.id for document in best], time.perf_counter() - began


def percentiles(seconds: Sequence[float]) -> str:
    """Median and 95th percentile in milliseconds."""
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return f"{p50:8.2f}ms{p95:7.2f}ms"


if __name__ == "__main__":
    main()
