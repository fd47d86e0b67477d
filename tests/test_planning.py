"""`testbed plan` as a user meets it: what it says, what it takes from where, what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command import Done
from testbed.planning.earlier import Earlier
from testbed.report.analyse import analyse_run
from testbed.stats import attempts_still_needed, p_star
from testbed.store import Store

PAGE = Path(__file__).parents[1] / "docs" / "planning.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def testbed(testbed: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    monkeypatch.setenv("COLUMNS", "80")
    return testbed


@pytest.fixture
def piloted(testbed: Callable[..., Done], tmp_path: Path) -> Callable[..., Done]:
    """A folder with the page's pilot in testbed.sqlite."""
    (tmp_path / "policy.py").write_text(blocks("python")[0])
    (tmp_path / "pilot.toml").write_text(blocks("toml")[0])
    done = testbed("run", "pilot.toml")
    assert done.code == 0, done.err
    return testbed


# -- without a pilot


def test_millers_example_on_the_command_line(testbed: Callable[..., Done]) -> None:
    done = testbed("plan", "--effect", "0.03", "--between", "1/9", "--within", "0", "--json")
    assert done.code == 0, done.err
    need = done.data["pairs"][0]["needed"][0]
    assert need["normal"] == 969
    assert need["tasks"] > 969
    assert need["in_all"] == need["tasks"] * 32


def test_what_is_assumed_is_said_and_what_is_given_is_not(testbed: Callable[..., Done]) -> None:
    assumed = testbed("plan", "--effect", ".05").out
    assert "Assumed, not measured: variance of the gain between tasks 0.111 and success" in assumed
    half = testbed("plan", "--effect", ".05", "--between", ".05").out
    assert "Assumed, not measured: success probabilities" in half
    assert "Assumed" not in testbed("plan", "--effect", ".05", "--between", ".05", "--within", "1/6").out


def test_the_shipped_demo_is_planned_without_being_run(testbed: Callable[..., Done], tmp_path: Path) -> None:
    done = testbed("plan", "demo", "--json")
    assert done.code == 0, done.err
    plan = done.data
    assert (plan["name"], plan["tasks"]) == ("demo", 108)
    assert [(p["arm"], p["bare_attempts"], p["attempts"]) for p in plan["pairs"]] == [
        (arm, 224, 16) for arm in ("inert", "python", "search", "retrieve", "all")
    ]
    assert sum(cost["attempts"] for cost in plan["costs"]) == 32_832
    never = plan["settling"][0]
    assert (never["reach"], never["attempts"]["anytime"]) == (0.0, 140)
    assert never["settled"] == {"224": 1.0, "16": 0.0}
    assert not list(tmp_path.iterdir())


def test_straight_failures_for_many_tasks_are_those_of_a_stricter_level(testbed: Callable[..., Done]) -> None:
    one, many = testbed("plan", "demo", "--json").data["certificate"]
    threshold = p_star(0.5, 16)
    assert one == attempts_still_needed(0, 0, threshold).if_all_fail
    assert many == attempts_still_needed(0, 0, threshold, alpha=0.05 * 10 / 108).if_all_fail


def test_text_keeps_to_80_columns_and_names_every_arm(testbed: Callable[..., Done]) -> None:
    done = testbed("plan", "demo", "--effect", "0.05")
    assert done.code == 0, done.err
    assert max(len(line.rstrip()) for line in done.out.splitlines()) <= 80
    for arm in ("inert", "python", "search", "retrieve", "all", "in all"):
        assert re.search(rf"^{arm} ", done.out, re.MULTILINE), arm
    assert "Tasks that find a gain of 0.05" in done.out


def test_options_go_before_the_experiment(testbed: Callable[..., Done]) -> None:
    options = ("--tasks", "500", "--attempts", "4", "--bare-attempts", "40", "--elicitation", "8", "--alpha", "1/100")
    plan = testbed("plan", "demo", *options, "--arm", "python", "--json").data
    assert plan["tasks"] == 500
    assert [(p["arm"], p["bare_attempts"], p["attempts"]) for p in plan["pairs"]] == [("python", 40, 4)]
    assert (plan["measure"]["elicitation"], plan["measure"]["alpha"]) == (8, 0.01)


def test_a_loss_is_planned_like_a_gain(testbed: Callable[..., Done]) -> None:
    gain, loss = (testbed("plan", "--effect", e, "--json").data["pairs"][0]["needed"][0] for e in ("0.1", "-0.1"))
    assert gain["tasks"] == loss["tasks"]


def test_clusters_of_unknown_correlation_are_taken_to_gain_alike(testbed: Callable[..., Done]) -> None:
    done = testbed("plan", "--effect", "0.1", "--cluster-size", "5")
    assert "icc = 1" in done.out
    options = ("plan", "--effect", "0.1", "--json")
    alike = testbed(*options, "--cluster-size", "5").data["pairs"][0]["needed"][0]["tasks"]
    loose = testbed(*options, "--cluster-size", "5", "--icc", "0").data["pairs"][0]["needed"][0]["tasks"]
    alone = testbed(*options).data["pairs"][0]["needed"][0]["tasks"]
    assert alone < loose < alike


def test_arms_that_stop_early_are_counted_at_most_and_planned_at_least(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    text = blocks("toml")[0].replace("samples = 8", 'samples = { min = 8, max = 64, stop = "verdict" }')
    (tmp_path / "e.toml").write_text(text.replace('policy = "policy.py:answer"', 'replies = ["<answer>1</answer>"]'))
    done = testbed("plan", "e.toml", "--effect", "0.05", "--json")
    assert done.code == 0, done.err
    pair = done.data["pairs"][0]
    assert (pair["bare_attempts"], pair["attempts"]) == (8, 8)
    assert pair["needed"][0]["in_all"] == 128 * pair["needed"][0]["tasks"]
    assert any("Sampling stops" in note for note in done.data["notes"])


# -- with a pilot


def test_a_pilot_gives_variances_attempts_and_costs(piloted: Callable[..., Done], tmp_path: Path) -> None:
    done = piloted("plan", "--pilot", "pilot", "--effect", "0.05", "--json")
    assert done.code == 0, done.err
    plan = done.data
    pair = plan["pairs"][0]
    assert pair["source"] == "pilot"
    assert (plan["tasks"], pair["bare_attempts"], pair["attempts"]) == (60, 8, 8)
    # The policy's truth, and four standard errors of sixty tasks.
    assert pair["spread"]["between"] == pytest.approx(0.080, abs=0.08)
    assert pair["spread"]["bare"][0] == pytest.approx(0.107, abs=0.045)
    assert pair["spread"]["tool"][0] == pytest.approx(0.111, abs=0.045)
    assert [d["what"] for d in pair["detectable"]] == ["gain", "elicitation", "creation", "loss"]
    need = pair["needed"][0]
    assert need["normal"] < need["tasks"] < need["cautious"]
    with Store.open(tmp_path / "testbed.sqlite", create=False) as store:
        spent = sum(a.cost.generated_tokens for a in store.attempts("pilot", arm="bare", texts=False))
    cost = next(c for c in plan["costs"] if c["arm"] == "bare")
    assert cost["attempts"] == 8 * need["tasks"]
    assert cost["cost"]["generated_tokens"] == pytest.approx(spent / 480 * cost["attempts"])


def test_an_experiment_takes_its_variances_from_a_pilot(piloted: Callable[..., Done], tmp_path: Path) -> None:
    text = blocks("toml")[0].replace('"pilot"', '"next"').replace("samples = 8", "samples = 3")
    (tmp_path / "next.toml").write_text(text.replace("tasks = 60", "tasks = 200"))
    plan = piloted("plan", "next.toml", "--pilot", "pilot", "--effect", "0.05", "--json").data
    alone = piloted("plan", "--pilot", "pilot", "--effect", "0.05", "--json").data
    assert (plan["name"], plan["tasks"], plan["pairs"][0]["attempts"]) == ("next", 200, 3)
    assert plan["pairs"][0]["spread"] == alone["pairs"][0]["spread"]
    assert plan["pairs"][0]["needed"][0]["tasks"] > alone["pairs"][0]["needed"][0]["tasks"]


def test_of_a_pilot_that_stopped_early_only_the_attempts_made_in_any_case_are_used(
    piloted: Callable[..., Done], tmp_path: Path
) -> None:
    text = blocks("toml")[0].replace("samples = 8", 'samples = { min = 8, max = 64, stop = "verdict" }')
    (tmp_path / "early.toml").write_text(text.replace('"pilot"', '"early"', 1))
    assert piloted("run", "early.toml").code == 0
    early, fixed = (piloted("plan", "--pilot", run, "--effect", "0.05", "--json").data for run in ("early", "pilot"))
    # The first eight attempts of both runs are the same.
    assert early["pairs"][0]["spread"] == fixed["pairs"][0]["spread"]
    assert early["pairs"][0]["needed"][0]["tasks"] == fixed["pairs"][0]["needed"][0]["tasks"]
    assert early["pairs"][0]["needed"][0]["in_all"] > 2 * fixed["pairs"][0]["needed"][0]["in_all"]
    assert any("Sampling stops" in note for note in early["notes"])


def test_a_pilot_of_imported_outcomes_with_clusters_knows_their_correlation(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    rows = ["q,book,arm,ok"]
    for book in range(20):
        for page in range(3):
            for sample in range(4):
                rows.append(f"{book}-{page},{book},bare,{int(sample == 0)}")
                rows.append(f"{book}-{page},{book},tool,{int(sample == 0 or book % 2)}")
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    columns = ("--task", "q", "--arm", "arm", "--success", "ok", "--cluster", "book")
    assert testbed("import", "rows.csv", "--run", "log", *columns).code == 0
    pair = testbed("plan", "--pilot", "log", "--effect", "0.1", "--json").data["pairs"][0]
    assert (pair["spread"]["cluster_size"], pair["spread"]["icc"]) == (3.0, 1.0)
    assert pair["pilot"]["clusters"] == 20
    text = testbed("plan", "--pilot", "log", "--effect", "0.1").out
    assert "The pilot has 20 clusters: its variances are rough" in " ".join(text.split())
    assert "cautious assumption" not in text


def test_a_pilot_with_one_attempt_per_task_says_what_it_cannot_tell(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    rows = ["q,arm,ok", *(f"{i},{arm},{int((i + n) % 3 == 0)}" for i in range(40) for n, arm in enumerate("ab"))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    assert testbed("import", "rows.csv", "--run", "log", "--task", "q", "--arm", "arm", "--success", "ok").code == 0
    done = testbed("plan", "--pilot", "log", "--bare", "a")
    assert done.code == 0, done.err
    assert "too few attempts per task to tell noise from variation" in " ".join(done.out.split())


def test_a_pilot_in_which_nothing_differs_is_planned_from(testbed: Callable[..., Done], tmp_path: Path) -> None:
    rows = ["q,arm,ok", *(f"{i},{arm},0" for i in range(40) for arm in ("bare", "tool") for _ in range(4))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    assert testbed("import", "rows.csv", "--run", "log", "--task", "q", "--arm", "arm", "--success", "ok").code == 0
    need = testbed("plan", "--pilot", "log", "--effect", "0.05", "--json").data["pairs"][0]["needed"][0]
    assert need["normal"] == 1
    assert need["tasks"] > 50  # (1 + .05)^-T ≤ .025: agreement of a few tasks is no certainty


# -- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--effect", "0"], "is not 0"),
        (["--effect", "1"], "between -1 and 1"),
        (["--effect", "nan"], "effect must be a finite number"),
        (["--effect", "much"], "neither a number nor a fraction"),
        (["--effect", "1/0"], "neither a number nor a fraction"),
        (["--effect", "0.05", "--power", "1.2"], "power must lie strictly between 0 and 1, not 1.2"),
        (["--effect", "0.05", "--power", "0.02"], "what no effect at all reaches"),
        (["--effect", "0.05", "--between", "-0.1"], "between tasks must lie from 0 to 1, not -0.1"),
        (["--effect", "0.05", "--within", "0.3"], "within tasks must lie from 0 to 0.25"),
        (["--effect", "0.9", "--between", "0.5"], "at most 0.19"),
        (["--effect", "0.05", "--icc", "2"], "correlation within clusters"),
        (["--effect", "0.05", "--cluster-size", "0"], "at least one task"),
        (["--effect", "0.05", "--alpha", "0"], "alpha must lie between 0 and 1"),
        (["--tasks", "0"], "tasks must be at least 1, not 0"),
        (["--tasks", "many"], "--tasks"),
        (["--attempts", "-2"], "attempts must be at least 1"),
        (["--operating", "4", "--attempts", "2"], "at least 4 whole attempts per task, not 2"),
        (["--operating", "4", "--within", "0.1"], "within is the variance of one attempt"),
        (["--operating", "8", "--elicitation", "4"], "at most elicitation"),
        (["demoo"], "Did you mean 'demo'?"),
        (["demo", "--arm", "pyton"], "Did you mean 'python'?"),
        (["demo", "--arm", "bare"], "It is to be compared with 'bare'"),
        (["demo", "--bare", "bear"], "Did you mean 'bare'?"),
        (["--pilot", "pilot", "--store", "nowhere.sqlite"], "nowhere.sqlite"),
        (["--pilot", "pilto"], "Did you mean 'pilot'?"),
        (["--pilot", "pilot", "--arm", "helpd"], "Did you mean 'helped'?"),
        (["--pilot", "pilot", "--bare", "bear"], "Did you mean 'bare'?"),
        (["--pilot", "pilot", "--operating", "9", "--elicitation", "9"], "share 0 tasks with 9 scored attempts"),
        (["demo", "--pilot", "pilot"], "the pilot 'pilot' has no arm 'inert'"),
        (["--plugin", "nowhere.py", "demo"], "nowhere.py"),
    ],
)
def test_bad_input_is_named_and_ends_with_code_2(
    testbed: Callable[..., Done], store: str, arguments: list[str], says: str
) -> None:
    if "--pilot" in arguments and "--store" not in arguments:
        arguments = [*arguments, "--store", store]
    done = testbed("plan", *arguments)
    assert done.code == 2, done.out
    assert says in done.err
    assert "Traceback" not in done.err


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the outcomes of a run "pilot", arms "bare" and "helped"."""
    from testbed.transfer import Columns, import_outcomes

    folder = tmp_path_factory.mktemp("pilot")
    rows = ["q,arm,ok"]
    rows += [f"{i},{arm},{int((i + n) % 3 == 0)}" for i in range(12) for n in range(4) for arm in ("bare", "helped")]
    (folder / "rows.csv").write_text("\n".join(rows))
    with Store.open(folder / "pilot.sqlite") as opened:
        import_outcomes(opened, folder / "rows.csv", "pilot", Columns.parse(task="q", success="ok", arm="arm"))
    return str(folder / "pilot.sqlite")


# -- the page


def test_the_pages_examples_print_what_the_page_shows(
    piloted: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = 0
    for block in blocks("console"):
        for command, expected in re.findall(r"^\$ testbed (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            arguments = command.partition("#")[0].split()
            if "RUN" in arguments or arguments[0] == "run":
                continue
            done = piloted(*arguments)
            assert done.code == 0, done.err
            printed = "\n".join(line.rstrip() for line in done.out.splitlines())
            for part in filter(None, expected.split("…\n")):
                assert part.strip("\n") in printed, command
                shown += 1
    assert shown >= 7


def test_help_has_an_example_and_names_every_option_of_the_page(testbed: Callable[..., Done]) -> None:
    done = testbed("plan", "--help")
    assert done.code == 0
    assert "Example: testbed plan" in done.out
    for option in re.findall(r"`(--[a-z-]+)`", PAGE.read_text(encoding="utf-8")):
        assert option in done.out, option


def test_parts_of_a_pilot_are_read_as_its_report_reads_them(tmp_path: Path) -> None:
    """One task with two attempts changes neither the spends nor the parts of the others: it is left out."""
    from testbed.transfer import Columns, import_outcomes

    rows = ["q,arm,ok"]
    for i in range(20):
        made = 2 if i == 3 else 32
        rows += [f"{i},bare,{int((i + n) % 5 == 0)}" for n in range(made)]
        rows += [f"{i},helped,{int((i + n) % 2 == 0)}" for n in range(32)]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    with Store.open(tmp_path / "pilot.sqlite") as opened:
        import_outcomes(opened, tmp_path / "rows.csv", "pilot", Columns.parse(task="q", success="ok", arm="arm"))
        earlier = Earlier.read(opened, "pilot")
        report = analyse_run(opened, "pilot").comparisons[0]
    assert report.full is not None
    tasks = earlier.pilot("bare", "helped", 1).tasks
    assert len(tasks) == 20
    found = earlier.parts("bare", "helped", tasks, earlier.measure, asked=earlier.asked)
    assert report.elicitation == 16
    assert found["creation"].mean == pytest.approx(report.full.figures.creation.value)
    assert found["elicitation"].mean == pytest.approx(report.full.figures.elicitation_part.value)


@pytest.mark.parametrize(("made", "said"), [("8", "too few"), ("150", "too few for the second"), ("200", "enough")])
def test_a_plan_begins_with_what_verdicts_ask_of_the_bare_arm(
    testbed: Callable[..., Done], made: str, said: str
) -> None:
    plan = " ".join(testbed("plan", "demo", "--bare-attempts", made).out.split())
    expected = (
        "For a task to be found expanded, bare needs at least 140 attempts at it, all of them failures; 199 where a "
        f"tenth of all 108 tasks is to be found so together. It makes {made} per task: "
    )
    told = plan.partition(expected)[2].partition(".")[0]
    assert told.endswith(said)
    assert plan.index(expected) < plan.index("What makes the gain vary")
    assert "e-BH" not in plan
