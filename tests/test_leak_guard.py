"""The guard against leaks: planted ones are flagged, honest documents are not, and reports say what is left."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from testbed.corpus import Corpus, Document
from testbed.experiment_file import parse_experiment
from testbed.lexical import LexicalIndex
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.overlap import SHARE, Question, answers, questions, results
from testbed.protocol import write_answer, write_call
from testbed.report.analyse import Analysis, analyse, analyse_run
from testbed.report.leaks import find_leaks, sought, without
from testbed.report.page import render_page
from testbed.report.text import print_report
from testbed.runner import Runner
from testbed.store import ArmRecord, Run, Store
from testbed.types import Attempt, Cost, Message, Status, Task

ASKED = "In which year did the keeper of the lighthouse of Vornal die?"
QUESTION = Question(ASKED, ["1873"])
FILLER = "Boats come and go with the tide, and the harbour is busy all the year round. "

# -- planted leaks
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shown",
    [
        f"{ASKED} 1873",
        f"[7] Q: {ASKED.upper()}\n    A: 1873",
        "in  which year,\ndid the «keeper» of the *lighthouse* of Vornal - die ?\t(1873)",
        "In what year did the keeper of the lighthouse of Vornal die? It was 1873.",
        "In which year did the old keeper of the lighthouse of Vornal die? 1873.",
        "In which year did keeper of the lighthouse of Vornal die? 1873.",
        "In what year did the old keeper of the lighthouse of Vornal die? 1873.",
        "In what year did the warden of the lighthouse of Vornal die? 1873.",
        json.dumps({"results": [{"question": ASKED, "answer": 1873}]}),
        f"**{ASKED}** _1873_",
        f"{ASKED.replace(' ', '_')} 1873",
        json.dumps(f"Quiz\n\tQ: “{ASKED}”\n\tA:\n1873", ensure_ascii=True),
        json.dumps(json.dumps({"q": ASKED, "a": "1873"})),
        "Ｉｎ ｗｈｉｃｈ year did the kee\u00adper of the light\u200bhouse of Vornal die?\u00a01873",
        FILLER * 300 + f"{ASKED} Answer: 1873. " + FILLER * 300,
        f"{ASKED} Nobody knows. {FILLER * 20} Once more: {ASKED} In 1873.",
        f"{ASKED}\n{FILLER}\n{FILLER}\nThe answer is 1873.",
    ],
)
def test_a_question_beside_its_answer_is_flagged(shown: str) -> None:
    assert QUESTION.flagged(shown) >= SHARE


@pytest.mark.parametrize(
    "shown",
    [
        "Sela Dunmar, keeper of the lighthouse of Vornal, died in 1873.",
        f"{ASKED} Nobody knows.",
        f"{ASKED} 18735",
        f"{ASKED} {FILLER * 20} 1873",
        "In 1873 the lighthouse of Vornal got a new keeper.",
        "1873 is the year in which the keeper of the lighthouse of Vornal died.",
        "In which year did the mayor of the city of Qarth die? 1873",
        "Vornal's light keeper: year of death? 1873",  # in other words it goes unseen
        "1873",
        "",
    ],
)
def test_what_is_only_about_the_question_is_not_flagged(shown: str) -> None:
    assert QUESTION.flagged(shown) == 0


def test_a_leak_in_two_results_is_flagged() -> None:
    two = [{"role": "tool", "content": text} for text in (f"Q 17: {ASKED}", "A 17: 1873")]
    halves = [{"role": "tool", "content": text} for text in (f"Page 1. {ASKED[:31]}", f"{ASKED[31:]} 1873. End.")]
    for messages in (two, halves):
        shown = results(messages)  # type: ignore[arg-type]
        assert QUESTION.flagged("\n".join(shown))
        assert not any(QUESTION.flagged(text) for text in shown)


def test_results_of_faulty_calls_and_other_messages_do_not_count() -> None:
    messages: list[Message] = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": "1873"},
        {"role": "tool", "content": "a\nb"},
        {"role": "tool", "content": "error", "fault": "timeout"},
    ]
    assert results(messages) == ["a\nb"]


def test_an_answer_that_is_a_part_of_the_question_must_stand_there_besides() -> None:
    asked = "Which of the two lighthouses is older, the one of Vornal or the one of Quill?"
    question = Question(asked, ["Vornal"])
    assert question.flagged(f"{asked} Vornal.")
    assert question.flagged(f"It is Vornal. {asked}")
    assert not question.flagged(asked)
    assert not question.flagged(f"{asked} {asked} Nobody knows.")
    assert not Question(asked, ["Quill"]).flagged(f"{asked} Nobody knows.")


def test_long_answers_count_where_they_stand_nearly_word_by_word() -> None:
    solution = "def add(a, b):\n    total = a + b\n    print(total, 'is the sum')\n    return total  # done"
    asked = "Complete this function, which adds two numbers and prints them before it returns the sum."
    question = Question(asked, answers({"solution": solution, "functions": ["add"]}))
    assert question.flagged(f"{asked}\n{solution.replace('# done', '').replace('total', 'total')}")
    assert not question.flagged(f"{asked}\nadd")


def test_short_questions_cannot_be_judged() -> None:
    assert not Question("Who wrote Hamlet?", ["Shakespeare"]).judged
    assert not Question(ASKED, ["?"]).judged
    assert not Question(ASKED, answers(None)).judged
    assert QUESTION.judged


@pytest.mark.parametrize(
    ("reference", "found"),
    [("a", ["a"]), (3, ["3"]), (["a", 2.5], ["a", "2.5"]), ({"x": "a", "y": [True, None, "b"]}, ["a", "b"])],
)
def test_answers_are_the_texts_and_numbers_of_a_reference(reference: Any, found: list[str]) -> None:
    assert answers(reference) == found


def test_instructions_that_prompts_share_are_no_part_of_the_question() -> None:
    told = "Answer in as few words as possible."
    names = ("Vornal", "Quill", "Sarn")
    asked = [f"Who kept the light of {name}? Think first.\n{told}" for name in names]
    assert questions(asked) == [f"Who kept the light of {name}?" for name in names]
    assert questions(asked[:1]) == [asked[0].replace("? ", "?\n")]
    assert questions([told] * 3) == [told] * 3


def test_labels_that_many_questions_share_need_the_whole_question() -> None:
    claims = [f"Boats of kind {n} are painted red wherever they are built and sold." for n in range(30)]
    mixed = sought([Task("Mine-v0", claim, f"{n}x{n}" if n % 2 else "yes") for n, claim in enumerate(claims)])
    whole = [bool(q.flagged(f"{c} {n}x{n} yes")) for n, (c, q) in enumerate(zip(claims, mixed.values(), strict=True))]
    near = [
        bool(q.flagged(f"{c.replace('painted', 'dyed')} {n}x{n} yes"))
        for n, (c, q) in enumerate(zip(claims, mixed.values(), strict=True))
    ]
    assert whole == [True] * 30
    assert near == [False, True] * 15


@given(st.text(), st.text(), st.lists(st.text(), max_size=4))
def test_overlap_is_a_share_and_more_results_never_lower_it(asked: str, answer: str, shown: list[str]) -> None:
    question = Question(asked, [answer])
    values = [question.overlap("\n".join(shown[:n])) for n in range(len(shown) + 1)]
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values)


@given(st.lists(st.sampled_from([*ASKED.replace("?", "").split(), "1873", "\\n", "{"]), max_size=40))
def test_no_leak_is_dismissed_by_the_words_that_a_text_lacks(shown: list[str]) -> None:
    text = " ".join(shown)
    overlap = QUESTION.overlap(text)
    assert QUESTION.flagged(text) == (overlap if overlap >= SHARE else 0)


# -- honest documents
# ----------------------------------------------------------------------------------------------------------------------


def shown_to(asked: Sequence[tuple[str, list[str]]], documents: Iterable[Document]) -> list[str]:
    """What a thorough searcher is shown: the best ten documents for each question and the best five for its answer."""
    corpus = Corpus.of(documents)
    index = LexicalIndex.of(corpus)
    found = []
    for question, known in asked:
        best = [*index.best(index.words(question), 10), *index.best(index.words(" ".join(known)), 5)]
        found.append("\n".join(corpus.documents[at].content for at, _ in best))
    return found


def flags(asked: Sequence[tuple[str, list[str]]], shown: Sequence[str]) -> list[str]:
    tasks = [Task("Mine-v0", f"{question}\nAnswer in as few words as possible.", known) for question, known in asked]
    made = sought(tasks)
    assert len(made) > 0.9 * len(tasks)
    return [t.prompt for t, text in zip(tasks, shown, strict=True) if t.hash in made and made[t.hash].flagged(text)]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_documents_of_hotpotqa_leak_neither_its_questions_nor_natural_ones(data_dir: Path) -> None:
    documents = Corpus.read(data_dir / "hotpot100" / "corpus.jsonl").documents
    own = [(row["question"], [row["answer"]]) for row in rows(data_dir / "hotpot100" / "questions.jsonl")]
    natural = [(row["question"], row["answer"]) for row in rows(data_dir / "nq_open" / "NQ-open.dev.jsonl")[:600]]
    assert flags(own, shown_to(own, documents)) == []
    assert flags(natural, shown_to(natural, documents)) == []
    leaked = [
        f"{text}\nQ: {question.lower()} A: {known[0]}"
        for text, (question, known) in zip(shown_to(own, documents), own, strict=True)
    ]
    assert len(flags(own, leaked)) >= 0.99 * len(own)


@pytest.mark.slow
def test_abstracts_do_not_leak_the_claims_about_them(data_dir: Path) -> None:
    with zipfile.ZipFile(data_dir / "scifact" / "scifact.zip") as archive:
        tables = {
            name: list(csv.DictReader(io.TextIOWrapper(archive.open(name), "utf-8")))
            for name in ("corpus_train.csv", "claims_train.csv", "claims_validation.csv")
        }
    documents = [Document(row["doc_id"], row["abstract"], row["title"]) for row in tables.pop("corpus_train.csv")]
    labels = {row["claim"]: row["evidence_label"] or "NEI" for table in tables.values() for row in table}
    claims = [(claim, [label]) for claim, label in labels.items()]
    assert flags(claims, shown_to(claims, documents)) == []


# -- runs and reports
# ----------------------------------------------------------------------------------------------------------------------

TOWNS = ("Vornal", "Quill", "Sarn", "Dreve", "Umber", "Ostrand")


def asked_of(town: str) -> str:
    return f"In which year did the keeper of the lighthouse of {town} die?"


def reading(request: Request, rng: Any) -> str:
    """Searches with the question itself, and copies the year; else it guesses."""
    last, question = request.messages[-1], request.messages[0]["content"]
    if request.tools and last["role"] != "tool":
        return write_call("search", {"query": question})
    year = re.search(r"A: (\d{4})|died in (\d{4})", last["content"])
    return write_answer(year[1] or year[2] if year else str(1800 + rng.integers(9)))


async def analysed(folder: Path, leaked: int) -> Analysis:
    """A run on the towns, the first `leaked` of which have their question in the corpus."""
    folder.mkdir(exist_ok=True)
    quiz = [f"Q: {asked_of(town)} A: {1800 + n}" for n, town in enumerate(TOWNS[:leaked])]
    pages = [f"The keeper of the lighthouse of {town} died in {1800 + n}." for n, town in enumerate(TOWNS)]
    texts = [*quiz, *pages[leaked:]]
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"id": f"d{n}", "text": t}) for n, t in enumerate(texts)))
    tasks = [{"prompt": asked_of(town), "answer": str(1800 + n)} for n, town in enumerate(TOWNS)]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    data = {
        "name": "towns",
        "samples": 6,
        "measure": {"elicitation": 2, "replicates": 200},
        "model": {"id": "scripted", "replies": ["unused"]},
        "env": [{"id": "Questions-v0", "path": str(folder / "tasks.jsonl")}],
        "tool": {"search": {"corpus": str(folder / "corpus.jsonl"), "k": 1}},
        "arm": [
            {"name": "bare"},
            *({"name": c, "tools": ["search"], "control": c} for c in ("live", "yoked", "inert")),
        ],
    }
    with Store.open(folder / "s.sqlite") as store:
        await Runner(parse_experiment(data), store, models={"scripted": Scripted(reading)}).run()
        found = analyse_run(store, "towns")
        if found.leaks:
            assert store.attempt(found.leaks.worst.attempt[:12]).cost.tool_calls == 1
        return found


def printed(analysis: Analysis) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    print_report(analysis, console)
    return console.export_text()


async def test_reports_stand_with_and_without_the_flagged_tasks(tmp_path: Path) -> None:
    found = await analysed(tmp_path / "towns", leaked=2)
    leaks = found.leaks
    assert leaks is not None
    assert (leaks.tasks, leaks.left, leaks.read) == (2, 4, 6 * 6 * 3)
    assert leaks.by_arm == {"live": 12, "yoked": 12}  # the placebo's passages hold no answer
    assert leaks.worst.overlap == 1
    assert leaks.worst.prompt == asked_of("Vornal")
    assert [arm.tasks for arm in found.arms] == [6] * 4
    assert [arm.tasks for arm in leaks.arms] == [4] * 4
    assert [c.tasks for c in leaks.comparisons] == [4] * 3
    whole, left = found.comparisons[0].gain, leaks.comparisons[0].gain
    assert whole != left
    text = printed(found)
    assert "at 2 of 6 tasks: in 24 of 108 attempts read (live 12, yoked 12)" in " ".join(text.split())
    assert "Without the 2 flagged tasks, which all that follows counts too: gain" in " ".join(text.split())
    assert "Arms on 4 tasks, without the 2 flagged" in text
    assert "Gain over bare, without the 2 flagged tasks" in text
    page = render_page(found)
    assert "Gain over bare, without the 2 flagged tasks" in page
    written = found.as_dict()["leaks"]
    assert (written["tasks"], len(written["arms"]), written["worst"]["arm"]) == (2, 4, "live")


async def test_the_figures_without_flagged_tasks_are_those_of_a_run_without_them(tmp_path: Path) -> None:
    both = await analysed(tmp_path / "both", leaked=2)
    assert both.leaks is not None
    with Store.open(tmp_path / "both" / "s.sqlite") as store:
        outcomes = store.outcomes("towns")
    alone = analyse(without(outcomes, {task.hash for task in outcomes.tasks[:2]}), elicitation=2, replicates=200)
    assert alone.arms == both.leaks.arms
    assert [c.gain for c in alone.comparisons] == [c.gain for c in both.leaks.comparisons]


async def test_reports_say_nothing_where_nothing_was_flagged(tmp_path: Path) -> None:
    found = await analysed(tmp_path / "honest", leaked=0)
    assert found.leaks is None
    assert "flagged" not in printed(found)
    assert not any("nearly word by word" in warning for warning in found.warnings)
    assert found.as_dict()["leaks"] is None


async def test_all_tasks_may_be_flagged(tmp_path: Path) -> None:
    found = await analysed(tmp_path / "all", leaked=6)
    assert found.leaks is not None
    assert (found.leaks.tasks, found.leaks.left, found.leaks.arms) == (6, 0, ())
    assert "at 6 of 6 tasks" in " ".join(printed(found).split())


@pytest.mark.parametrize(
    ("arguments", "result", "flagged"),
    [
        ({"query": ASKED}, json.dumps({"query": ASKED, "results": ["The keeper died in 1873."]}), False),
        ({"query": ASKED}, json.dumps({"query": ASKED, "results": [f"{ASKED} 1873"]}), True),
        ({"query": ASKED}, json.dumps({"asked": ASKED, "results": ["1873"]}), True),
        ({"query": ASKED}, f"{ASKED} 1873", True),
        ({"code": f"print({ASKED!r}, 1873)"}, f"{ASKED} 1873", False),  # the program says what it was told to
        ({"code": "print(open('test.jsonl').read())"}, f"{ASKED} 1873", True),
    ],
)
async def test_what_a_tool_only_repeats_of_a_call_is_no_leak(
    arguments: dict[str, Any], result: str, flagged: bool, tmp_path: Path
) -> None:
    transcript: list[Message] = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": write_call("web", arguments)},
        {"role": "tool", "name": "web", "content": result},
    ]
    task, arm = Task("Mine-v0", ASKED, "1873"), ArmRecord("a" * 32, "live", {"tools": [{}]})
    made = Attempt(
        "b" * 32, task.hash, arm.hash, 0, 0, Status.COMPLETE, "answered", True, None, "1873", Cost(), {}, transcript
    )
    with Store.open(tmp_path / "s.sqlite") as store:
        store.add_run(run := Run("mine", {}, 0, (arm,), "", {"live": 1}), [task])
        async with store.writer() as writer:
            await writer.add(made)
        found = find_leaks(store, run, [task])
    assert found.read == 1
    assert (found.by_arm["live"] == 1) is flagged
