"""Plug-in files, and the entry points of installed packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from helpers.plugin_file import PLUGIN, write
from testbed import registry
from testbed.errors import DataError, UnknownName, UsageError

pytestmark = pytest.mark.usefixtures("nothing_registered")


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
    ("written", "mistyped", "message"),
    [
        ("def grade(", "def grad(", r"'Length-v0' \(class Length\) lacks the method grade. It has 'grad'"),
        (
            "def make_tasks(",
            "def all_of_them(",
            r"environment 'Length-v0' \(class Length\) lacks the method make_tasks\.$",
        ),
    ],
)
def test_a_class_that_lacks_a_method_is_refused_and_not_passed_over(
    tmp_path: Path, written: str, mistyped: str, message: str
) -> None:
    assert written in PLUGIN
    with pytest.raises(DataError, match=message):
        registry.load_plugin(write(tmp_path, PLUGIN.replace(written, mistyped)))
    assert "Length-v0" not in registry.env_names()


def test_a_base_of_other_classes_in_the_file_may_lack_methods(tmp_path: Path) -> None:
    heir = PLUGIN.replace(
        "class Length(Environment):", "class Base(Environment):\n    id = 'Base-v0'\n\n\nclass Length(Base):"
    )
    assert "Base-v0" not in registry.load_plugin(write(tmp_path, heir))


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
    with pytest.raises(DataError, match=r"corpus 'Fatcs-v0' is neither .* Did you mean 'Facts-v0'\?"):
        registry.make_corpus("Fatcs-v0")
    with pytest.raises(DataError, match=f"entry point 'Length-v0' = 'third_party.*{message}"):
        registry.make_env("Length-v0")


def test_an_installed_environment_with_an_impossible_id_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "[testbed.envs]\nHow long = third_party_testbed:Length\n")
    with pytest.warns(UserWarning, match="ignoring the installed environment 'How long'"):
        assert "How long" not in registry.env_names()
