"""Recordings: what is kept of a call, how it is found again, and what becomes of one that was never recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from helpers.runs import SAY_AND_ECHO, registered
from testbed.budget import Budget, Meter
from testbed.errors import ExperimentError, FaultKind, NotRecorded, StoreError, ToolFault
from testbed.experiment_file import parse_experiment
from testbed.models.base import Request
from testbed.models.scripted import Scripted
from testbed.protocol import write_answer, write_call
from testbed.recording import RecordedTools
from testbed.replay import Recorded, exchanges
from testbed.report.analyse import analyse_run
from testbed.results import cut
from testbed.runner import Runner
from testbed.store import Store
from testbed.tool import AttemptContext, Tool, ToolSet
from testbed.types import Attempt, Control, Message, Status, ToolCall, ToolResult
from testbed.wrappers import under_control


class Counts(Tool):
    """Counts the calls that really reach it, over all attempts."""

    name: str = "counts"
    description: str = "Counts."
    version: str = "3"
    step: int = 1
    made: ClassVar[int] = 0

    async def _arun(self, word: str) -> str:
        Counts.made += 1
        if word == "wrong":
            raise ToolFault(FaultKind.EXECUTION_ERROR, "no such word")
        return f"{word}: {Counts.made}"


class Keeps(Counts):
    """Remembers the attempt's earlier calls."""

    name: str = "keeps"

    def for_attempt(self, context: AttemptContext) -> Tool:
        return self.model_copy()


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    with registered(SAY_AND_ECHO, sys.modules[__name__]):
        yield


def transcript(*calls: tuple[str, dict[str, Any], str], fault: str = "") -> list[Message]:
    """A message of the model for each call, and its result."""
    found: list[Message] = [{"role": "user", "content": "Say 1."}]
    for name, arguments, result in calls:
        found.append({"role": "assistant", "content": write_call(name, arguments)})
        found.append({"role": "tool", "name": name, "content": result})
        if fault:
            found[-1]["fault"] = fault
    return found


def recorded(*calls: tuple[str, dict[str, Any], str], **options: Any) -> Recorded:
    return Recorded(transcript(*calls), what="it", **{"stateful": [], **options})


def told(found: ToolResult | None) -> str | None:
    return found.text if found else None


# -- one attempt
# ----------------------------------------------------------------------------------------------------------------------


def test_a_transcript_holds_every_call_with_its_arguments_and_result_in_order() -> None:
    two = write_call("a", {"x": [1, {"y": "<\u00df"}]}) + write_call("b", {})
    messages: list[Message] = [
        {"role": "assistant", "content": f"Both: {two}<tool_call>{{"},
        {"role": "tool", "name": "a", "content": "first", "tokens": 2},
        {"role": "tool", "name": "b", "content": "error: timeout: b", "fault": "timeout", "tokens": 5, "cut": 7},
        {"role": "tool", "name": "", "content": "error: parse_error: …", "fault": "parse_error"},
        {"role": "user", "content": "Answer now."},
        {"role": "assistant", "content": write_call("a", {})},  # ended before its result
    ]
    one, other, broken = exchanges(messages)
    assert one == (ToolCall("a", {"x": [1, {"y": "<\u00df"}]}), ToolResult("a", "first", None, 2))
    assert other.result == ToolResult("b", "error: timeout: b", FaultKind.TIMEOUT, 5, 7)
    assert broken.call.fault is FaultKind.PARSE_ERROR


def test_calls_are_answered_by_arguments_in_any_order_and_equal_ones_in_theirs() -> None:
    replay = recorded(("s", {"q": "x", "k": 1}, "one"), ("s", {"q": "y"}, "two"), ("s", {"k": 1, "q": "x"}, "three"))
    calls = [ToolCall("s", {"q": "y"}), *[ToolCall("s", {"k": 1, "q": "x"})] * 2]
    assert [told(replay.take(call)) for call in calls] == ["two", "one", "three"]
    with pytest.raises(NotRecorded, match="was not recorded once more"):
        replay.take(calls[-1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            ToolCall("s", {"q": "rivers"}),
            r'the call s {"q":"rivers"} was not recorded. Did you mean \'s {"q":"river"}\'',
        ),
        (ToolCall("s", {"q": 1.0}), "was not recorded"),  # the tool might tell them apart
        (ToolCall("s", {}), "was not recorded"),
    ],
)
def test_a_call_that_was_not_recorded_is_refused_with_the_nearest_that_was(call: ToolCall, said: str) -> None:
    with pytest.raises(NotRecorded, match=said):
        recorded(("s", {"q": "river"}, "one"), ("s", {"q": 1}, "two")).take(call)


def test_tools_that_keep_state_answer_in_the_recorded_order_only() -> None:
    calls = [("keeps", {"n": 1}, "one"), ("free", {"n": 2}, "two"), ("other", {"n": 3}, "three")]
    stateful = ["keeps", "other"]
    replay = recorded(*calls, stateful=stateful)
    order = [ToolCall("free", {"n": 2}), ToolCall("keeps", {"n": 1}), ToolCall("other", {"n": 3})]
    assert [told(replay.take(call)) for call in order] == ["two", "one", "three"]
    with pytest.raises(NotRecorded, match=r'recorded next is keeps {"n":1}'):
        recorded(*calls, stateful=stateful).take(ToolCall("other", {"n": 3}))
    with pytest.raises(NotRecorded):  # of a store that does not say which ones do
        recorded(*calls, stateful=None).take(ToolCall("free", {"n": 2}))


def test_calls_that_were_not_recorded_are_made_if_asked_but_not_on_replayed_state() -> None:
    replay = recorded(("free", {}, "one"), ("keeps", {}, "two"), stateful=["keeps"], live=True)
    assert told(replay.take(ToolCall("free", {}))) == "one"
    assert replay.take(ToolCall("free", {})) is None
    assert told(replay.take(ToolCall("keeps", {}))) == "two"
    with pytest.raises(NotRecorded, match="keeps state, and its earlier calls were replayed"):
        replay.take(ToolCall("keeps", {"n": 2}))
    fresh = recorded(("keeps", {}, "two"), stateful=["keeps"], live=True)
    assert fresh.take(ToolCall("keeps", {"n": 2})) is None
    assert fresh.take(ToolCall("keeps", {})) is None  # what came before was made, so this must be


def test_refusals_are_no_results_of_a_tool() -> None:
    text = "error: budget_exhausted: no calls of s are left; use another tool or answer."
    for told_ in (text, text[:9], ""):
        replay = Recorded(transcript(("s", {}, told_), fault="budget_exhausted"), what="it", stateful=[])
        with pytest.raises(NotRecorded):
            replay.take(ToolCall("s", {}))
    unknown = transcript(("t", {}, "error: tool_not_found: …"), fault="tool_not_found") + transcript(("s", {}, "one"))
    assert told(Recorded(unknown, what="it").take(ToolCall("s", {}))) == "one"
    own = Recorded(transcript(("s", {}, "error: budget_exhausted: mine"), fault="budget_exhausted"), what="it")
    assert told(own.take(ToolCall("s", {}))) == "error: budget_exhausted: mine"


async def shown(text: str, left: int | None, cut_at: int | None = None) -> ToolResult:
    """A recorded result as an attempt with so many observed tokens is shown it; a character is a token."""
    messages = transcript(("s", {}, text))
    if cut_at is not None:
        messages[-1]["cut"] = cut_at
    known = [{"schema": {"type": "function", "function": {"name": "s", "description": "S.", "parameters": {}}}}]
    tools = RecordedTools([{**known[0], "result_chars": 50}], [])
    context = AttemptContext(recorded=Recorded(messages, what="it", stateful=[]))
    return await tools.open(Meter(Budget(observed_tokens=left)), len, context).call(ToolCall("s", {}))


async def test_results_that_were_cut_are_shown_as_they_were_and_never_as_if_they_were_whole() -> None:
    once = cut("x" * 80, 50)
    assert (await shown(once, None)).text == once == cut(once, 50)
    assert await shown("abcde", 5, cut_at=5) == ToolResult("s", "abcde", None, 5, 5)
    assert await shown("abcde", 3, cut_at=5) == ToolResult("s", "abc", None, 3, 3)
    for left in (6, None):
        with pytest.raises(NotRecorded, match="cut to the 5 observed tokens"):
            await shown("abcde", left, cut_at=5)


async def test_yoked_results_that_were_cut_are_not_cut_again() -> None:
    long = cut("y" * 90, 40)
    yoked = ToolSet(under_control([Counts()], Control.YOKED), result_chars=40)
    box = yoked.open(Meter(Budget()), len, AttemptContext(replay=iter([long])))
    assert (await box.call(ToolCall("counts", {"word": "a"}))).text == long


# -- runs
# ----------------------------------------------------------------------------------------------------------------------


def words(request: Request, rng: Any) -> str:
    """Two calls, the second of them wrong, and the first result as the answer."""
    results = [m["content"] for m in request.messages if m["role"] == "tool"]
    tool = request.tools[0]["function"]["name"]
    if len(results) < 2:
        return write_call(tool, {"word": "wrong" if results else f"w{rng.integers(3)}"})
    return write_answer(results[0])


def other_words(request: Request) -> str:
    """Makes a call that nobody else makes, at the tasks with an even number; then as above."""
    results = [m["content"] for m in request.messages if m["role"] == "tool"]
    if len(results) < 2:
        even = request.messages[0]["content"][-2] in "02468"
        return write_call("counts", {"word": "new" if even else "wrong"})
    return write_answer("x")


def experiment(name: str, *arms: dict[str, Any], **more: Any) -> Any:
    live = {"name": "live", "tools": ["counts"]}
    env = [{"id": "Say-v0", "tasks": 4}]
    model = {"id": "scripted", "replies": ["unused"]}
    return parse_experiment(
        {"name": name, "samples": 2, "model": model, "env": env, "arm": list(arms) or [live], **more}
    )


async def run(asked: Any, path: Path, policy: Any = words) -> list[Attempt]:
    with Store.open(path) as store:
        await Runner(asked, store, models={"scripted": Scripted(policy)}, back_off=0.01).run()
        return list(store.attempts(asked.name))


def results(attempts: list[Attempt]) -> list[list[str]]:
    return [[m["content"] for m in a.transcript if m["role"] == "tool"] for a in attempts]


async def test_a_replay_calls_no_tool_and_says_what_was_said(tmp_path: Path) -> None:
    first = await run(experiment("first"), tmp_path / "s.sqlite")
    before = Counts.made
    second = await run(experiment("second", replay="first"), tmp_path / "s.sqlite")
    assert Counts.made == before
    assert results(first) == results(second)
    assert [a.faults for a in second] == [a.faults for a in first] == [{"execution_error": 1}] * 8
    again = await run(experiment("third", replay={"run": "second", "arm": "live"}), tmp_path / "s.sqlite")
    assert results(again) == results(first)  # a replay is a recording too


async def test_calls_that_were_not_recorded_are_missing_data_and_not_tried_again(tmp_path: Path) -> None:
    await run(experiment("first"), tmp_path / "s.sqlite")
    before = Counts.made
    with Store.open(tmp_path / "s.sqlite") as store:
        asked = experiment("second", {"name": "live", "tools": ["counts"], "samples": 1}, replay="first")
        progress = await Runner(asked, store, models={"scripted": Scripted(other_words)}).run()
        found = list(store.attempts("second"))
    assert Counts.made == before
    assert progress.retried == 0
    assert {a.status for a in found} == {Status.MISSING}  # also the others: their second "wrong" is one too many
    assert {(a.ended, a.success) for a in found} == {("missing:not_recorded", None)}
    assert 'the call counts {"word":"new"} was not recorded' in found[0].transcript[-1]["content"]


async def test_calls_that_were_not_recorded_can_be_made_and_are_recorded_then(tmp_path: Path) -> None:
    await run(experiment("first"), tmp_path / "s.sqlite")
    before = Counts.made
    live = {"run": "first", "otherwise": "live"}
    second = await run(experiment("second", replay=live), tmp_path / "s.sqlite", other_words)
    assert Counts.made > before
    assert {a.status for a in second} == {Status.COMPLETE}
    made = Counts.made
    third = await run(experiment("third", replay="second"), tmp_path / "s.sqlite", other_words)
    assert Counts.made == made
    assert results(third) == results(second)


async def test_a_run_that_was_stopped_is_a_recording_of_the_attempts_it_had(tmp_path: Path) -> None:
    under_way: list[Runner] = []

    def stopping(request: Request, rng: Any) -> str:
        if len(request.messages) > 3:
            under_way[0].stop()
        return words(request, rng)

    with Store.open(tmp_path / "s.sqlite") as store:
        asked, models = experiment("first", samples=9), {"scripted": Scripted(stopping)}
        under_way.append(Runner(asked, store, concurrency=3, models=models))
        await under_way[0].run()
        recorded_ = {(a.task, a.sample) for a in store.attempts("first")}
    again = await run(experiment("second", samples=9, replay="first"), tmp_path / "s.sqlite", stopping)
    assert 0 < len(recorded_) < len(again) == 36
    assert {(a.task, a.sample) for a in again if a.status is Status.COMPLETE} == recorded_
    assert {a.ended for a in again if a.status is Status.MISSING} == {"missing:not_recorded"}


async def test_a_run_without_attempts_records_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.sqlite") as store:
        runner = Runner(experiment("first"), store, models={"scripted": Scripted(words)})
        runner.stop()
        await runner.run()
    assert "has no attempts yet" in await refusal({"replay": "first"}, tmp_path / "s.sqlite")


async def test_the_arm_says_which_recording_it_replays(tmp_path: Path) -> None:
    one, other = tmp_path / "one.sqlite", tmp_path / "other.sqlite"
    for path in (one, other):
        await run(experiment("first"), path)  # the tool counts on, so its results differ
    elsewhere = {"run": "first", "store": str(one)}
    hashes: dict[str, str] = {}
    for name, replay, path in (
        ("a", "first", one),
        ("b", elsewhere, tmp_path / "new.sqlite"),
        ("c", "first", other),
        ("d", {"run": "first", "otherwise": "live"}, one),
    ):
        await run(experiment(name, replay=replay), path)
        with Store.open(path) as store:
            hashes[name] = store.run(name).arms[0].hash
            assert store.run(name).arms[0].spec["replays"] == {"run": "first", "arm": "live"}
            assert "recorded results of arm 'live' of run 'first'" in " ".join(analyse_run(store, name).warnings)
    assert hashes["a"] == hashes["b"]  # the recording's content, not its name or place
    assert len(set(hashes.values())) == 3


async def refusal(asked: dict[str, Any], path: Path, **more: Any) -> str:
    with pytest.raises((ExperimentError, StoreError)) as caught:
        await run(experiment("new", {"name": "live", "tools": ["counts"], **asked}, **more), path)
    return str(caught.value)


async def test_what_cannot_be_replayed_is_told_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    bare = {"name": "bare", "model": {"replies": ["<answer>1</answer>"]}}
    await run(experiment("first", {"name": "live", "tools": ["counts"]}, {"name": "keeps", "tools": ["keeps"]}), path)
    await run(experiment("plain", bare), path, lambda request: write_answer("1"))
    assert "unknown run 'firsts'. Did you mean 'first'?" in await refusal({"replay": "firsts"}, path)
    no_arm = await refusal({"replay": {"run": "first", "arm": "lively"}}, path)
    assert "run 'first' has no arm 'lively'. Did you mean 'live'?" in no_arm
    assert "offers no tools" in await refusal({"replay": {"run": "plain", "arm": "bare"}}, path)
    no_tool = await refusal({"tools": ["count"], "replay": "first"}, path)
    assert "arm 'live' of run 'first' has no tool 'count'. Did you mean 'counts'?" in no_tool
    assert "list the same tools" in await refusal(
        {"tools": ["keeps"], "replay": {"run": "two", "arm": "both"}}, await both(path)
    )
    assert "wants 3 samples" in await refusal({"replay": "first", "samples": 3}, path)
    assert "1 of 5 tasks" in await refusal({"replay": "first"}, path, env=[{"id": "Say-v0", "tasks": 5}])
    assert "control live → inert" in (await refusal({"replay": "first", "control": "inert"}, path)).replace('"', "")
    no_store = await refusal({"replay": {"run": "first", "store": str(tmp_path / "none")}}, path)
    assert "there is no store" in no_store
    changed = await refusal({"replay": "first"}, path, tool={"counts": {"step": 2}})
    assert "tool 'counts' is not what was recorded in run 'first' (recorded → now): step null → 2" in changed
    names = [summary.name for summary in Store.open(path).runs()]
    assert sorted(names) == ["first", "plain", "two"]


async def both(path: Path) -> Path:
    await run(experiment("two", {"name": "both", "tools": ["counts", "keeps"]}), path)
    return path


async def test_a_tool_of_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await run(experiment("first"), tmp_path / "s.sqlite")
    monkeypatch.setattr(Counts.model_fields["version"], "default", "4")
    said = await refusal({"replay": "first"}, tmp_path / "s.sqlite")
    assert "tool 'counts' is not what was recorded" in said
    assert 'version "3" → "4"' in said


async def test_a_tool_that_may_be_called_must_be_the_recorded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(experiment("first"), tmp_path / "s.sqlite")
    monkeypatch.setattr(Counts, "fingerprint", lambda self: {"step": 2})
    with pytest.raises(ExperimentError, match=r"tool 'counts' is not what was recorded.*content.step 1 → 2"):
        await run(experiment("new", replay={"run": "first", "otherwise": "live"}), tmp_path / "s.sqlite")


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"replay": 3}, "replay must be the name of a run"),
        ({"replay": ""}, "needs run"),
        ({"replay": {"rnu": "first"}}, "unknown key of replay 'rnu'. Did you mean 'run'"),
        ({"replay": {"run": "first", "otherwise": "lve"}}, "unknown otherwise of replay 'lve'. Did you mean 'live'"),
        ({"replay": "first", "tools": []}, "no tools that could be replayed"),
        ({"replay": "first", "lookahead": {"kind": "best_of", "n": 2}}, "a search has no one order of calls"),
    ],
)
def test_a_replay_that_is_written_wrong_is_refused(arm: dict[str, Any], said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        experiment("new", {"name": "live", "tools": ["counts"], **arm})


async def test_no_store_is_made_to_look_for_a_recording(tmp_path: Path) -> None:
    from testbed.running import run_experiment

    file = tmp_path / "new.toml"
    file.write_text(
        'name = "new"\nreplay = "first"\nmodel = { id = "scripted", replies = ["x"] }\n'
        '[[env]]\nid = "Say-v0"\n[[arm]]\nname = "live"\ntools = ["counts"]\n'
    )
    with pytest.raises(ExperimentError, match=r"new.toml:2: there is no store"):
        await run_experiment(str(file), str(tmp_path / "s.sqlite"), concurrency=1)
    assert [path.name for path in tmp_path.iterdir()] == ["new.toml"]
