"""`testbed check` finds what is wrong with a plug-in, property by property, and leaves good ones alone."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from testbed import registry
from testbed.cli import app
from testbed.contract import ENVIRONMENT, check_environment
from testbed.contract_tools import TOOL, Subject, check_tool
from testbed.env import Environment
from testbed.registry import make_env, make_tool
from testbed.tool import AttemptContext, Tool
from testbed.types import Grade


class Squares(Environment):
    """Squares of numbers."""

    id = "Squares-v0"
    card = "Source: made up. Expected: nothing. Contamination: none."

    def make_tasks(self) -> Any:
        for n in range(11, 60):
            yield self.task(f"What is {n} * {n}?", str(n * n))

    def grade(self, task: Any, answer: str) -> Grade:
        return Grade(answer == task.reference)

    def near_misses(self, task: Any) -> Any:
        return (task.reference + "0",)


count = itertools.count()


def broken(**changed: Any) -> Callable[..., Environment]:
    return type("Broken", (Squares,), {"__doc__": "Squares, but.", **changed})


class Counting:
    """A game that says what comes next."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    def act(self, text: str) -> str:
        return str(next(self.numbers))


class Shared(Counting):
    """Its clones count on together."""

    def __init__(self) -> None:
        super().__init__(itertools.count())

    def clone(self) -> Any:
        return self


def environment_problems(make: Callable[..., Environment]) -> list[str]:
    findings = list(check_environment(make))
    assert [finding.what for finding in findings] == list(ENVIRONMENT)
    return [finding.what for finding in findings if finding.problem]


def test_a_good_environment_has_no_findings() -> None:
    assert environment_problems(Squares) == []
    assert environment_problems(lambda **common: make_env("Oracle-v0", vaults=5, **common)) == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"card": "Source: mine."}, "it says what it is"),
        ({"__doc__": None}, "it says what it is"),
        ({"make_tasks": lambda self: [self.task(f"{next(count)} {n}?", "12345678") for n in "ab"]}, "same in every"),
        ({"make_tasks": lambda self: [self.task(f" {n}", str(n)) for n in (11, 12)], "id": "x-v0"}, "it says what it"),
        ({"make_tasks": lambda self: [self.task(text, "abc") for text in (" ", "x")]}, "well formed"),
        (
            {"grade": lambda self, task, answer: Grade(task.reference in answer)},
            "refuses near misses",
        ),
        ({"grade": lambda self, task, answer: Grade(int(answer) == int(task.reference))}, "empty and random"),
        ({"grade": lambda self, task, answer: Grade(answer == task.reference, 0.5)}, "the reference answer succeeds"),
        ({"grade": lambda self, task, answer: Grade(answer.isdecimal())}, "answers of other tasks"),
        (
            {"grade": lambda self, task, answer: Grade(answer == task.reference, None, str(next(count)))},
            "repeats itself",
        ),
        ({"near_misses": lambda self, task: ()}, "refuses near misses"),
        ({"grade": lambda self, task, answer: sys.exit(0)}, "empty and random"),
        ({"close": lambda self: sys.exit(0)}, "it says what it is"),
        ({"public_check": lambda self, task, answer: answer == "121"}, "no stricter"),
        ({"make_game": lambda self, task: Counting(itertools.count(next(count)))}, "games depend on their moves"),
        ({"make_game": lambda self, task: Counting([0].pop)}, "games depend on their moves"),
        ({"make_game": lambda self, task: Shared()}, "clones are apart"),
    ],
)
def test_each_mistake_is_found(changed: dict[str, Any], what: str) -> None:
    problems = environment_problems(broken(**changed))
    assert any(what in problem for problem in problems), problems


def test_a_prompt_that_depends_on_the_tools_is_found() -> None:
    class Telling(Squares):
        """Says which tools there are."""

        def make_tasks(self) -> Any:
            for task in super().make_tasks():
                yield self.task(f"{task.prompt} You have {len(self.tools.offers)} tools.", task.reference)

    assert environment_problems(Telling) == ["the prompt is the same whatever is offered"]


# -- tools -------------------------------------------------------------------------------------------------------------


class Word(BaseModel):
    text: str = Field(description="A word.", examples=["hi"])


class Shout(Tool):
    """Shouts."""

    name: str = "shout"
    description: str = "Shouts a word."
    args_schema: Any = Word

    def _run(self, text: str) -> str:
        return text.upper()


class Forgetful(Shout):
    """Counts its calls over all attempts."""

    def _run(self, text: str) -> str:
        return f"{text} {next(count)}"


class Grudging(Shout):
    """Remembers what other attempts asked."""

    heard: list[str]

    def for_attempt(self, context: AttemptContext) -> Tool:
        return self

    def _run(self, text: str) -> str:
        self.heard.append(text)
        return f"{text} {'0' in self.heard}"


class Blurting(Shout):
    """Its placebo tells the result."""

    def inert_result(self, arguments: Any, rng: Any) -> str:
        return str(arguments["text"]).upper()


class Restless(Shout):
    """Its placebo draws from nowhere."""

    def inert_result(self, arguments: Any, rng: Any) -> str:
        return f"nothing {next(count)}"


class Silent(BaseModel):
    text: str


class Undescribed(Shout):
    """Does not say what its argument is."""

    args_schema: Any = Silent


class Anonymous(Shout):
    """Is another tool whenever it is made."""

    def fingerprint(self) -> dict[str, Any]:
        return {"made": next(count)}


def tool_problems(make: Callable[[], Any]) -> list[str]:
    findings = list(check_tool(Subject(make)))
    assert [finding.what for finding in findings] == list(TOOL)
    return [finding.what for finding in findings if finding.problem]


def test_good_tools_have_no_findings() -> None:
    assert tool_problems(Shout) == []
    assert tool_problems(lambda: make_tool("calculator")) == []

    @tool(parse_docstring=True)
    def whisper(text: str) -> str:
        """Whispers.

        Args:
            text: what.
        """
        return text.lower()

    assert tool_problems(lambda: whisper) == []


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Forgetful, "it answers and repeats itself"),
        (lambda heard=[]: Grudging(heard=heard), "attempts do not see each other"),
        (Blurting, "its placebo looks alike and tells nothing"),
        (Restless, "its placebo looks alike and tells nothing"),
        (Undescribed, "it says what it is: name, description, arguments"),
        (Anonymous, "its fingerprint is the same in every instance"),
    ],
)
def test_each_mistake_of_a_tool_is_found(make: Callable[[], Any], what: str) -> None:
    assert what in tool_problems(make)


def test_a_tool_that_acts_on_a_game_is_checked_with_one() -> None:
    lake = make_env("FrozenLake-v0", tasks=1)
    assert all(not finding.problem for finding in check_tool(Subject(lambda: make_tool("ask"), {"text": "left"}, lake)))
    (first, *_) = [f.problem for f in check_tool(Subject(lambda: make_tool("ask"), {"text": "left"})) if f.problem]
    assert "name an environment that makes one with --env" in first


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mine.py"
    source = Path(__file__).read_text(encoding="utf-8")
    begin, end = source.index("class Squares"), source.index("count = itertools")
    path.write_text(
        "from typing import Any\nfrom testbed.env import Environment\nfrom testbed.types import Grade\n"
        + source[begin:end].replace("Squares-v0", "CheckedSquares-v0")
    )
    yield path
    del registry._plugins["envs"]["CheckedSquares-v0"], registry._owners["envs", "CheckedSquares-v0"]
    del registry._loaded[str(path.resolve())]


def test_the_command_checks_what_a_file_defines(plugin: Path) -> None:
    done = CliRunner().invoke(app, ["check", "--plugin", str(plugin)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == "CheckedSquares-v0"
    assert done.output.count("  holds ") == len(ENVIRONMENT)
    plugin.write_text(plugin.read_text().replace('+ "0"', '+ ""'))
    done = CliRunner().invoke(app, ["check", "--plugin", str(plugin)])
    assert done.exit_code == 1
    assert "  FAILS its grader accepts references and refuses near misses: it accepts '121' for" in done.output


@pytest.mark.parametrize("raised", ["RuntimeError('no key')", "SystemExit(0)"])
def test_what_cannot_be_made_is_a_finding(plugin: Path, raised: str) -> None:
    plugin.write_text(plugin.read_text() + f"    def __init__(self, **common):\n        raise {raised}\n")
    done = CliRunner().invoke(app, ["check", "--plugin", str(plugin)])
    assert done.exit_code == 1
    assert f"  FAILS it can be made: {raised.partition('(')[0]}" in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to check: give a name"),
        (["Additon-v0"], "unknown environment 'Additon-v0'. Did you mean 'Addition-v0'"),
        (["calculater"], "unknown tool 'calculater'. Did you mean 'calculator'"),
        (["Addition-v0", "--options", "{"], "--options '{' is not JSON"),
        (["Addition-v0", "--options", "[]"], "--options must be a JSON object"),
        (["Addition-v0", "--options", '{"digit": 3}'], "Did you mean 'digits'"),
    ],
)
def test_what_cannot_be_checked_is_told(words: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["check", *words])
    assert says in str(done.exception)
