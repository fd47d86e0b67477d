"""How `testbed run` ends where the model cannot be reached or its limits cannot bind: it says why, and soon."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.command import Done
from testbed import running
from testbed.experiment_file import read_experiment
from testbed.runner import UNHEARD, Runner
from testbed.store import Store

EXPERIMENT = """
samples = {samples}
[model]
{model}
[budget]
{budget}
[[env]]
id = "Addition-v0"
digits = 2
tasks = 4
[[arm]]
name = "bare"
"""


def write(folder: Path, *, model: str, samples: int = 2, budget: str = "turns = 2") -> None:
    text = EXPERIMENT.format(samples=samples, model=model, budget=budget)
    (folder / "run.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A [model] whose server refuses connections; attempts are not tried again, which would take seconds."""
    assert Runner.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(Runner.__init__.__kwdefaults__, "retries", 0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening
        yield f'id = "chat:openai:x"\nbase_url = "http://127.0.0.1:{unused.getsockname()[1]}/v1"'


def test_a_run_that_reached_no_model_says_why_and_so_does_its_report(
    testbed: Callable[..., Done], tmp_path: Path, unreachable: str
) -> None:
    write(tmp_path, model=unreachable)
    done = testbed("run", "run.toml")
    assert done.code == 3
    assert "0 of 8 attempts are stored: 0 new, 0 from before; 8 lost to the infrastructure." in done.err
    found = re.search(r"8 missing: 8 x (\w+) \((.*)\); see `testbed show (\w+)`", done.err)
    assert found, done.err
    assert "chat:openai:x: " in found[2]
    assert "onnection" in found[2]
    assert found[2] in testbed("show", found[3]).out
    report = testbed("report", "run")
    assert report.code == 2
    assert f"no scored attempt yet: {found[0]}" in report.err


def test_what_shows_a_lost_attempt_names_the_store(
    testbed: Callable[..., Done], tmp_path: Path, unreachable: str
) -> None:
    write(tmp_path, model=unreachable)
    assert testbed("run", "run.toml", "--store", "other.sqlite").code == 3
    report = testbed("report", "run", "--store", "other.sqlite")
    assert re.search(r"see `testbed show \w{8} --store other.sqlite`", report.err), report.err


def test_a_run_whose_model_never_answers_gives_up_early_and_can_go_on(
    testbed: Callable[..., Done], tmp_path: Path, unreachable: str
) -> None:
    write(tmp_path, model=unreachable, samples=UNHEARD)
    done = testbed("run", "run.toml", "--concurrency", "10")
    assert done.code == 3
    assert "Stopped early: the model was not heard in any of the first" in done.err
    lost = re.search(r"(\d+) lost to the infrastructure", done.err)
    assert lost
    assert UNHEARD <= int(lost[1]) <= UNHEARD + 10  # those that were under way
    again = testbed("run", "run.toml", "--concurrency", "10")
    assert "Stopped early" in again.err


def test_what_goes_on_with_a_run_names_its_plugins(
    testbed: Callable[..., Done], tmp_path: Path, unreachable: str
) -> None:
    write(tmp_path, model=unreachable)
    tool = "from langchain_core.tools import tool\n@tool\ndef {0}() -> str:\n    'Does it.'\n    return ''\n"
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(tool.format(name), encoding="utf-8")
    done = testbed("run", "run.toml", "--plugin", "first.py", "--plugin", "second.py")
    assert "again with: testbed run run.toml --plugin first.py --plugin second.py\n" in done.err


def test_a_run_that_began_well_does_not_give_up(testbed: Callable[..., Done], tmp_path: Path) -> None:
    policy = (
        "from testbed.errors import ModelUnavailable\n"
        "asked = []\n"
        "def answer(request, random):\n"
        "    asked.append(1)\n"
        "    if len(asked) > 1:\n"
        "        raise ModelUnavailable('gone')\n"
        "    return '<answer>1</answer>'\n"
    )
    (tmp_path / "policy.py").write_text(policy, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        assert Runner.__init__.__kwdefaults__ is not None
        patch.setitem(Runner.__init__.__kwdefaults__, "retries", 0)
        write(tmp_path, model='id = "scripted"\npolicy = "policy.py:answer"', samples=UNHEARD)
        done = testbed("run", "run.toml", "--concurrency", "1")
    assert "1 of 200 attempts are stored: 1 new, 0 from before; 199 lost to the infrastructure." in done.err
    assert "199 x model_unavailable (gone)" in done.err
    assert "Stopped early" not in done.err


def test_stopped_when_all_is_done_nothing_is_said_to_be_left(testbed: Callable[..., Done], tmp_path: Path) -> None:
    policy = (
        "import os, signal\n"
        "asked = []\n"
        "def answer(request, random):\n"
        "    asked.append(1)\n"
        "    if len(asked) == 8:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return '<answer>1</answer>'\n"
    )
    (tmp_path / "policy.py").write_text(policy, encoding="utf-8")
    write(tmp_path, model='id = "scripted"\npolicy = "policy.py:answer"')
    done = testbed("run", "run.toml", "--concurrency", "1")
    assert done.code == 130
    assert "8 of 8 attempts are stored" in done.err
    assert "Stopped, with nothing left to do. See what the tools added: testbed report run" in done.err
    assert "Go on with" not in done.err


def test_given_up_at_the_second_interrupt_attempts_under_way_are_told_and_stored(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    agent = (
        "import asyncio, os, signal\n"
        "async def solve(env):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    await asyncio.sleep(0.1)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    await asyncio.sleep(60)\n"
    )
    (tmp_path / "agent.py").write_text(agent, encoding="utf-8")
    write(tmp_path, model='id = "scripted"\nreplies = ["<answer>1</answer>"]')
    done = testbed("run", "run.toml", "--agent", "agent.py:solve", "--concurrency", "1")
    assert done.code == 130
    assert "what a hosted model was asked for in them then counts as lost" in done.err
    assert "0 of 8 attempts are stored: 0 new, 0 from before; 0 lost to the infrastructure, 1 given up." in done.err
    assert "1 missing: 1 x given_up (the run was given up before the attempt had ended.)" in done.err
    assert "Go on with: testbed run run.toml --agent agent.py:solve" in done.err


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ('id = "chat:openai:x"\nbase_url = "http://127.0.0.1:9/v1"', "usd needs usd_per_million"),
        ('id = "scripted"\nreplies = ["<answer>1</answer>"]', "'scripted' has no price"),
    ],
)
def test_a_limit_on_money_that_can_never_bind_is_refused(
    testbed: Callable[..., Done], tmp_path: Path, model: str, words: str
) -> None:
    write(tmp_path, model=model, budget="usd = 0.01")
    done = testbed("run", "run.toml")
    assert done.code == 2
    assert words in done.err
    assert re.search(r"run\.toml:\d+: budget: usd", done.err), done.err
    assert not (tmp_path / "testbed.sqlite").exists()


def test_a_limit_on_money_with_prices_is_taken(testbed: Callable[..., Done], tmp_path: Path, unreachable: str) -> None:
    write(tmp_path, model=f"{unreachable}\nusd_per_million = {{ input = 1, output = 2 }}", budget="usd = 0.01")
    assert "usd_per_million" not in testbed("run", "run.toml").err


async def test_of_two_processes_at_one_run_each_counts_what_it_stored_itself(where: str, tmp_path: Path) -> None:
    write(tmp_path, model='id = "oracle"', samples=8)
    source = str(tmp_path / "run.toml")
    with Store.open(where) as one, Store.open(where) as other:
        runners = [Runner(read_experiment(source), store, concurrency=2) for store in (one, other)]
        counts = await asyncio.gather(*(runner.run() for runner in runners))
        assert len(one.finished("run")) == 32
    assert sum(c.done - c.resumed - c.elsewhere for c in counts) == 32
    assert all(c.done == 32 for c in counts)
    for count in counts:
        told = running._sum_up(count)
        assert f"{32 - count.resumed - count.elsewhere} new" in told
        assert (f", {count.elsewhere} made here in vain" in told) == bool(count.elsewhere)


def test_an_experiment_that_compares_nothing_says_so_before_its_run(
    testbed: Callable[..., Done], tmp_path: Path
) -> None:
    tool = '[[arm]]\nname = "calculator"\ntools = ["calculator"]\n'
    one = EXPERIMENT.format(model='id = "scripted"\nreplies = ["4"]', samples=1, budget="turns = 2")
    tooled = one.replace('name = "bare"', 'name = "python"\ntools = ["python"]') + tool
    told = {
        one: "'bare' is the only arm, so that the report will compare nothing.",
        f"{one}{tool}": "",
        tooled: "No arm is bare (without tools and search) among 'python', 'calculator', so that the report will",
        f'{tooled}[measure]\nbare = "python"\n': "",
    }
    for n, (text, said) in enumerate(told.items()):
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        done = testbed("run", "run.toml", "--store", f"{n}.sqlite")
        assert done.code == 0, done.err
        attempts = 4 * text.count("[[arm]]")
        assert done.err.startswith(said or f"{attempts} of {attempts} attempts are stored"), done.err
        assert f"{attempts} of {attempts} attempts are stored" in done.err
