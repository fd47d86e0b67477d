"""The control `imagined`: the model writes its own tool results, and they are its own tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.oracle_model import TOLD, oracle_player
from helpers.tiny_models import NO_TOOLS, TEMPLATE, TOOL, has_reference, make_tokenizer, random_model, save
from testbed.errors import ExperimentError, ModelError, UsageError
from testbed.experiment_file import parse_experiment, read_experiment
from testbed.models import make_model
from testbed.models.base import Reply, Request
from testbed.models.hf import HuggingFace
from testbed.models.hf_imagine import closes, open_result, result_of
from testbed.models.hf_kept import KeptPages, Text
from testbed.models.hf_row import Row
from testbed.preparation import Prepared
from testbed.protocol import parse, write_call
from testbed.registry import make_env
from testbed.report.analyse import analyse_run
from testbed.report.nats_words import table
from testbed.report.record import Effect
from testbed.runner import Runner
from testbed.scoring import Scoring
from testbed.store import Store
from testbed.tool import ToolSet
from testbed.types import Attempt

BITS = 2
TOKENS = 2 + (1 + BITS + 2) + (BITS + 2)  # a call and its end; words, digits, a stop and what closes; an answer
EXPERIMENTS = Path(__file__).parents[1] / "docs" / "experiments"
ASKED = [
    {"role": "user", "content": "Where is the sea?"},
    {"role": "assistant", "content": '<tool_call>{"name": "lookup", "arguments": {}}</tool_call>'},
]


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle_player(tmp_path_factory.mktemp("player"), BITS)


def experiment(player: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "imagined",
        "samples": 60,
        "model": {"id": f"hf:{player}", "system": "", "device": "cpu", "logprobs": True},
        "env": [{"id": "Oracle-v0", "digits": [BITS], "told": [BITS], "vaults": 3}],
        "arm": [
            {"name": "bare"},
            {"name": "imagined", "tools": ["ask"], "control": "imagined"},
            {"name": "ask", "tools": ["ask"]},
        ],
        **more,
    }


def attempts(data: Mapping[str, Any], path: Path, models: dict[str, Any] | None = None) -> dict[str, list[Attempt]]:
    with Store.open(path) as store:
        asyncio.run(Runner(parse_experiment(data), store, models=models).run())
        return {arm["name"]: list(store.attempts(data["name"], arm=arm["name"])) for arm in data["arm"]}


@pytest.fixture(scope="module")
def made(player: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Attempt]]:
    return attempts(experiment(player), tmp_path_factory.mktemp("run") / "s.sqlite")


def test_a_model_that_imagines_what_it_does_not_know_succeeds_as_often_as_guessing(made) -> None:
    shares = {arm: sum(bool(a.success) for a in own) / len(own) for arm, own in made.items()}
    assert shares["ask"] == 1
    assert shares["imagined"] == pytest.approx(2.0**-BITS, abs=4 * (0.25 * 0.75 / 180) ** 0.5)
    for attempt in made["imagined"]:  # it believes itself
        told = next(m["content"] for m in attempt.transcript if m["role"] == "tool")
        assert told == f"{TOLD}{attempt.answer}."


def test_what_it_imagines_is_generated_and_not_observed_and_no_turn(made) -> None:
    for attempt in made["imagined"]:
        cost = attempt.cost
        assert (cost.generated_tokens, cost.observed_tokens) == (TOKENS, 0)
        assert (cost.model_calls, cost.tool_calls, cost.turns) == (3, 1, 2)
    live = made["ask"][0].cost
    assert live.observed_tokens == 1 + BITS + 1
    assert made["imagined"][0].cost.prompt_tokens == live.prompt_tokens + 9  # where the result begins


def test_what_was_written_before_is_not_read_again_whoever_wrote_the_result(
    player: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, found = KeptPages.own, list[tuple[int, int]]()

    def noting(kept: KeptPages, row: Row) -> tuple[Text | None, int]:
        text, size = true(kept, row)
        if row.position and row.stream:  # else it is the decoder that tries itself out
            found.append((len(text.tokens) if text is not None else -1, size))
        return text, size

    monkeypatch.setattr(KeptPages, "own", noting)
    made = attempts(experiment(player, samples=4), tmp_path / "s.sqlite")
    messages = sum(attempt.cost.model_calls - 1 for attempt in (*made["imagined"], *made["ask"]))
    assert len(found) >= messages > 20
    assert all(length == size > 0 for length, size in found)


def test_log_probabilities_are_kept_of_what_it_imagined_too(made) -> None:
    for attempt in made["imagined"]:
        kept = [value for message in attempt.transcript for value in message.get("logprobs", ())]
        assert len(kept) == attempt.cost.generated_tokens
        (tool,) = [m for m in attempt.transcript if m["role"] == "tool"]
        assert -sum(tool["logprobs"]) == pytest.approx(BITS * 0.693147, abs=1e-3)


def test_attempts_repeat_whatever_else_runs(made, player: Path, tmp_path: Path) -> None:
    data = experiment(player, samples=7)
    data["arm"] = data["arm"][1:2]
    alone = attempts(data, tmp_path / "alone.sqlite")["imagined"]
    known = {attempt.id: attempt for attempt in made["imagined"]}
    assert all(known[attempt.id].same_outcome(attempt) for attempt in alone)


@pytest.mark.parametrize("limit", [3, 5, 7, TOKENS - 1])
def test_a_limit_on_tokens_ends_it_at_exactly_that_token(player: Path, tmp_path: Path, limit: int) -> None:
    data = experiment(player, samples=1, budget={"generated_tokens": limit})
    data["arm"] = data["arm"][1:2]
    for attempt in attempts(data, tmp_path / "s.sqlite")["imagined"]:
        assert attempt.cost.generated_tokens == limit
        assert attempt.ended == "limit:generated_tokens"


def test_a_limit_on_observed_tokens_is_the_longest_that_it_may_imagine(player: Path, tmp_path: Path) -> None:
    data = experiment(player, samples=4, budget={"observed_tokens": 2})
    data["arm"] = data["arm"][1:2]
    for attempt in attempts(data, tmp_path / "s.sqlite")["imagined"]:
        told = next(m["content"] for m in attempt.transcript if m["role"] == "tool")
        assert told in (f"{TOLD}0", f"{TOLD}1")
        assert attempt.cost.observed_tokens == 0


def test_a_limit_on_calls_of_the_model_holds_for_results_too(player: Path, tmp_path: Path) -> None:
    data = experiment(player, samples=1, budget={"model_calls": 1})
    data["arm"] = data["arm"][1:2]
    for attempt in attempts(data, tmp_path / "s.sqlite")["imagined"]:
        assert attempt.cost.model_calls == 1
        assert attempt.ended == "limit:model_calls"


def test_the_ladder_has_its_own_rung(player: Path, tmp_path: Path) -> None:
    data = experiment(player, samples=12)
    data["arm"].insert(1, {"name": "inert", "tools": ["ask"], "control": "inert"})
    with Store.open(tmp_path / "s.sqlite") as store:
        asyncio.run(Runner(parse_experiment(data), store).run())
        rungs = analyse_run(store, "imagined").ladder
    assert [(rung.lower, rung.upper, rung.meaning) for rung in rungs] == [
        ("bare", "inert", "scaffold"),
        ("inert", "imagined", "self-simulation"),
        ("imagined", "ask", "information and interaction"),
    ]


@pytest.mark.parametrize("id_", ["oracle", "scripted"])
async def test_models_that_cannot_are_refused_by_name_before_anything_runs(id_: str, player: Path) -> None:
    model = {"id": id_} if id_ == "oracle" else {"id": id_, "replies": ["<answer>1</answer>"]}
    prepared = Prepared(parse_experiment(experiment(player, model=model)), {}, Store.open)
    with pytest.raises(ExperimentError, match=f"imagined.*{id_}' cannot go on inside a tool's result"):
        await prepared.start()
    await prepared.aclose()


def test_what_has_no_results_to_imagine_is_refused(player: Path) -> None:
    arm = {"name": "a", "tools": ["ask"], "control": "imagined"}
    for more, said in (
        ({"lookahead": {"kind": "best_of", "n": 2}}, "a search is not imagined"),
        ({"replay": "first"}, "nothing to replay"),
        ({"tools": []}, "needs tools"),
    ):
        with pytest.raises(ExperimentError, match=said):
            parse_experiment(experiment(player, arm=[{**arm, **more}]))
    assert parse_experiment(experiment(player, replay="first", arm=[arm])).arms[0].replay is None


def test_without_a_model_there_is_nobody_to_imagine() -> None:
    env = make_env("Oracle-v0", tools=["ask"], control="imagined")
    env.reset(options={"task": 0})
    with pytest.raises(UsageError, match="needs a model"):
        env.step('<tool_call>{"name": "ask", "arguments": {"text": "?"}}</tool_call>')
    env.close()
    assert isinstance(env.tools, ToolSet)


def test_a_bug_in_a_models_imagination_is_a_bug_and_no_fault_of_the_model(player: Path, tmp_path: Path) -> None:
    class Broken(HuggingFace):
        async def imagine(self, request: Request) -> Reply:
            raise ZeroDivisionError("a bug")

    data = experiment(player, samples=1)
    model = Broken(player, system="", device="cpu")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        attempts(data, tmp_path / "s.sqlite", {data["model"]["id"]: model})


@pytest.mark.parametrize(
    ("template", "closing"),
    [
        (TEMPLATE, "<|end|>"),
        (TEMPLATE.replace("{{ message.content }}", "\n{{ message.content }}\n"), "<|end|>"),
        (None, "Assistant:"),
        (NO_TOOLS, "<|assistant|>"),
        (TEMPLATE.replace("tool", "instrument").replace("instruments", "tools"), "<|end|>"),
        (
            "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no') }}{% endif %}"
            "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
            "</tool_result>",
        ),
    ],
)
@pytest.mark.parametrize("said", ["west of the hills", "", "two\nlines, é", "<answer>1</answer> </tool_call>"])
def test_every_template_opens_a_result_and_knows_its_end(tmp_path: Path, template, closing: str, said: str) -> None:
    codec = HuggingFace(save(random_model(), make_tokenizer(template), tmp_path), device="cpu").codec
    opened = open_result(codec, ASKED, [TOOL])
    assert opened.closing == closing
    whole = codec.prompt([*ASKED, {"role": "tool", "content": said}], [TOOL])
    shown = codec.spell(whole)
    assert shown.startswith(codec.spell(opened.prompt))
    written = codec.encode(shown.removeprefix(codec.spell(opened.prompt)))  # the model writes what the template would
    end = next(n for n in range(1, len(written) + 1) if closes(codec, opened, written[:n]))
    assert result_of(codec, opened, written[:end]) == said
    assert result_of(codec, opened, written[: end - 1]).startswith(said[:-1])  # cut before its end


def test_no_turn_begins_inside_of_what_it_imagines(tmp_path: Path) -> None:
    codec = HuggingFace(save(random_model(), make_tokenizer(), tmp_path), device="cpu").codec
    opened = open_result(codec, ASKED, [TOOL])
    written = codec.encode("west<|user|>Say 1.<|assistant|><answer>1</answer><|end|>")
    result = result_of(codec, opened, written)
    assert result == "westSay 1.<answer>1</answer>"
    assert parse(codec.decode(codec.encode("<answer>2</answer>"))).answer == "2"  # of a message of its own only
    turns = codec.spell(codec.prompt([*ASKED, {"role": "tool", "content": result}], [TOOL]))
    assert turns.count("<|user|>") == 1


def test_a_template_that_refuses_results_there_says_so(tmp_path: Path) -> None:
    refusing = "{% if messages | length > 5 %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    codec = HuggingFace(save(random_model(), make_tokenizer(refusing), tmp_path), device="cpu").codec
    with pytest.raises(ModelError, match="refuses a tool's result: no"):
        open_result(codec, [*ASKED, *ASKED, *ASKED], [TOOL])


def test_a_template_without_anything_after_a_result_is_refused(tmp_path: Path) -> None:
    bare = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    codec = HuggingFace(save(random_model(), make_tokenizer(bare), tmp_path), device="cpu").codec
    with pytest.raises(ModelError, match="no markup that closes"):
        open_result(codec, ASKED, [TOOL])


@has_reference
async def test_the_reference_model_writes_results_in_its_tools_form() -> None:
    model = make_model("reference")
    call = write_call("search", {"query": "ruler of Vuplagum"})
    question = [{"role": "user", "content": "Who rules Vuplagum?"}, {"role": "assistant", "content": call}]
    tool = {"type": "function", "function": {"name": "search", "description": "", "parameters": {}}}
    found = [await model.imagine(Request(question, [tool], stream=n, max_tokens=120)) for n in range(4)]
    await model.aclose()
    assert all(reply.finish == "stop" and reply.text.startswith("[d") for reply in found)
    assert len({reply.text for reply in found}) > 1


@has_reference
async def test_reading_a_result_takes_what_writing_it_took_its_close_included() -> None:
    """Else guessing would be said to succeed more often than it does: a result has to end where the tool's did."""
    model = make_model("reference")
    call = write_call("search", {"query": "ruler of Vuplagum"})
    question = [{"role": "user", "content": "Who rules Vuplagum?"}, {"role": "assistant", "content": call}]
    tool = {"type": "function", "function": {"name": "search", "description": "", "parameters": {}}}
    compared = 0
    for stream in range(4):
        wrote = await model.imagine(Request(question, [tool], stream=stream, max_tokens=120, logprobs=True))
        said = [*question, {"role": "tool", "content": wrote.text}, {"role": "assistant", "content": "."}]
        (read,) = await model.score(said, [tool], [2])
        closing = len(wrote.logprobs) - len(read.logprobs)
        if closing == 1:  # read in the tokens in which it was written
            assert read.nats - read.end == pytest.approx(-sum(wrote.logprobs), abs=1e-3)
            assert read.end == pytest.approx(wrote.logprobs[-1], abs=1e-3)
            compared += 1
    await model.aclose()
    assert compared


@has_reference
@pytest.mark.slow
def test_the_documented_experiment_shows_that_looking_up_creates_and_imagining_does_not(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.sqlite") as store:
        asyncio.run(Runner(read_experiment(str(EXPERIMENTS / "imagined.toml")), store).run())
        asyncio.run(Scoring(store, "imagined", arm="search").run())
        analysis = analyse_run(store, "imagined")
    (documents,) = [group for group in analysis.groups if group.label == "document"]
    effects = {effect.arm: effect.effects for effect in documents.effects}
    assert Effect.CREATED in effects["search"]
    assert Effect.CREATED not in effects["imagined"]
    (found,) = analysis.nats
    assert found.told.mean.low > 10 > found.budget
    (said,) = [line for line in table(analysis).notes if line.startswith("search: ")]
    assert "more than ln K" in said
    assert "imagined, whose model did write them itself, has a pass@1 of" in said


def test_the_documented_experiment_reads_and_names_the_control() -> None:
    controls = {arm.name: str(arm.control) for arm in read_experiment(str(EXPERIMENTS / "imagined.toml")).arms}
    assert controls == {"bare": "absent", "inert": "inert", "imagined": "imagined", "search": "live"}
