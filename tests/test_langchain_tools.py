"""Langchain tools by import path."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool

from helpers.mcp_fixture import box, fails_with, text
from testbed import registry
from testbed.errors import DataError, FaultKind, UnknownName, UsageError
from testbed.registry import make_tool, make_tools
from testbed.tool import ToolSet

LANGCHAIN = '''
from langchain_core.tools import BaseTool, tool

@tool
def shout(text: str) -> str:
    """Returns a text in capitals."""
    return text.upper()

class Repeat(BaseTool):
    """Repeats."""
    name: str = "repeat"
    description: str = "Repeats a text."
    times: int = 2
    def _run(self, text: str) -> str:
        return text * self.times

def counter(start: int = 0):
    @tool
    def count(by: int) -> int:
        """Adds to the start."""
        return start + by
    return [count, shout]

class NoTool:
    pass

number = 42
def wrong():
    return 7
'''


@pytest.fixture
def langchain_file(tmp_path: Path) -> str:
    file = tmp_path / "theirs.py"
    file.write_text(LANGCHAIN)
    return str(file)


async def test_langchain_objects_classes_and_factories_become_tools(langchain_file: str) -> None:
    at = f"langchain:{langchain_file}:"
    options = {at + "Repeat": {"times": 3}, at + "counter": {"start": 40}}
    tool_set = ToolSet(make_tools([at + "Repeat", at + "counter"], options))
    opened = box(tool_set)
    assert await text(opened, "repeat", text="ab") == "ababab"
    assert await text(opened, "count", by=2) == "42"
    assert await text(opened, "shout", text="hi") == "HI"
    await fails_with(FaultKind.INVALID_ARGS, opened, "count", by="x")
    assert [t.name for t in make_tools([at + "shout"], {})] == ["shout"]
    await tool_set.aclose()


def test_langchain_options_are_part_of_the_identity(langchain_file: str) -> None:
    def identity(what: str, **options: Any) -> str:
        name = f"langchain:{langchain_file}:{what}"
        return json.dumps(ToolSet(make_tools([name], {name: options})).fingerprint(), sort_keys=True)

    for what, option in (("Repeat", "times"), ("counter", "start")):
        assert identity(what, **{option: 3}) == identity(what, **{option: 3})
        assert identity(what, **{option: 3}) != identity(what, **{option: 4})


@tool
def echo(text: str) -> str:
    """Returns its argument."""
    return text


def test_a_langchain_tool_is_found_in_a_module() -> None:
    sys.modules["theirs_for_a_test"] = sys.modules[__name__]
    try:
        assert make_tool("langchain:theirs_for_a_test:echo") is echo
    finally:
        del sys.modules["theirs_for_a_test"]


@pytest.mark.parametrize(
    ("what", "options", "error", "says"),
    [
        ("shou", {}, UnknownName, "Did you mean 'shout'"),
        ("NoTool", {}, UsageError, "no langchain tool"),
        ("number", {}, UsageError, "no langchain tool"),
        ("wrong", {}, UsageError, "neither a langchain tool nor a list"),
        ("Repeat", {"tims": 2}, UnknownName, "Did you mean 'times'"),
        ("Repeat", {"times": "x"}, UsageError, "times"),
        ("counter", {"begin": 2}, UnknownName, "There are: start"),
        ("shout", {"loud": True}, UnknownName, "option of tool"),
    ],
)
def test_what_langchain_names_must_be_a_tool(
    langchain_file: str, what: str, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make_tool(f"langchain:{langchain_file}:{what}", **options)


def test_langchain_paths_that_lead_nowhere_say_so(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("x = 1\n1 / 0\n")
    for name, says in (
        ("langchain:no_such_module_x:y", "'no_such_module_x' cannot be imported"),
        ("langchain:no_such.py:y", "there is no file 'no_such.py'"),
        (f"langchain:{tmp_path / 'raises.py'}:y", r"raises.py:2: ZeroDivisionError"),
    ):
        with pytest.raises(DataError, match=says):
            make_tool(name)
    with pytest.raises(UsageError, match="must be"):
        make_tool("langchain:nothing")


def test_both_langchain_and_mcp_forms_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from testbed.listing import print_list

    print_list("tools", "", [])
    assert {"mcp:NAME", "langchain:MODULE:ATTRIBUTE"} <= set(capsys.readouterr().out.split())
    assert "mcp:NAME" not in registry.tool_names()
