from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from langchain_core.tools import BaseTool, tool

from testbed import plugins, registry
from testbed.budget import Budget
from testbed.errors import DataError, UnknownName, UsageError
from testbed.tool import ToolSet
from testbed.wrappers import Inert, Yoked

PLUGIN = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain_core.tools import tool
from pydantic import BaseModel

from testbed.env import Environment
from testbed.tool import Tool
from testbed.types import Grade


@dataclass
class Word:
    text: str


class Args(BaseModel):
    word: str


class Length(Environment):
    """How long is a word?"""

    id = "Length-v0"

    def make_tasks(self):
        yield self.task("How long is cat?", reference="3")

    def grade(self, task, answer):
        return Grade(answer == task.reference)


class Measure(Tool):
    """Measures a word."""

    name: str = "measure"
    description: str = "Measures."
    args_schema: Any = Args

    def _run(self, word: str) -> str:
        return str(len(Word(word).text))


class Quiet(Measure):
    """No name of its own: a base for others."""


@tool
def spell(word: str) -> str:
    """Spells a word."""
    return " ".join(word)
'''


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Forgets what a test registers."""
    known = set(gym.registry)
    tables = [registry._plugins["envs"], registry._plugins["tools"], registry._owners, registry._loaded]
    before = [dict(table) for table in tables]  # type: ignore[call-overload]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()  # type: ignore[attr-defined]
        table.update(content)  # type: ignore[attr-defined]
    registry._installed.cache_clear()
    for name in set(gym.registry) - known:
        del gym.registry[name]
    for name in [name for name in sys.modules if name.startswith("testbed_plugin_")]:
        del sys.modules[name]


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


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
    ("control", "kind"), [("inert", Inert), ("yoked", Yoked), ("live", type(look)), (None, type(look))]
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
    with pytest.raises(DataError, match="neither a file nor an environment"):
        registry.make_corpus(source)


def test_a_misspelt_corpus_is_answered_with_the_nearest_environment() -> None:
    with pytest.raises(DataError, match=r"Did you mean 'Facts-v0'\?"):
        registry.make_corpus("Fatcs-v0")


# -- plug-in files


def test_one_file_brings_environment_and_tools_ours_and_langchains(tmp_path: Path) -> None:
    names = registry.load_plugin(write(tmp_path, PLUGIN))
    assert sorted(names) == ["Length-v0", "measure", "spell"]
    env = gym.make("testbed/Length-v0", tools=("measure", "spell"))
    env.reset(seed=0)
    observation, *_ = env.step(
        '<tool_call>{"name":"measure","arguments":{"word":"cat"}}</tool_call>'
        '<tool_call>{"name":"spell","arguments":{"word":"cat"}}</tool_call>'
    )
    assert observation["text"] == "3\nc a t"
    assert env.step("<answer>3</answer>")[1] == 1
    env.close()
    assert registry.summary(registry.env_class("Length-v0")) == "How long is a word?"
    assert registry.summary(registry.tool_class("spell")) == "Spells a word."


def test_finished_tools_take_no_options(tmp_path: Path) -> None:
    registry.load_plugin(write(tmp_path, PLUGIN))
    with pytest.raises(UnknownName, match="option of tool spell"):
        registry.make_tool("spell", loud=True)


def test_loading_a_plug_in_twice_does_nothing_and_a_changed_one_is_loaded_anew(tmp_path: Path) -> None:
    path = write(tmp_path, PLUGIN)
    names = registry.load_plugin(path)
    first = registry.env_class("Length-v0")
    assert registry.load_plugin(str(path)) == names
    assert registry.env_class("Length-v0") is first
    write(tmp_path, PLUGIN.replace("measure", "gauge").replace("cat", "horse"))
    assert sorted(registry.load_plugin(path)) == ["Length-v0", "gauge", "spell"]
    assert registry.env_class("Length-v0") is not first
    assert "measure" not in registry.tool_names()


def test_plug_ins_of_one_file_name_in_two_folders_do_not_mix(tmp_path: Path) -> None:
    registry.load_plugin(write(tmp_path / "a", PLUGIN))
    other = PLUGIN.replace("Length-v0", "Size-v0").replace("measure", "gauge").replace("spell", "chant")
    registry.load_plugin(write(tmp_path / "b", other))
    assert registry.env_class("Length-v0").__module__ != registry.env_class("Size-v0").__module__


@pytest.mark.parametrize(
    ("old", "new", "name"), [("Length-v0", "Addition-v0", "Addition-v0"), ("measure", "python", "python")]
)
def test_a_name_that_is_built_in_is_refused_and_nothing_of_the_file_stays(
    tmp_path: Path, old: str, new: str, name: str
) -> None:
    before = registry.env_names(), registry.tool_names()
    with pytest.raises(UsageError, match=f"the name '{name}' is taken"):
        registry.load_plugin(write(tmp_path, PLUGIN.replace(old, new)))
    assert (registry.env_names(), registry.tool_names()) == before


def test_a_name_of_another_plug_in_is_refused_and_the_other_named(tmp_path: Path) -> None:
    registry.load_plugin(write(tmp_path, PLUGIN, "one.py"))
    with pytest.raises(UsageError, match=r"'Length-v0' is taken by .*one\.py"):
        registry.load_plugin(write(tmp_path, PLUGIN, "two.py"))
    assert "one" in registry.env_class("Length-v0").__module__


def test_one_name_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    twice = PLUGIN + '\n\nclass Other(Measure):\n    name: str = "measure"\n'
    with pytest.raises(UsageError, match="the name 'measure' is taken"):
        registry.load_plugin(write(tmp_path, twice))


def test_an_id_that_gymnasium_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'How long' cannot be an environment's id: write NAME-v0"):
        registry.load_plugin(write(tmp_path, PLUGIN.replace("Length-v0", "How long")))


@pytest.mark.parametrize(
    "text", ["", "x = 1\n", "from testbed.env import Environment\n", "class A:\n    id = 'A-v0'\n"]
)
def test_a_plug_in_without_anything_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="defines no environment with an `id` and no tool with a `name`"):
        registry.load_plugin(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = (\n", r"mine\.py:2: SyntaxError"),
        ("x = 1\n\n1 / 0\n", r"mine\.py:3: ZeroDivisionError: division by zero"),
        ("import not_installed_anywhere\n", r"mine\.py:1: ModuleNotFoundError: .*not_installed_anywhere"),
        ("import sys\nsys.exit('bye')\n", r"mine\.py:2: SystemExit: bye"),
        ("def f():\n    raise KeyError('k')\n\nf()\n", r"mine\.py:2: KeyError"),
        ("x = 'caf\udce9'\n", r"mine\.py:1: SyntaxError"),
        ("x = 1\x00\n", r"mine\.py:\d: (SyntaxError|ValueError)"),
    ],
)
def test_a_plug_in_that_cannot_be_run_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        registry.load_plugin(path)
    assert not any(name.startswith("testbed_plugin_mine") for name in sys.modules)


@pytest.mark.parametrize("name", ["gone.py", "", "."])
def test_a_plug_in_that_does_not_exist_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="does not exist"):
        registry.load_plugin(tmp_path / name)


def test_a_plug_in_that_is_no_python_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in \.py"):
        registry.load_plugin(write(tmp_path, PLUGIN, "mine.txt"))


# -- installed packages


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, points: str, source: str = PLUGIN) -> None:
    """Puts a distribution with entry points on the path, as pip would."""
    write(folder, source, "third_party_testbed.py")
    info = folder / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("third_party_testbed", None)
    registry._installed.cache_clear()


POINTS = """
[testbed.envs]
Length-v0 = third_party_testbed:Length
[testbed.tools]
measure = third_party_testbed:Measure
spell = third_party_testbed:spell
"""


def test_entry_points_are_found_listed_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, POINTS)
    assert "Length-v0" in registry.env_names()
    assert {"measure", "spell"} <= set(registry.tool_names())
    assert "third_party_testbed" not in sys.modules  # listing imports nothing
    env = registry.make_env("Length-v0", tools=["measure", "spell"])
    env.reset(seed=0)
    call = '<tool_call>{"name":"spell","arguments":{"word":"cat"}}</tool_call>'
    assert env.step(call)[0]["text"] == "c a t"
    env.close()


def test_entry_points_work_through_gymnasium_in_a_fresh_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, POINTS)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import gymnasium as gym\n"
        "env = gym.make('testbed:testbed/Length-v0')\n"
        "print(env.reset(seed=0)[0]['text'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "How long is cat?\n"


def test_a_plug_in_cannot_take_an_installed_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, POINTS)
    with pytest.raises(UsageError, match="is taken"):
        registry.load_plugin(write(tmp_path, PLUGIN))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("[testbed.envs]\nLength-v0 = third_party_gone:Length\n", "cannot be loaded .*ModuleNotFoundError"),
        ("[testbed.envs]\nLength-v0 = third_party_testbed:Lenght\n", "cannot be loaded .*AttributeError"),
        ("[testbed.envs]\nLength-v0 = third_party_testbed:Measure\n", "is no Environment"),
    ],
)
def test_a_broken_entry_point_hurts_only_who_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: str, message: str
) -> None:
    install(tmp_path, monkeypatch, points)
    assert registry.make_env("Addition-v0").tasks
    with pytest.raises(DataError, match=f"entry point 'Length-v0' = 'third_party.*{message}"):
        registry.make_env("Length-v0")


def test_an_installed_environment_with_an_impossible_id_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "[testbed.envs]\nHow long = third_party_testbed:Length\n")
    with pytest.warns(UserWarning, match="ignoring the installed environment 'How long'"):
        assert "How long" not in registry.env_names()
