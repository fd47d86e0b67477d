"""The documents of Worlds-v0 as a corpus: the same through every door, and not easy for words alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from testbed.cli import app
from testbed.corpus import Corpus
from testbed.corpus_store import open_corpus
from testbed.envs.worlds import Worlds
from testbed.errors import DataError, UnknownName, UsageError
from testbed.experiment_file import parse_experiment, read_experiment
from testbed.lexical import LexicalIndex
from testbed.plugins import execute
from testbed.registry import make_corpus, make_tool
from testbed.report.analyse import analyse_run
from testbed.report.record import Effect
from testbed.runner import Runner
from testbed.store import Store

EXPERIMENTS = Path(__file__).parents[1] / "docs" / "experiments"
PLAYERS = execute(EXPERIMENTS / "worlds_players.py")
SECRET = "correct horse battery staple"


def build(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["corpus", "build", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


# -- as a corpus -------------------------------------------------------------------------------------------------------


def test_the_corpus_is_the_same_by_name_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    named = make_corpus({"env": "Worlds-v0", "documents": 300, "world": 4})
    printed = build("Worlds-v0", tmp_path / "built", "--option", "documents=300", "--option", "world=4")
    assert printed.split()[-1] == named.hash
    lines = (json.dumps({"id": id_, "text": text}) for id_, text in Worlds(documents=300, world=4).documents())
    (tmp_path / "w.jsonl").write_text("\n".join(lines))
    assert Corpus.read(tmp_path / "w.jsonl").hash == named.hash
    stored = make_corpus({"path": str(tmp_path / "built"), "hash": named.hash})
    one, two = make_tool("search", corpus=named), make_tool("search", corpus=stored)
    assert one.fingerprint() == two.fingerprint()  # type: ignore[attr-defined]
    assert one.invoke({"query": "mayor"}) == two.invoke({"query": "mayor"})
    other = Corpus.of(Worlds(documents=300, world=5).documents())
    with pytest.raises(DataError, match=named.hash):
        open_corpus(tmp_path / "built", other.hash)


def test_search_finds_what_open_shows() -> None:
    environment = Worlds(documents=300, tasks=1, kind="hops")
    corpus = Corpus.of(environment.documents())
    search, opened = make_tool("search", corpus=corpus, k=5), make_tool("open", corpus=corpus)
    for task in environment.tasks:
        start, _ = PLAYERS.chain_in(task.prompt.partition("\n")[0])
        first = task.meta["support"][0]
        assert f"[{first}]" in search.invoke({"query": start})
        text = dict(environment.documents())[first]
        assert opened.invoke({"id": first}) == f"[{first}]\n{text}"


@pytest.mark.slow
def test_retrieve_finds_the_first_document_too() -> None:
    environment = Worlds(documents=100, tasks=2, kind="hops", hops=[1, 2], split="document")
    retrieve = make_tool("retrieve", corpus=Corpus.of(environment.documents()), k=5)
    found = [
        f"[{task.meta['support'][0]}]" in retrieve.invoke({"query": task.prompt.partition("\n")[0]})
        for task in environment.tasks
    ]
    assert all(found)


def test_words_alone_find_the_start_of_most_questions_and_the_rest_of_hardly_any() -> None:
    environment = Worlds(documents=1500, tasks=20, kind="hops", hops=[1, 3])
    corpus = Corpus.of(environment.documents())
    index = LexicalIndex.of(corpus)
    first, last = [], []
    for task in environment.tasks:
        question = task.prompt.partition("\n")[0]
        ids = [corpus.documents[at].id for at, _ in index.best(index.words(question), 5)]
        first.append(ids[0] == task.meta["support"][0])
        if task.meta["hops"] == 3:
            last.append(task.meta["support"][-1] in ids)
    assert 0.6 < sum(first) / len(first) < 0.97  # others name it too
    assert sum(last) / len(last) < 0.1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["Wolds-v0"], UnknownName, "Worlds-v0"),
        (["Worlds-v0", "--option", "document=60"], UnknownName, "documents"),
        (["Worlds-v0", "--option", "documents"], UsageError, "KEY=VALUE"),
        (["Worlds-v0", "--option", "documents=many"], UsageError, "documents"),
        (["Worlds-v0", "--option", "documents=10"], UsageError, "50 to 1,000,000"),
        ([__file__, "--option", "documents=60"], UsageError, "is for environments"),
        (["Addition-v0"], DataError, "no documents"),
    ],
)
def test_a_corpus_that_cannot_be_built_says_why_and_leaves_nothing(
    arguments: list[str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    source, *options = arguments
    with pytest.raises(error, match=message):
        build(source, tmp_path / "c", *options)
    assert not (tmp_path / "c").exists()


# -- memory ------------------------------------------------------------------------------------------------------------


def test_listing_documents_holds_none_of_them() -> None:
    def most_held(documents: int) -> int:
        environment = Worlds(documents=documents)
        tracemalloc.start()
        for _ in environment.documents():
            pass
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    most_held(100)  # what is made once
    assert most_held(600) < most_held(100) + 20_000  # 500 documents are 200,000 bytes


@pytest.mark.slow
def test_the_memory_of_a_process_is_the_same_at_50_000_and_at_200_000_documents() -> None:
    code = (
        "import resource, sys; from testbed.envs.worlds import Worlds\n"
        "n = sum(1 for _ in Worlds(documents=int(sys.argv[1])).documents())\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    seen = {}
    for documents in (50_000, 200_000):
        done = subprocess.run([sys.executable, "-c", code, str(documents)], capture_output=True, text=True, check=True)
        listed, seen[documents] = map(int, done.stdout.split())
        assert listed == documents
    assert abs(seen[200_000] - seen[50_000]) < 4_000  # KiB; the longer list alone would take 80 MB


# -- in an experiment --------------------------------------------------------------------------------------------------


def test_search_creates_documented_answers_and_does_nothing_for_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXPERIMENTS.parents[1])  # its policy is named from there
    with Store.open(tmp_path / "s.sqlite") as store:
        experiment = read_experiment(str(EXPERIMENTS / "worlds.toml"))
        asyncio.run(Runner(experiment, store).run())
        analysis = analyse_run(store, experiment.name)
    effects = {(group.label, effect.arm): effect for group in analysis.groups for effect in group.effects}
    families = {label for label, _ in effects if label != "Worlds"}
    assert families == {"known 1 hop", "known 2 hops", "document 1 hop", "document 2 hops", "mixed 2 hops"}
    for family in families:
        assert effects[family, "inert"].effects == (Effect.NOTHING,)
        found = effects[family, "search"]
        if family.startswith("known"):
            assert found.effects == (Effect.NOTHING,)
            assert abs(found.gain.value) < 0.05
        else:
            assert found.effects == (Effect.CREATED,)
            assert found.creation is not None
            assert found.creation.low is not None
            assert found.creation.low > 0.3
            assert found.never_bare == found.tasks


def test_the_scholar_was_taught_the_world_of_the_experiment_and_reads_no_reference() -> None:
    experiment = tomllib.loads((EXPERIMENTS / "worlds.toml").read_text(encoding="utf-8"))
    (environment,) = experiment["env"]
    assert PLAYERS.SCHOOL.items() <= environment.items()
    assert experiment["tool"]["search"]["corpus"] == {"env": "Worlds-v0", **PLAYERS.SCHOOL}
    source = (EXPERIMENTS / "worlds_players.py").read_text(encoding="utf-8")
    assert ".task" not in source
    assert "reference" not in source


def test_mixed_questions_take_memory_and_search_both_where_known_documents_are_hidden(tmp_path: Path) -> None:
    world: dict[str, Any] = {**PLAYERS.SCHOOL, "hide_known": True}
    with Store.open(tmp_path / "s.sqlite") as store:
        for player in ("scholar", "stranger"):
            experiment = parse_experiment(
                {
                    "name": player,
                    "samples": 4,
                    "model": {"id": "scripted", "policy": f"{EXPERIMENTS / 'worlds_players.py'}:{player}"},
                    "env": [{"id": "Worlds-v0", "kind": "hops", "hops": 2, "split": "mixed", "tasks": 10, **world}],
                    "tool": {"search": {"corpus": {"env": "Worlds-v0", **world}, "k": 5}},
                    "arm": [{"name": "bare"}, {"name": "search", "tools": ["search"]}],
                }
            )
            asyncio.run(Runner(experiment, store).run())
        right = [
            arm.successes / arm.attempts
            for player in ("scholar", "stranger")
            for arm in analyse_run(store, player).arms
        ]
    assert right[0] == right[2] == right[3] == 0
    assert right[1] > 0.8


def test_a_run_stores_nothing_of_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SECRET", SECRET)
    world = {"documents": 200, "secret": "${WORLD_SECRET}"}
    experiment = parse_experiment(
        {
            "name": "private",
            "samples": 2,
            "model": {"id": "scripted", "replies": ['<tool_call>{"name": "search", "arguments": {"query": "mayor"}}']},
            "budget": {"turns": 2},
            "env": [{"id": "Worlds-v0", "tasks": 1, "kind": "hops", "hops": 1, **world}],
            "tool": {"search": {"corpus": {"env": "Worlds-v0", **world}}},
            "arm": [{"name": "bare"}, {"name": "search", "tools": ["search"]}],
        }
    )
    with Store.open(tmp_path / "s.sqlite") as store:
        asyncio.run(Runner(experiment, store).run())
        run = store.run("private")
        tasks = store.tasks("private")
        attempts = list(store.attempts("private"))
    shown = repr([run, tasks, [(task.meta, task.cluster) for task in tasks], attempts])
    assert len(attempts) == 8
    assert "${WORLD_SECRET}" in shown
    assert SECRET not in shown
    assert all(SECRET.encode() not in file.read_bytes() for file in tmp_path.iterdir())
