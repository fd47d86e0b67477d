from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from langchain_core.tools import BaseTool, tool

from helpers.plugin_file import PLUGIN, write
from testbed import plugins, registry
from testbed.budget import Budget
from testbed.errors import DataError, UnknownName, UsageError
from testbed.tool import ToolSet
from testbed.wrappers import Scrambled, Yoked

pytestmark = pytest.mark.usefixtures("nothing_registered")


# -- built-in


def test_built_in_environments_and_tools_are_listed_in_order() -> None:
    assert {"Addition-v0", "Multiplication-v0", "Facts-v0", "GSM8K-v0", "ReasoningGym-v0"} <= set(registry.env_names())
    assert set(registry.tool_names()) >= {"python", "search", "retrieve"}
    assert list(registry.env_names()) == sorted(registry.env_names())


@pytest.mark.parametrize("name", registry.env_names())
def test_every_listed_environment_is_the_class_of_that_id_and_known_to_gymnasium(name: str) -> None:
    assert registry.env_class(name).id == name
    assert registry.env_class(f"testbed/{name}") is registry.env_class(name)
    assert f"testbed/{name}" in gym.registry
    assert registry.summary(registry.env_class(name))


@pytest.mark.parametrize("name", registry.tool_names())
def test_every_listed_tool_is_the_class_of_that_name(name: str) -> None:
    cls = registry.tool_class(name)
    assert issubclass(cls, BaseTool)
    assert cls.model_fields["name"].default == name


LISTING = """
import sys, testbed
from testbed import registry
names = registry.env_names() + registry.tool_names()
assert len(names) >= 8, names
heavy = {"torch", "transformers", "tantivy", "sqlalchemy", "altair", "docker", "pyarrow"}
heavy |= {"langchain_core", "pydantic", "reasoning_gym"}
print(sorted(heavy & set(sys.modules)), [m for m in sys.modules if m.startswith(("testbed.envs.", "testbed.tools."))])
"""


def test_importing_and_listing_load_nothing_heavy_and_no_environment() -> None:
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[] []\n"


def test_a_file_dropped_in_is_found_by_its_source_without_being_run(tmp_path: Path) -> None:
    path = write(tmp_path, "raise RuntimeError('was run')\n" + PLUGIN.replace("from __future__ import annotations", ""))
    assert list(plugins.names_in(path, "id")) == [("Length-v0", "Length")]
    assert list(plugins.names_in(path, "name")) == [("measure", "Measure")]


def test_a_file_dropped_into_the_folder_needs_no_announcement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import testbed.envs

    write(tmp_path, PLUGIN, "hostile_dropped.py")
    monkeypatch.setattr(testbed.envs, "__path__", [str(tmp_path), *testbed.envs.__path__])
    registry._builtin.cache_clear()
    try:
        assert registry.env_class("Length-v0").__module__ == "testbed.envs.hostile_dropped"
    finally:
        registry._builtin.cache_clear()
        sys.modules.pop("testbed.envs.hostile_dropped", None)


def test_a_broken_file_in_the_folder_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine\.py:2: not a Python file"):
        list(plugins.names_in(write(tmp_path, "x = 1\ndef (:\n"), "id"))


# -- unknown names and wrong options


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: registry.make_env("Multiplicaton-v0"), "unknown environment 'Multiplicaton-v0'. Did you mean 'Multi"),
        (lambda: registry.make_env("testbed/Addition"), "unknown environment 'Addition'. Did you mean 'Addition-v0'?"),
        (lambda: registry.make_tool("pyhton"), "unknown tool 'pyhton'. Did you mean 'python'?"),
        (lambda: registry.make_env("Addition-v0", tools=["serach"]), "unknown tool 'serach'. Did you mean 'search'?"),
        (
            lambda: registry.make_env("Addition-v0", digit=2),
            "unknown option of Addition-v0 'digit'. Did you mean 'digits'",
        ),
        (lambda: registry.make_env("Addition-v0", budgte=1), "Did you mean 'budget'?"),
        (
            lambda: registry.make_tool("python", memory_mb=2),
            "unknown option of tool python 'memory_mb'. Did you mean 'memory_mib",
        ),
        (lambda: registry.make_tool("python", version="9"), "unknown option of tool python 'version'"),
        (lambda: registry.make_env("Addition-v0", control="lvie"), "unknown control 'lvie'. Did you mean 'live'?"),
        (
            lambda: registry.make_env("Addition-v0", tools=["python"], tool_options={"pyton": {}}),
            "unknown tool in tool_options 'pyton'. Did you mean 'python'?",
        ),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(call: Any, message: str) -> None:
    with pytest.raises(UnknownName) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["two", "2", 2.5, None, True, [[1]]])
def test_an_option_of_the_wrong_type_is_named_with_its_value(value: Any) -> None:
    with pytest.raises(UsageError, match=r"Addition-v0: digits = .* does not fit"):
        registry.make_env("Addition-v0", digits=value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: registry.make_env("Addition-v0", tasks="many"),
        lambda: registry.make_env("Addition-v0", budget={"turns": 3}),
        lambda: registry.make_env("Addition-v0", budget=3),
        lambda: registry.make_env("Addition-v0", tools="python"),
        lambda: registry.make_env("Addition-v0", tools=3),
        lambda: registry.make_env("Addition-v0", tools=[3]),
        lambda: registry.make_env("Addition-v0", tools=["python"], control="absent"),
        lambda: registry.make_env("Addition-v0", control="inert"),
        lambda: registry.make_env("Addition-v0", tools=ToolSet(), control="inert"),
        lambda: registry.make_tool("python", memory_mib="much"),
        lambda: registry.make_tool("search", corpus="Facts-v0", k="three"),
        lambda: registry.make_tool("search", corpus="Facts-v0", k=0),
        lambda: registry.make_tool("search"),
    ],
)
def test_wrong_options_are_usage_errors_on_one_line_and_never_type_errors(call: Any) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_options_of_tools_leave_the_frameworks_own_out() -> None:
    names = registry.option_names(registry.tool_class("search"))
    assert {"corpus", "k", "description"} <= set(names)
    assert {"callbacks", "verbose", "args_schema", "version", "name", "self"}.isdisjoint(names)


def test_options_of_environments_hold_the_common_ones_but_no_tools() -> None:
    names = registry.option_names(registry.env_class("Addition-v0"))
    assert {"digits", "budget", "count", "render_mode"} <= set(names)
    assert {"tools", "self", "common"}.isdisjoint(names)


# -- making


@tool
def look(word: str) -> str:
    """Looks at a word."""
    return word


def test_make_env_passes_budget_and_tools_on() -> None:
    budget = Budget(turns=3)
    env = registry.make_env("Addition-v0", tools=[look], budget=budget, digits=3, tasks=4)
    assert env.budget is budget
    assert list(env.tools.offers) == ["look"]
    assert len(env.tasks) == 4


@pytest.mark.parametrize(
    ("control", "kind"), [("inert", Scrambled), ("yoked", Yoked), ("live", type(look)), (None, type(look))]
)
def test_make_env_puts_tools_under_control(control: str | None, kind: type) -> None:
    env = registry.make_env("Addition-v0", tools=[look], control=control)
    assert type(env.tools.offers["look"].tool) is kind


def test_a_corpus_is_an_environments_documents_or_a_file(tmp_path: Path) -> None:
    from_env = registry.make_corpus("Facts-v0")
    assert len(from_env) > 10
    assert registry.make_corpus({"env": "Facts-v0"}).hash == from_env.hash
    assert registry.make_corpus(from_env) is from_env
    file = write(tmp_path, '{"id": "a", "text": "Cats purr."}\n', "c.jsonl")
    assert [d.id for d in registry.make_corpus(str(file)).documents] == ["a"]


@pytest.mark.parametrize("source", ["Fact-v0", "nowhere.jsonl", 3, {"env": "Fact-v0"}, {}])
def test_a_corpus_that_is_nowhere_is_refused(source: Any) -> None:
    with pytest.raises(DataError, match="neither a file nor an environment") as refused:
        registry.make_corpus(source)
    assert "Addition-v0" not in str(refused.value)  # which has no documents


def test_a_misspelt_corpus_is_answered_with_the_nearest_environment() -> None:
    with pytest.raises(DataError, match=r"Did you mean 'Facts-v0'\?"):
        registry.make_corpus("Fatcs-v0")
