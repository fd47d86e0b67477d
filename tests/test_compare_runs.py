from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command import Done
from helpers.two_runs import LIVE, MEASURE, SPEC, add, sides, tasks, tool
from testbed.errors import UnknownName, UsageError
from testbed.experiment import Measure
from testbed.report.analyse import analyse_run
from testbed.report.compare_record import RunComparison
from testbed.report.compare_runs import compare_sides, cost_ratio
from testbed.report.sides import choose, named
from testbed.report.spec_differences import same_topics, spec_differences
from testbed.store import Store

YES, NO = [True] * 4, [False] * 4
HALF = [True, False, True, False]
ALIKE = {"tokens": "made", "template": "told"}


def compared(path: Path, left: str, right: str, other: Path | None = None, **options: Any) -> RunComparison:
    both = sides((path, left), (other or path, right))
    return compare_sides(*both, same_store=other is None, **options)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs "old" (tasks 0 to 29, bare) and "new" (tasks 10 to 39, bare and live) in one store."""
    path = tmp_path_factory.mktemp("two") / "s.sqlite"
    add(path, "old", tasks(30), {"bare": [NO] * 15 + [HALF] * 15})
    live = {"bare": [NO] * 30, "live": [YES] * 10 + [HALF] * 10 + [NO] * 10}
    other = {**SPEC, "sampling": {"temperature": 0.5, "max_tokens": 64}}
    add(path, "new", tasks(30, first=10), live, specs={"bare": other, "live": LIVE}, tokens={"live": 25})
    return path


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with arms of several names and no attempts."""
    path = tmp_path_factory.mktemp("catalogue") / "s.sqlite"
    listed = tasks(1)
    runs = {"many": "b c d", "two": "bare b", "one": "only", "other": "single", "odd:name": "x"}
    for name, arms in runs.items():
        specs = {arm: SPEC if arm == "bare" else {**LIVE, "version": arm} for arm in arms.split()}
        add(path, name, listed, {arm: [[]] for arm in arms.split()}, specs=specs)
    return path


def test_the_difference_is_the_mean_over_common_tasks_of_the_difference_at_each(two: Path) -> None:
    found = compared(two, "old:bare", "new:live")
    # Tasks 10 to 29: A fails at five and half-solves fifteen; B solves ten and half-solves ten.
    assert (found.tasks, found.common, found.only_left, found.only_right) == (20, 20, 10, 10)
    assert found.left.pass_1.value == pytest.approx(15 * 0.5 / 20)
    assert found.right.pass_1.value == pytest.approx((10 + 10 * 0.5) / 20)
    assert found.pass_1.value == pytest.approx(np.mean([1.0] * 5 + [0.5] * 5 + [0.0] * 10))
    assert found.pass_1.low is not None
    assert found.pass_1.high is not None
    assert -1 <= found.pass_1.low < found.pass_1.value < found.pass_1.high <= 1
    assert "'old' has 10 tasks more and 'new' has 10 tasks more" in " ".join(found.warnings)


def test_the_split_is_that_of_the_report_where_both_arms_are_of_one_run(two: Path) -> None:
    found = compared(two, "new:bare", "new:live")
    with Store.open(two) as store:
        report = analyse_run(store, "new").comparisons[0]
    assert found.reference == "A"
    assert report.full is not None
    assert found.verdicts.full is not None
    ours, theirs = found.verdicts.full.figures, report.full.figures
    for name in ("gain", "elicitation_part", "creation", "loss", "nats"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.verdicts.counts == theirs.verdicts.counts
    assert found.pass_1 == report.gain


def test_changing_sides_turns_every_difference_around(two: Path) -> None:
    one, other = compared(two, "old:bare", "new:live", against="A"), compared(two, "new:live", "old:bare", against="B")
    assert one.pass_1.value == -(other.pass_1.value or 0)
    assert one.verdicts.full is not None
    assert other.verdicts.full is not None
    assert one.verdicts.full.figures.creation == other.verdicts.full.figures.creation
    assert one.verdicts.full.figures.verdicts.counts == other.verdicts.full.figures.verdicts.counts
    assert one.ratios["generated_tokens"].value == pytest.approx(2.5)
    assert other.ratios["generated_tokens"].value == pytest.approx(0.4)
    assert [d.topic for d in one.differs] == [d.topic for d in other.differs] == ["tools", "control"]


def test_what_is_within_reach_of_one_side_only_stands_on_its_side(tmp_path: Path, testbed: Callable[..., Done]) -> None:
    path = tmp_path / "s.sqlite"
    good, bad = [[True] * 64] * 6, [[False] * 64] * 6
    add(path, "r", tasks(6), {"bare": bad, "live": good}, specs={"live": LIVE})
    for words, column in ((("r:bare", "r:live"), "only B"), (("r:live", "r:bare"), "only A")):
        done = testbed("compare", *words, "--store", str(path))
        assert done.code == 0, done.err
        lines = done.out.splitlines()
        head = next(line for line in lines if "only A" in line)
        row = lines[lines.index(head) + 2]
        counts = dict(zip(("both", "only A", "only B", "neither", "undetermined"), row.split()[1:], strict=True))
        assert counts.pop(column) == "6"
        assert set(counts.values()) == {"0"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grader": "exact/2"}, "3 with the same prompt, other grader exact/1 → exact/2"),
        ({"grader": "sum/1"}, "other grader exact/1 → sum/1"),
    ],
)
def test_another_grader_is_refused_by_name(tmp_path: Path, changes: Mapping[str, Any], told: str) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(3), {"bare": [HALF] * 3})
    add(path, "b", tasks(3, **changes), {"bare": [HALF] * 3})
    with pytest.raises(UsageError, match="no task in common") as refused:
        compared(path, "a", "b")
    assert told in str(refused.value)


def test_another_reference_answer_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    wrong = tuple(type(t)(t.environment, t.prompt, -1) for t in tasks(3))
    add(path, "a", tasks(3), {"bare": [HALF] * 3})
    add(path, "b", wrong, {"bare": [HALF] * 3})
    with pytest.raises(UsageError, match="3 with the same prompt, other reference answer"):
        compared(path, "a", "b")


def test_runs_without_a_prompt_in_common_are_refused_with_their_environments(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(3), {"bare": [HALF] * 3})
    add(path, "b", tasks(3, first=50), {"bare": [HALF] * 3})
    with pytest.raises(UsageError, match=r"not one prompt is in both \(Sums-v0 3; Sums-v0 3\)"):
        compared(path, "a", "b")


def test_tasks_that_only_look_alike_are_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(8), {"bare": [HALF] * 8})
    add(path, "b", tasks(4) + tasks(4, first=4, grader="exact/2"), {"bare": [YES] * 8}, seed=2)
    found = compared(path, "a", "b")
    assert (found.tasks, found.only_left, found.only_right) == (4, 4, 4)
    assert found.pass_1.value == 0.5
    assert "Left out" in found.warnings[0]
    assert "4 with the same prompt, other grader exact/1 → exact/2 (such as '4 + 4?')" in found.warnings[0]


def test_shared_attempts_differ_by_exactly_nothing_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(10), {"bare": [HALF] * 10})
    add(path, "b", tasks(8), {"again": [HALF] * 8})
    found = compared(path, "a", "b")
    assert found.shared is not None
    assert (found.shared.attempts, found.shared.otherwise) == (8 * 4, 0)
    assert found.pass_1.value == 0
    assert found.differs == ()
    assert any("Both runs share 32 attempts: made once, counted on both sides" in warning for warning in found.warnings)
    assert any("the same configuration" in warning for warning in found.warnings)


def test_the_command_that_is_proposed_where_arms_are_not_named_works_in_a_shell(
    tmp_path: Path, testbed: Callable[..., Done]
) -> None:
    add(tmp_path / "testbed.sqlite", "my run", tasks(3), {"bare": [HALF] * 3, "x": [YES] * 3, "y": [YES] * 3})
    refused = testbed("compare", "my run", "my run")
    proposed = refused.err.partition("For example: testbed ")[2]
    done = testbed(*shlex.split(proposed))
    assert (refused.code, done.code) == (2, 0), refused.err
    assert "my run:bare (A) and my run:y (B) on 3 common tasks" in done.out


def test_attempts_made_twice_in_two_stores_are_held_against_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "1.sqlite", tmp_path / "2.sqlite"
    add(first, "a", tasks(5), {"bare": [HALF] * 5})
    add(second, "a", tasks(5), {"bare": [[False, False, True, False], *[HALF] * 4]})
    found = compared(first, "a", "a", second)
    assert found.shared is not None
    assert (found.shared.attempts, found.shared.otherwise) == (20, 1)
    assert any("20 attempts were made twice" in w and "1 of them ended differently" in w for w in found.warnings)


def test_budgets_seeds_and_several_factors_are_told(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(6), {"bare": [HALF] * 6})
    spec = {**LIVE, "model": {"kind": "hf", "weights": "w2"}, "budget": {"turns": 16}}
    add(path, "b", tasks(6), {"live": [YES] * 6}, specs={"live": spec}, seed=9, measure={**MEASURE, "alpha": 0.1})
    found = compared(path, "a", "b")
    told = " ".join(found.warnings)
    assert {d.topic for d in found.differs} == {"model", "tools", "control", "budget", "seed"}
    assert "More than one thing differs (model, tools and budget)" in told
    assert "The budgets differ" in told
    assert "The seeds differ (1 and 9)" in told
    assert "here both runs are read by that of A" in told
    assert found.same == ("decoding", "lookahead", "protocol")
    assert ("turns 8 → 16",) in [d.lines for d in found.differs]


def test_missing_attempts_are_bounded_and_never_failures(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(4), {"bare": [YES] * 4})
    add(path, "b", tasks(4), {"live": [[True, None, True, None]] * 4}, specs={"live": LIVE})
    found = compared(path, "a", "b")
    assert found.pass_1.value == 0
    assert found.right.missing == 8
    bounds = found.right.pass_1_if_missing
    assert bounds is not None
    assert (bounds.low, bounds.high) == (0.5, 1.0)
    assert any("B 8 of 16" in warning for warning in found.warnings)


def test_a_run_that_is_not_finished_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(path, "a", tasks(4), {"bare": [HALF] * 4, "live": [*[HALF] * 3, [True]]}, specs={"live": LIVE})
    told = [warning for warning in compared(path, "a:bare", "a:live").warnings if "not finished" in warning]
    assert told == ["'a': The run is not finished: 29 of 32 attempts were made."]


def test_a_cost_ratio_is_that_of_the_means_and_none_where_one_side_spends_nothing(two: Path) -> None:
    found = compared(two, "old:bare", "new:live")
    ratio = found.ratios["generated_tokens"]
    assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(2.5), pytest.approx(2.5), pytest.approx(2.5))
    assert "tool_calls" not in found.ratios
    assert "usd" not in found.left.cost


def test_intervals_of_cost_ratios_hold_the_true_ratio_as_often_as_they_say() -> None:
    rng, held, runs = np.random.default_rng(4), 0, 150
    for seed in range(runs):
        level = np.exp(rng.normal(0, 1, 12))  # some tasks take many times as much as others
        below, above = (level * np.exp(rng.normal(0, 0.3, 12)) for _ in range(2))
        found = cost_ratio(below, 3 * above, [str(n) for n in range(12)], Measure(replicates=200, seed=seed))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 3 <= found.high
    assert held / runs >= 0.93


def test_reach_is_read_at_the_operating_spend_that_every_task_allows(two: Path) -> None:
    found = compared(two, "old:bare", "new:live", operating=3, elicitation=3)
    assert found.operating == 3
    # One success in two of four attempts is reached within three for certain.
    assert found.left.reach.value == pytest.approx(15 / 20)
    assert found.right.reach.value == pytest.approx(1)
    assert found.reach.value == pytest.approx(5 / 20)


@pytest.mark.parametrize(
    ("left", "right", "arms"),
    [
        ("many:b", "many:c", ("b", "c")),
        ("one", "other", ("only", "single")),
        ("one", "many:b", ("only", "b")),
        ("two", "many", ("b", "b")),
        ("many:b", "two", ("b", "b")),
        ("two", "two", ("bare", "b")),
        ("two:b", "two", ("b", "bare")),
        ("odd:name", "one", ("x", "only")),
        ("odd:name:x", "one", ("x", "only")),
    ],
)
def test_the_arm_that_can_only_be_meant_is_taken(catalogue: Path, left: str, right: str, arms: tuple[str, str]) -> None:
    with Store.open(catalogue) as store:
        assert choose(named(store, left), named(store, right), same_store=True) == arms


@pytest.mark.parametrize(("left", "right"), [("many", "many"), ("many", "one"), ("many:c", "many")])
def test_where_several_arms_could_be_meant_they_are_listed(catalogue: Path, left: str, right: str) -> None:
    with Store.open(catalogue) as store, pytest.raises(UsageError, match="say which arms: 'many' has b, c, d"):
        choose(named(store, left), named(store, right), same_store=True)


@pytest.mark.parametrize(("text", "message"), [("many:x", "unknown arm 'x'.*'many'"), ("mny", "Did you mean 'many'")])
def test_an_unknown_arm_or_run_is_told_with_the_nearest(catalogue: Path, text: str, message: str) -> None:
    with Store.open(catalogue) as store, pytest.raises(UnknownName, match=message):
        named(store, text)


def test_arms_with_one_identity_have_no_difference_and_others_always_have_one() -> None:
    assert spec_differences(SPEC, dict(SPEC)) == ()
    assert same_topics(()) == ("model", "decoding", "tools", "control", "lookahead", "budget", "protocol")
    for key, topic in (("model", "model"), ("sampling", "decoding"), ("tools", "tools"), ("control", "control"),
                       ("budget", "budget"), ("protocol", "protocol"), ("yoke", "control"), ("replay", "control"),
                       ("lookahead", "lookahead"), ("a new part", "else")):  # fmt: skip
        for value in ("other", {"x": 1}, [tool("x")]):
            changed = spec_differences(SPEC, {**SPEC, key: value})
            assert [difference.topic for difference in changed] == [topic], (key, value)
            assert all(changed[0].lines)
    assert spec_differences(SPEC, {**SPEC, "name": "n"})[0].lines == ("m → n",)


@pytest.mark.parametrize(
    ("one", "other", "lines"),
    [
        ({}, {}, ['tokenizer\'s files "a" → "b"']),  # of runs from before: what they come to is not known
        (ALIKE, {}, ['tokenizer\'s files "a" → "b"']),
        (ALIKE, ALIKE, ["tokenizer's files, which make the same tokens and prompts"]),
        (ALIKE, {**ALIKE, "template": "other"}, ["chat template told → other"]),
        (ALIKE, {**ALIKE, "tokens": "other"}, ['tokenizer "a" → "b"']),
        (ALIKE, {"tokens": "o", "template": "p"}, ['tokenizer "a" → "b"', "chat template told → p"]),
    ],
)
def test_of_tokenizers_whose_files_differ_it_is_told_what_that_comes_to(
    one: dict[str, str], other: dict[str, str], lines: list[str]
) -> None:
    both = [
        {**SPEC, "model": {"kind": "hf", "tokenizer": files}, **({"tokenization": said} if said else {})}
        for files, said in (("a", one), ("b", other))
    ]
    (difference,) = spec_differences(*both)
    assert (difference.topic, list(difference.lines)) == ("model", lines)
    assert spec_differences(both[0], {**both[0], "tokenization": other}) == ()  # no part of an arm's identity


def test_tools_are_told_by_name_and_a_placebo_is_the_tool_under_another_control() -> None:
    python, search = tool("python", cpus=1.0), tool("search", k=3)
    placebo = {**python, "content": {"control": "inert", "of": python["content"]}}
    assert spec_differences({"tools": [python]}, {"tools": [python, search]})[0].lines == ("python → python, search",)
    assert spec_differences({"tools": [search]}, {"tools": [tool("search", k=5)]})[0].lines == (
        "search: content.k 3 → 5",
    )
    assert spec_differences({"tools": [python]}, {"tools": [placebo]}) == ()


def test_the_command_prints_eighty_columns_and_json_holds_every_figure(
    two: Path, testbed: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = testbed("compare", "old:bare", "new:live", "--store", str(two))
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "\x1b" not in done.out
    assert "with what attempts made at one time waited for one another" in " ".join(done.out.split())
    for words in ("differs: tools: none → python", "the same: model, decoding", "B - A", "Gain over A", "null row"):
        assert words in done.out
    data = testbed("compare", "old:bare", "new:live", "--store", str(two), "--json").data
    assert data["pass_1"]["value"] == pytest.approx(0.375)
    assert data["verdicts"]["full"]["figures"]["gain"]["value"] == pytest.approx(0.375)
    assert sum(data["within_reach"].values()) == data["verdicts"]["tasks"] == 20


def test_the_command_names_what_it_cannot_do(two: Path, testbed: Callable[..., Done]) -> None:
    store = ("--store", str(two))
    for words, told in (
        (("old", "new:live", "--against", "C"), "--against must be A or B"),
        (("old", "nw"), "Did you mean 'new'?"),
        (("old", "new:liv"), "Did you mean 'live'?"),
        (("old", "old", "--store-b", str(two.with_name("none.sqlite"))), "none.sqlite"),
        (("old", "new:live", "--operating", "5", "--elicitation", "2"), "elicitation"),
    ):
        done = testbed("compare", *words, *store)
        assert (done.code, done.out) == (2, ""), words
        assert told in done.err, words
