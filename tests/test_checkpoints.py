"""Two checkpoints of one architecture as arms: run, scored by either, compared in the report."""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers.tiny_models import has_reference
from testbed.cli import app
from testbed.experiment_file import parse_experiment
from testbed.message_ends import own_ends
from testbed.models.base import Sampling
from testbed.models.reference_model import reference_path
from testbed.preparation import Prepared
from testbed.report import checkpoints
from testbed.report.analyse import Analysis, analyse_run
from testbed.report.compare_runs import compare_sides
from testbed.report.page import render_page
from testbed.report.sides import read_side
from testbed.report.tables import every_table
from testbed.report.text import print_report
from testbed.runner import Runner
from testbed.scoring import Scoring
from testbed.stats import Verdict
from testbed.store import Store
from testbed.types import Attempt, Cost

pytestmark = has_reference
SHARPER = 2.5  # the checkpoint's logits over the reference model's


def sharper(path: Path) -> Path:
    """A copy of the reference model that is surer of all it says, as post-training mostly makes models."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(reference_path())
    import torch

    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPER)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(reference_path()).save_pretrained(path)
    return path


def in_terminal(analysis: Analysis) -> str:
    file = io.StringIO()
    print_report(analysis, Console(file=file, width=80))
    return file.getvalue()


def experiment(post: Path, **arm: Any) -> dict[str, Any]:
    return {
        "name": "two",
        "samples": 12,
        "model": {"id": "reference", "max_tokens": 24, "logprobs": True},
        "budget": {"turns": 1},
        "measure": {"elicitation": 4, "replicates": 200},
        "env": [{"id": "Multiplication-v0", "digits": [1, 2], "tasks": 3}],
        "arm": [
            {"name": "base"},
            {"name": "post", "model": {"id": f"hf:{post}", "system": "", "device": "cpu"}, **arm},
        ],
    }


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharper(tmp_path_factory.mktemp("post"))


@pytest.fixture(scope="module")
def store(post: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A run of both, scored by both."""
    path = tmp_path_factory.mktemp("checkpoints") / "s.sqlite"
    with Store.open(path) as opened:
        asyncio.run(Runner(parse_experiment(experiment(post)), opened).run())
        (found,) = analyse_run(opened, "two").checkpoints
        for arguments in found.wanted:
            done = CliRunner().invoke(app, [*arguments.split(), "--store", str(path)], catch_exceptions=False)
            assert done.exit_code == 0
        yield opened


def test_each_checkpoint_is_loaded_once_and_decodes_apart(post: Path) -> None:
    data = experiment(post)
    data["arm"] += [{"name": "base2", "samples": 3, "budget": {"turns": 2}}]

    async def models() -> list[object]:
        prepared = Prepared(parse_experiment(data), {}, Store.open)
        try:
            await prepared.start()
            return [arm.model for arm in prepared.arms]
        finally:
            await prepared.aclose()

    base, other, again = asyncio.run(models())
    assert base is again
    assert base is not other


def test_a_base_with_another_system_text_reads_with_the_checkpoints_own_and_is_not_alike(
    post: Path, tmp_path: Path
) -> None:
    base, where = shutil.copytree(reference_path(), tmp_path / "base"), tmp_path / "s.sqlite"
    data = {**experiment(post), "samples": 2, "model": {"id": f"hf:{base}", "max_tokens": 24, "device": "cpu"}}
    with Store.open(where) as store:
        asyncio.run(Runner(parse_experiment(data), store).run())
        (asked,) = analyse_run(store, "two").checkpoints
        assert [arguments.partition(" --by ")[2] for arguments in asked.wanted] == ["", f"hf:{base}"]
        for arguments in asked.wanted:
            done = CliRunner().invoke(app, [*arguments.split(), "--store", str(where)], catch_exceptions=False)
            assert done.exit_code == 0
        (found,) = analyse_run(store, "two").checkpoints
    assert found.wanted == ()
    assert found.kl is not None
    assert not found.alike
    assert found.beside == ""


def test_the_first_arm_without_tools_is_bare_unless_another_is_named(store: Store) -> None:
    analysis = analyse_run(store, "two")
    assert analysis.bare == "base"
    assert [c.arm for c in analysis.comparisons] == ["post"]
    assert analyse_run(store, "two", bare="post").bare == "post"
    assert any("'post' runs another model than 'base': its gain is the model's" in line for line in analysis.warnings)


def test_both_arms_draw_from_the_same_streams_and_compare_task_by_task(store: Store) -> None:
    seeds = {arm: {(a.task, a.sample): a.seed for a in store.attempts("two", arm=arm)} for arm in ("base", "post")}
    assert seeds["base"] == seeds["post"]
    assert analyse_run(store, "two").comparisons[0].tasks == 6


def test_before_anything_is_scored_the_report_says_what_would_do_it(post: Path, tmp_path: Path) -> None:
    data = {**experiment(post), "samples": 2}
    with Store.open(tmp_path / "s.sqlite") as fresh:
        asyncio.run(Runner(parse_experiment(data), fresh).run())
        analysis = analyse_run(fresh, "two")
        (shown,) = [table for table in every_table(analysis) if table.key == "checkpoints"]
        commands = ("testbed nats two --arm post", "testbed nats two --arm post --by reference")
        assert shown.notes[-2:] == commands
        assert shown.columns == ()
        elsewhere = analyse_run(fresh, "two", option=" --store other.sqlite")
    for analysis_, option in ((analysis, ""), (elsewhere, " --store other.sqlite")):
        printed = in_terminal(analysis_)
        assert not re.search(r"^ *arm *$", printed.partition("Checkpoints")[2], re.MULTILINE)
        assert all(f"  {command}{option}" in printed.splitlines() for command in commands)
        assert "<table" not in render_page(analysis_).partition('<h3 id="table-checkpoints">')[2].partition("<h3")[0]
    assert (analysis.checkpoints[0].kl, analysis.checkpoints[0].affordable) == (None, None)


def test_texts_that_were_mostly_sampled_in_other_tokens_are_told_before_the_figures(store: Store) -> None:
    analysis = analyse_run(store, "two")
    (found,) = analysis.checkpoints
    for respelled, first in ((70, True), (3, False)):
        changed = replace(analysis, checkpoints=(replace(found, respelled=respelled),))
        section = in_terminal(changed).partition("Checkpoints, against")[2]
        said = section.index(f"{respelled} of 72 attempts were sampled in")
        assert (said < section.index("controlled")) == first  # a column, whose name no width of the table breaks
        page = render_page(changed).partition('<h3 id="table-checkpoints">')[2]
        assert (page.index(f"{respelled} of 72 attempts were sampled in") < page.index("<table")) == first
        assert section.count("attempts were sampled in") == 1


def test_every_column_of_the_table_is_told_in_its_note(store: Store) -> None:
    (shown,) = [table for table in every_table(analyse_run(store, "two")) if table.key == "checkpoints"]
    for column in ("KL", "Controlled", "Success needs", "Affordable", "Expanded"):
        assert f"{column}: " in shown.notes[0]


def test_what_either_model_gives_the_attempts_is_what_they_were_sampled_with_ends_included(store: Store) -> None:
    by = {record.name: hash_ for hash_, record in store.scores.scorers("two").items()}
    own = store.scores.of("two", next(hash_ for name, hash_ in by.items() if name.startswith("hf:")))
    attempts = {attempt.id: attempt for attempt in store.attempts("two", arm="post")}
    assert set(own.id) == set(attempts)
    compared = 0
    for id_, nats, tokens in zip(own.id, own.nats_of("assistant"), own.tokens_of("assistant"), strict=True):
        sampled = [value for m in attempts[id_].transcript for value in m.get("logprobs", ())]
        if len(sampled) == tokens:
            assert nats == pytest.approx(-sum(sampled), abs=1e-3)
            compared += 1
    assert compared > 0.8 * len(attempts)


def test_the_report_has_kl_the_affordable_share_and_the_verdicts_side_by_side(store: Store) -> None:
    analysis = analyse_run(store, "two")
    (found,) = analysis.checkpoints
    assert (found.arm, found.bare, found.scored, found.unscored, found.alike) == ("post", "base", 72, 0, True)
    assert found.kl.mean.low < found.kl.mean.value < found.kl.mean.high
    assert found.kl.mean.value > found.needed.low
    assert found.kl.mean.value > 0.01
    assert found.affordable.successes == analysis.arm("post").successes > 0
    assert found.affordable.within == round(found.affordable.share.value * found.affordable.successes)
    verdicts = analysis.comparisons[0].full.figures.verdicts
    assert found.expanded == verdicts.counts[Verdict.EXPANDED.value]
    assert found.contradicted == 0
    (shown,) = [table for table in every_table(analysis) if table.key == "checkpoints"]
    assert [row.head for row in shown.rows] == ["post"]
    assert any("word for word with probability 0.68 or more" in note for note in shown.notes)
    page = render_page(analysis)
    assert "Checkpoints, against the model of base" in page
    assert "word for word" in page
    row = json.loads(json.dumps(analysis.as_dict()))["checkpoints"][0]
    assert row["kl"]["mean"]["value"] == pytest.approx(found.kl.mean.value)
    assert row["budget"] == pytest.approx(math.log(4))


def test_the_other_way_round_it_is_another_figure_read_off_the_other_arms_attempts(store: Store) -> None:
    there, back = (analyse_run(store, "two", bare=bare).checkpoints[0] for bare in ("base", "post"))
    assert there.kl is not None
    assert [a.split()[:4] for a in back.wanted] == [["nats", "two", "--arm", "base"]] * 2
    assert there.kl.mean.value == pytest.approx(np.mean(there.kl.per_task))


def test_expanded_tasks_whose_text_the_base_writes_often_enough_are_told_as_wrong(store: Store, monkeypatch) -> None:
    tasks = [task.hash for task in store.tasks("two")]
    monkeypatch.setattr(checkpoints, "_expanded", lambda comparison: set(tasks))
    analysis = analyse_run(store, "two")
    (found,) = analysis.checkpoints
    hash_ = next(hash_ for hash_, scorer in store.scores.scorers("two").items() if scorer.name == "reference")
    scores = store.scores.of("two", hash_)
    often = np.exp(-scores.nats_of("assistant")) >= 1 - 0.5 ** (1 / 4)
    by_hand = {tasks[n] for n in scores.task[(scores.arm == 1) & (scores.success == 1) & often]}
    assert found.contradicted == len(by_hand) > 0
    (shown,) = [table for table in every_table(analysis) if table.key == "checkpoints"]
    assert any(f"{len(by_hand)} of 6 expanded tasks" in note and "are wrong" in note for note in shown.notes)


@pytest.mark.parametrize("beside", ["", "base_tools"])
def test_with_tools_the_base_is_read_as_if_it_had_been_offered_them(post: Path, tmp_path: Path, beside: str) -> None:
    data = {**experiment(post, tools=["search"]), "samples": 3, "budget": {"turns": 3}}
    data["arm"] += [{"name": beside, "tools": ["search"]}] if beside else []
    data |= {"env": [{"id": "Facts-v0", "kind": "document", "tasks": 3}], "tool": {"search": {"corpus": "Facts-v0"}}}
    data["model"] = {**data["model"], "max_tokens": 64}
    with Store.open(tmp_path / "s.sqlite") as fresh:
        asyncio.run(Runner(parse_experiment(data), fresh).run())
        for by in ("", "reference"):
            asyncio.run(Scoring(fresh, "two", arm="post", by=by).run())
        analysis = analyse_run(fresh, "two")
        called = [a for a in fresh.attempts("two", arm="post") if a.cost.tool_calls]
        tasks = [task.hash for task in fresh.tasks("two")]
        successes = {
            arm.name: [sum(bool(a.success) for a in fresh.attempts("two", arm=arm.name) if a.task == h) for h in tasks]
            for arm in analysis.arms
        }
    (found,) = analysis.checkpoints
    assert called
    assert (found.alike, found.contradicted, found.scored) == (False, None, 9)
    assert found.respelled <= 2  # tokens come out as they were generated, over all turns
    assert found.kl.mean.value > 0
    (shown,) = [table for table in every_table(analysis) if table.key == "checkpoints"]
    assert found.affordable.within == 0 or "made as those of post are" in " ".join(shown.notes)
    assert found.beside == beside  # what the tools add is no part of the checkpoints' divergence
    if beside:
        (p, q) = (np.array(successes[name]) for name in (beside, "post"))  # of 3 attempts at each task, smoothed
        p, q = (p + 0.5) / 4, (q + 0.5) / 4
        kl = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
        assert found.needed.value == pytest.approx(np.where(q > p, kl, 0).mean())
        assert any("the least that base_tools would need of it to succeed as often" in note for note in shown.notes)
    else:
        assert found.needed is None
        assert any(
            "no arm has the model of base under the system text, tools and budget of post" in note
            for note in shown.notes
        )


@pytest.mark.parametrize(("arm", "kl", "share"), [("post", False, True), ("base", True, False)])
def test_other_policies_than_the_models_own_are_not_taken_for_it(store: Store, monkeypatch, arm, kl, share) -> None:
    run, of = store.run("two"), Store.run
    at = [record.name for record in run.arms].index(arm)
    arms = list(run.arms)
    arms[at] = replace(arms[at], spec={**arms[at].spec, "sampling": {"temperature": 0.7, "top_p": 1.0}})
    monkeypatch.setattr(Store, "run", lambda self, name: replace(of(self, name), arms=tuple(arms)))
    (found,) = analyse_run(store, "two").checkpoints
    assert ((found.kl is not None), (found.affordable is not None)) == (kl, share)
    assert (found.no_kl or found.no_share).startswith(f"{arm} was not sampled at temperature 1")


async def test_the_end_of_a_message_has_the_probability_it_was_drawn_with(tmp_path: Path) -> None:
    import torch

    from helpers.tiny_models import ask, make_tokenizer, random_model, save
    from testbed.models.hf import HuggingFace

    tiny = random_model()
    with torch.no_grad():  # one that ends its messages now and then
        hidden = tiny.model(torch.arange(6, 40)[None]).last_hidden_state[0].mean(0)
        tiny.lm_head.weight[5] = 9 * hidden / (hidden @ hidden)
    model = HuggingFace(save(tiny, make_tokenizer(), tmp_path), device="cpu", system="")
    requests = [ask(max_tokens=12, stream=n, logprobs=True, sampling=Sampling()) for n in range(60)]
    replies = await asyncio.gather(*(model.generate(request) for request in requests))
    said = [r for r in replies if r.finish == "stop"]
    talks = [[*requests[0].messages, {"role": "assistant", "content": r.text}] for r in said]
    scores = [(await model.score(talk, (), [1]))[0] for talk in talks]
    await model.aclose()
    # Texts may be split into other tokens than were sampled: those that are not, by what their tokens were given.
    same = [
        (r, s)
        for r, s in zip(said, scores, strict=True)
        if r.logprobs[:-1] == pytest.approx(list(s.logprobs), abs=1e-3)
    ]
    assert len(same) >= 10
    for reply, score in same:
        assert score.end == pytest.approx(reply.logprobs[-1], abs=1e-3)
    assert not all(s.logprobs for _, s in same)  # also where it ended at once


def attempt(*texts: str, generated: int) -> Attempt:
    said = [{"role": "user", "content": "?"}]
    for text in texts:
        said += [{"role": "assistant", "content": text}, {"role": "user", "content": "go on"}]
    cost = Cost(generated_tokens=generated)
    return Attempt("i", "t", "a", 0, 0, "complete", "limit:turns", False, None, None, cost, {}, said)


@pytest.mark.parametrize(
    ("texts", "sizes", "generated", "ended"),
    [
        (["a b"], [2], 3, {1}),  # two words and an end
        (["a b"], [2], 2, set()),  # cut by the token budget
        (["<answer>1</answer>"], [3], 3, set()),  # ended by the tag
        (["a b c d"], [4], 4, set()),  # by max_tokens
        (["a", "b c"], [1, 2], 5, {1, 3}),
        (["a", "b c"], [1, 2], 4, {1}),  # the budget cuts the last one only
        ([""], [0], 1, {1}),
    ],
)
def test_a_message_ended_itself_where_no_tag_and_no_limit_did(texts, sizes, generated, ended) -> None:
    made = attempt(*texts, generated=generated)
    assert own_ends(made, {2 * n + 1: size for n, size in enumerate(sizes)}, 4) == ended


def test_the_documented_experiment_gives_each_arm_its_own_model() -> None:
    text = (Path(__file__).parents[1] / "docs" / "experiment_file.md").read_text(encoding="utf-8")
    block = text.partition("## Arms of two checkpoints")[2].partition("```toml\n")[2].partition("```")[0]
    found = parse_experiment({**tomllib.loads(block), "name": "two", "env": [{"id": "Multiplication-v0"}]})
    assert [(arm.model, arm.model_options) for arm in found.arms] == [
        ("hf:models/base", {}),
        ("hf:models/sft-step-4000", {"system": ""}),
    ]
    assert {arm.sampling.max_tokens for arm in found.arms} == {256}
    assert found.measure.bare == "base"


def test_compare_says_the_kl_of_the_report_and_what_tokenizers_files_come_to(
    store: Store,
) -> None:
    (told,) = analyse_run(store, "two").checkpoints
    both = [read_side(store, store.run("two"), arm, letter) for arm, letter in (("base", "A"), ("post", "B"))]
    found = compare_sides(*both)
    assert found.divergence is not None
    assert told.kl is not None
    assert (found.divergence.own, found.divergence.right) == ("A", told.kl.mean)
    (model,) = [difference.lines for difference in found.differs if difference.topic == "model"]
    assert "tokenizer's files, which make the same tokens and prompts" in model
