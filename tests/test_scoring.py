"""Stored attempts under a model that reads them: the same figures as when they were written, each made once."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.tiny_models import TEMPLATE, TOOL, has_reference, make_tokenizer, random_model, save
from testbed import scoring
from testbed.cli import app
from testbed.errors import ContextFull, ModelError, ModelNotAsked, UnknownName, UsageError
from testbed.experiment_file import parse_experiment
from testbed.models import make_model
from testbed.models.base import Score
from testbed.models.hf import HuggingFace
from testbed.models.scripted import Scripted
from testbed.nats_command import parts
from testbed.preparation import Prepared
from testbed.protocol import NO_ACTION
from testbed.recording import Recording
from testbed.report.analyse import analyse_run
from testbed.runner import Runner
from testbed.scoring import ArmScored, Scoring, read_by_model
from testbed.scoring_alike import check_prompts, check_same, offered
from testbed.store import ArmRecord, Store

EXPERIMENT: dict[str, Any] = {
    "name": "facts",
    "samples": 3,
    "model": {"id": "reference", "max_tokens": 64, "logprobs": True},
    "tool": {"search": {"corpus": "Facts-v0", "k": 2}},
    "env": [{"id": "Facts-v0", "kind": "document", "tasks": 3}],
    "arm": [{"name": "bare"}, {"name": "search", "tools": ["search"]}],
}
REFERENCE = pytest.mark.usefixtures("made")
pytestmark = has_reference


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run whose log-probabilities were kept, not yet scored."""
    path = tmp_path_factory.mktemp("scoring") / "s.sqlite"
    with Store.open(path) as store:
        asyncio.run(Runner(parse_experiment(EXPERIMENT), store).run())
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of it."""
    import sqlite3

    with sqlite3.connect(made) as one, sqlite3.connect(tmp_path / "s.sqlite") as other:
        one.backup(other)
    with Store.open(tmp_path / "s.sqlite") as opened:
        yield opened


async def test_what_the_model_wrote_scores_as_it_was_sampled_and_what_tools_said_as_by_hand(store: Store) -> None:
    scored = await Scoring(store, "facts").run()
    assert [(each.arm, each.done, each.total) for each in scored] == [("bare", 9, 9), ("search", 9, 9)]
    (hash_,) = store.scores.scorers("facts")
    found = store.scores.of("facts", hash_)
    attempts = {attempt.id: attempt for attempt in store.attempts("facts")}
    compared = 0
    for n, id_ in enumerate(found.id):
        own = [m for m in attempts[id_].transcript if m["role"] == "assistant"]
        mine = found.nats[(found.attempt == n) & (found.role == "assistant")]
        sizes = found.tokens[(found.attempt == n) & (found.role == "assistant")]
        for message, nats, size in zip(own, mine, sizes, strict=True):
            if len(message["logprobs"]) == size:  # sampled as the tokenizer itself would write it
                assert nats == pytest.approx(-sum(message["logprobs"]), abs=2e-4)
                compared += 1
    assert compared >= 12
    model = make_model("reference")
    run = store.run("facts")
    told = next(n for n in range(len(found.id)) if found.arm[n] == 1 and found.messages_of("tool")[n])
    messages = attempts[found.id[told]].transcript
    (by_hand,) = await model.score(messages, json.loads(run.arms[1].spec["schemas"]), [2])
    assert found.nats_of("tool")[told] == pytest.approx(by_hand.nats - by_hand.end, abs=1e-3)
    await model.aclose()


async def test_scoring_goes_on_where_it_was_stopped_and_nothing_is_scored_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "AT_ONCE", 2)
    add, calls = store.scores.add, []

    def fails_later(*rows: Any) -> None:
        calls.append(rows)
        if len(calls) > 3:
            raise KeyboardInterrupt
        add(*rows)

    monkeypatch.setattr(store.scores, "add", fails_later)
    with pytest.raises(KeyboardInterrupt):
        await Scoring(store, "facts").run()
    monkeypatch.setattr(store.scores, "add", add)
    again = await Scoring(store, "facts").run()
    assert (again[0].before, again[0].done) == (6, 9)
    (hash_,) = store.scores.scorers("facts")
    before = store.scores.of("facts", hash_)
    assert [each.done - each.before for each in await Scoring(store, "facts").run()] == [0, 0]
    assert np.array_equal(before.nats, store.scores.of("facts", hash_).nats)


async def test_what_was_scored_before_a_server_went_is_kept_and_the_rest_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    score, asked = HuggingFace.score, []

    async def goes_away(self: HuggingFace, *conversation: Any) -> list[Score]:
        asked.append(conversation)
        if len(asked) > 3:
            raise ModelNotAsked("the server went away")
        return await score(self, *conversation)

    monkeypatch.setattr(HuggingFace, "score", goes_away)
    cut = await Scoring(store, "facts", arm="bare").run()
    assert [(each.done, each.unread, dict(each.left_out)) for each in cut] == [(3, 5, {"the server went away": 5})]
    assert len(asked) == 8  # two batches: the third would fare no better
    monkeypatch.setattr(HuggingFace, "score", score)
    again = await Scoring(store, "facts", arm="bare").run()
    assert [(each.before, each.done, each.unread) for each in again] == [(3, 9, 0)]


async def test_attempts_that_no_model_can_read_are_no_sign_that_a_server_went(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "AT_ONCE", 2)
    score, asked = HuggingFace.score, []

    async def refuses_some(self: HuggingFace, *conversation: Any) -> list[Score]:
        asked.append(conversation)
        if len(asked) == 1:
            raise ModelNotAsked("the server had no time")
        if len(asked) in (3, 4):  # a whole batch
            raise ContextFull("the conversation is too long")
        return await score(self, *conversation)

    monkeypatch.setattr(HuggingFace, "score", refuses_some)
    (found,) = await Scoring(store, "facts", arm="bare").run()
    assert (found.done, found.unread, len(asked)) == (6, 1, 9)


async def test_one_attempt_that_cannot_be_read_is_not_why_a_server_that_went_read_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def goes_away(self: HuggingFace, *conversation: Any) -> list[Score]:
        asked.append(conversation)
        raise ModelNotAsked("the server went away") if asked[1:] else ModelError("this one is not as it was said")

    monkeypatch.setattr(HuggingFace, "score", goes_away)
    (found,) = await Scoring(store, "facts", arm="bare").run()
    assert (found.done, found.unread, found.refused) == (0, 8, "")


def test_the_command_names_a_server_that_is_down_and_how_to_go_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    asked = ["nats", "facts", "--arm", "bare", "--by", "chat:openai:gone", "--store", str(tmp_path / "s.sqlite")]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 3
    assert "bare: 9 left out: chat:openai:gone: no connection" in told.output
    assert "http://127.0.0.1:9/v1" in told.output
    assert f"go on with: testbed nats facts --arm bare --by chat:openai:gone --store {tmp_path}" in told.stderr


async def test_another_model_scores_beside_the_own_one(store: Store, tmp_path: Path) -> None:
    path = save(random_model(context=2048), make_tokenizer(), tmp_path / "other")
    await Scoring(store, "facts", arm="bare").run()
    await Scoring(store, "facts", arm="bare", by=f"hf:{path}").run()
    by = {record.name: hash_ for hash_, record in store.scores.scorers("facts").items()}
    own, other = (store.scores.of("facts", by[name]) for name in ("reference", f"hf:{path}"))
    assert np.array_equal(own.id, other.id)
    assert store.scores.scorers("facts")[by[f"hf:{path}"]].fingerprint["system"] == ""  # as the reference model reads
    assert own.nats.sum() < other.nats.sum()


async def test_a_model_whose_template_rewrites_what_is_said_is_refused_at_the_first_attempts(
    store: Store, tmp_path: Path
) -> None:
    rewriting = make_tokenizer(TEMPLATE.replace("{{ message.content }}", "{{ message.content | upper }}"))
    path = save(random_model(context=2048), rewriting, tmp_path / "other")
    with pytest.raises(UsageError, match=r"arm 'bare': the chat template of hf:.* does not show message 1 word for"):
        await Scoring(store, "facts", arm="bare", by=f"hf:{path}").run()
    assert store.scores.scorers("facts") == {}


def test_keeping_log_probabilities_changes_neither_arms_nor_what_is_said(store: Store, tmp_path: Path) -> None:
    without = {**EXPERIMENT, "model": {"id": "reference", "max_tokens": 64}}
    with Store.open(tmp_path / "w.sqlite") as other:
        asyncio.run(Runner(parse_experiment(without), other).run())
        plain = {attempt.id: attempt for attempt in other.attempts("facts")}
    kept = {attempt.id: attempt for attempt in store.attempts("facts")}
    assert plain.keys() == kept.keys()
    assert all(plain[id_].same_outcome(kept[id_]) for id_ in plain)
    assert not any("logprobs" in m for attempt in plain.values() for m in attempt.transcript)
    for attempt in kept.values():
        written = [m["logprobs"] for m in attempt.transcript if m["role"] == "assistant"]
        assert sum(map(len, written)) == attempt.cost.generated_tokens
        assert all(value <= 0 for values in written for value in values)


@pytest.mark.parametrize("model", [{"id": "oracle"}, {"id": "scripted", "replies": ["<answer>1</answer>"]}])
async def test_models_that_have_no_log_probabilities_are_refused_by_name(model: dict[str, Any], tmp_path: Path) -> None:
    data = {**EXPERIMENT, "name": "o", "arm": [{"name": "bare"}]}
    with pytest.raises(UsageError, match=f"{model['id']}.*does not tell the log-prob"):
        await Prepared(parse_experiment({**data, "model": {**model, "logprobs": True}}), {}, Store.open).start()
    with pytest.raises(UsageError, match="logprobs must be true or false"):
        parse_experiment({**data, "model": {**model, "logprobs": 1}})
    with Store.open(tmp_path / "o.sqlite") as store:
        await Runner(parse_experiment({**data, "model": model}), store).run()
        with pytest.raises(UsageError, match=f"arm 'bare': {model['id']} does not say how likely"):
            await Scoring(store, "o").run()
        with pytest.raises(UnknownName, match=r"run 'o' has no arm 'baer'\. Did you mean 'bare'"):
            Scoring(store, "o", arm="baer")


async def test_a_reason_that_holds_for_several_arms_is_told_once(tmp_path: Path) -> None:
    arms = [{"name": "bare"}, {"name": "again", "budget": {"turns": 1}}]
    data = {**EXPERIMENT, "name": "o", "model": {"id": "oracle"}, "arm": arms}
    with Store.open(tmp_path / "o.sqlite") as store:
        await Runner(parse_experiment(data), store).run()
        with pytest.raises(UsageError) as caught:
            await Scoring(store, "o").run()
    assert "arms 'bare', 'again': oracle does not say" in str(caught.value)
    assert str(caught.value).count("oracle") == 1


async def test_another_model_than_the_one_that_wrote_is_refused_with_what_differs(store: Store) -> None:
    record, model = store.run("facts").arms[0], make_model("reference")
    check_same(record, model)
    elsewhere = {**record.spec["model"], "device": "cuda", "dtype": "bfloat16"}
    check_same(replace(record, spec={**record.spec, "model": elsewhere}), model)
    other = {**record.spec["model"], "weights": "x"}
    with pytest.raises(ModelError, match=r'weights "x" → '):
        check_same(replace(record, spec={**record.spec, "model": other}), model)


async def test_prompts_that_do_not_come_out_as_they_were_read_are_refused(store: Store) -> None:
    run = store.run("facts")
    spec = run.arms[1].spec
    attempt = next(store.attempts("facts", arm="search"))
    with pytest.raises(ModelError, match=f"{attempt.id[:12]} cannot be shown as its model read it"):
        check_prompts(attempt, [TOOL, TOOL], make_model("reference"), ArmRecord("h", "search", spec))


def test_tools_are_shown_in_the_order_in_which_they_were_described(tmp_path: Path) -> None:
    model = HuggingFace(save(random_model(), make_tokenizer(), tmp_path), device="cpu")
    unsorted = {"type": "function", "function": {"parameters": {}, "name": "lookup", "description": "d"}}
    kept = ArmRecord("h", "a", {"tools": [{"schema": TOOL}], "schemas": json.dumps([unsorted])})
    assert list(offered(kept, model)[0]["function"]) == ["parameters", "name", "description"]
    before = ArmRecord("h", "a", {"tools": [{"schema": TOOL}]})
    with pytest.raises(ModelError, match="did not keep in which order"):
        offered(before, model)
    assert offered(before, make_model("reference")) == [TOOL]  # whose template shows names alone


def test_a_replay_shows_its_tools_in_that_order_too(store: Store) -> None:
    data = {**EXPERIMENT, "name": "again", "replay": "facts", "arm": EXPERIMENT["arm"][1:]}
    recording = Recording(parse_experiment(data).arms[0], lambda: store)
    assert json.dumps(recording.tools().schemas) == store.run("facts").arms[1].spec["schemas"]
    assert json.dumps(recording.tools().schemas) != json.dumps(recording.tools().schemas, sort_keys=True)
    recording.close()


async def test_a_text_without_any_probability_is_left_out_and_the_report_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = HuggingFace.score, iter(range(100))

    async def impossible(self: HuggingFace, messages: Any, tools: Any, which: Any) -> list[Score]:
        found = await read(self, messages, tools, which)
        return [replace(score, logprobs=(-math.inf,)) for score in found] if next(seen) % 2 else found

    monkeypatch.setattr(HuggingFace, "score", impossible)
    (scored,) = await Scoring(store, "facts", arm="search").run()
    assert (scored.done, scored.total) == (5, 9)
    assert list(scored.left_out) == ["a message of it has no probability at all to the model that reads it"]
    (hash_,) = store.scores.scorers("facts")
    assert np.isfinite(store.scores.of("facts", hash_).nats).all()
    analyse_run(store, "facts")


async def test_attempts_that_come_while_it_scores_wait_for_the_next_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = store.attempts

    def earlier(*names: Any, texts: bool = True, **more: Any) -> Iterator[Any]:
        found = attempts(*names, texts=texts, **more)
        yield from found if texts else list(found)[:4]

    monkeypatch.setattr(store, "attempts", earlier)
    (scored,) = await Scoring(store, "facts", arm="bare").run()
    assert (scored.done, scored.total) == (4, 4)
    monkeypatch.undo()
    (scored,) = await Scoring(store, "facts", arm="bare").run()
    assert (scored.before, scored.done, scored.total) == (4, 9, 9)


async def test_the_own_model_named_with_by_is_checked_like_the_own_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HuggingFace, "prompt", lambda *_: (1,))
    with pytest.raises(UsageError, match="cannot be shown as its model read it"):
        await Scoring(store, "facts", arm="bare", by="reference").run()


def test_notes_on_calls_that_no_tool_was_given_are_nobodys_words() -> None:
    def told(fault: str) -> dict[str, str]:
        return {"role": "tool", "content": f"error: {fault}", "fault": fault}

    said = [{"role": "user", "content": "?"}]
    for fault in ("parse_error", "tool_not_found", "budget_exhausted", "invalid_args", "execution_error", "timeout"):
        said += [{"role": "assistant", "content": "a call"}, told(fault)]
    said.append({"role": "assistant", "content": "<answer>1</answer>"})
    roles = read_by_model(said)[1]
    assert [n for n, role in roles.items() if role == "tool"] == [8, 10, 12]  # the tool's own: it saw the arguments


def test_only_what_the_model_read_or_wrote_is_scored_and_nothing_that_is_given() -> None:
    said = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "hm"},
        {"role": "user", "content": NO_ACTION},
        {"role": "assistant", "content": "<answer>1</answer>"},
        {"role": "user", "content": "That is wrong. Answers left: 1."},
        {"role": "assistant", "content": "<tool_call>{}</tool_call>"},
        {"role": "tool", "content": "never read"},
        {"role": "system", "content": "the context is full"},
    ]
    messages, roles = read_by_model(said)
    assert messages == said[:6]
    assert roles == {1: "assistant", 3: "assistant", 4: "feedback", 5: "assistant"}
    assert read_by_model(said[:1]) == ([], {})


def test_the_command_says_who_scored_how_many_and_refuses_what_it_cannot_score(store: Store, tmp_path: Path) -> None:
    where = ["--store", str(tmp_path / "s.sqlite")]
    done = CliRunner().invoke(app, ["nats", "facts", "--arm", "bare", *where], catch_exceptions=False)
    assert done.exit_code == 0
    assert "bare: 9 of 9 attempts have scores by reference, 9 of them new" in done.output
    with pytest.raises(UnknownName, match="facts"):
        CliRunner().invoke(app, ["nats", "fact", *where], catch_exceptions=False)


class Endless(Scripted):
    """Tells of texts how likely they are, and nothing of their ends, as most servers."""

    async def score(self, messages: Any, tools: Any, which: Any) -> list[Score]:
        return [Score(n, (-1.0,)) for n in which]


async def test_ends_that_the_scorer_does_not_tell_are_told_to_be_left_out(tmp_path: Path) -> None:
    model = Endless(["I do not know."], name="chat:endless")
    data = {**EXPERIMENT, "model": {"id": "chat:endless"}, "arm": [{"name": "bare"}]}
    with Store.open(tmp_path / "e.sqlite") as fresh:
        await Runner(parse_experiment(data), fresh, models={"chat:endless": model}).run()
        scored = await Scoring(fresh, "facts", models={"chat:endless": model}).run()
    assert (scored[0].endless, scored[0].done) == (9, 9)
    assert "in 9 of these what the model wrote counts without the ends of messages" in "".join(parts(scored))


@pytest.mark.parametrize(("why", "ends"), [("no model. Did you mean 'base'?", "'base'?"), ("it is down.", "down.")])
def test_why_nothing_is_scored_ends_with_one_stop(why: str, ends: str) -> None:
    told = scoring._why([ArmScored("bare", refused=why), ArmScored("live", refused=why)])
    assert told.startswith("arms 'bare', 'live': ")
    assert told.endswith(ends)
