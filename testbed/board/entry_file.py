"""The experiment file that an entry of a board begins with: what all entries share, and room for a model and arms.

It runs as it is, with the reference model, and what it makes fits the board.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from testbed import registry
from testbed.board.board_file import ANY, arms_of
from testbed.board.boards import Board
from testbed.board.refusals import NotFound
from testbed.board.views import shown_text

_STAND_IN = "calculator"  # where a board allows any tool: one that works without a sandbox
_SHARED = ("budget", "measure", "env")


def entry_file(board: Board, address: str) -> str:
    """The text of an experiment file (TOML) for a board's entries.

    Args:
        board: whose tasks are public.
        address: of the server, without a slash at the end.

    Raises:
        NotFound: the board's tasks are private: nobody can run them elsewhere.
    """
    if board.private:
        raise NotFound(f"board {board.slug!r} has private tasks: attempts at them are made against this server.")
    return "\n".join([*_head(board, address), *_what_is_shared(board), *_arms(board), ""])


def _head(board: Board, address: str) -> Iterator[str]:
    name = f"{board.slug}-entry"
    yield f"# An entry of the board {shown_text(board.title)}: {shown_text(address)}/boards/{board.slug}"
    yield "# Fill in [model] and [[arm]]. Everything else is the board's, and an entry that changes it is rejected."
    yield "#"
    yield "#   testbed run FILE --store mine.sqlite"
    yield f"#   testbed board submit {name} --store mine.sqlite --board {shown_text(address)}/boards/{board.slug}"
    yield ""
    yield f"name = {_value(name)}  # of the run, as `testbed board submit` is told it"
    yield f"seed = {board.seed}"
    yield ""
    yield "[model]  # the same for all arms: hf:NAME_OR_PATH, chat:PROVIDER:MODEL, … (`testbed list models`)"
    yield 'id = "reference"'


def _what_is_shared(board: Board) -> Iterator[str]:
    spec = board.spec
    for key in _SHARED:
        for table in spec.get(key, []) if key == "env" else filter(None, [spec.get(key)]):
            yield ""
            yield f"[[{key}]]" if key == "env" else f"[{key}]"
            yield from (f"{_key(name)} = {_value(value)}" for name, value in table.items())
            if key == "env" and not registry.env_class(str(table["id"])).__module__.startswith("testbed.envs"):
                yield "# It is of a plug-in that the board's makers have: testbed run FILE --plugin ITS_FILE.py"


def _arms(board: Board) -> Iterator[str]:
    bare, *helped = arms_of(board.spec)
    stands_in = not helped
    helped = helped or [{"name": _STAND_IN, "tools": [_STAND_IN]}]
    rules = board.rules
    yield ""
    yield "# The others are compared with this one, which has no tools."
    yield from _arm(bare["name"], (), board.samples["bare"])
    yield ""
    allowed = "any tool" if ANY in rules.tools else ", ".join(map(shown_text, rules.tools))
    yield f"# At least one arm with tools, and one more [[arm]] for each further set of them. Allowed: {allowed}."
    if stands_in:
        yield "# `testbed list tools` names what there is; this one stands for those that you try."
    for tool, corpus in rules.corpora.items():
        yield f"# {shown_text(tool)} has to work over the corpus of hash {corpus}, as `testbed corpus info` prints it."
    for arm in helped:
        yield from _arm(arm["name"], arm["tools"], board.samples["tools"])


def _arm(name: str, tools: Any, samples: int) -> Iterator[str]:
    yield "[[arm]]"
    yield f"name = {_value(name)}"
    if tools:
        yield f"tools = {_value(list(tools))}"
    yield f"samples = {samples}"


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else _text(name)


def _value(value: Any) -> str:
    """A value of a board's file, as TOML writes it; within a table, tables stand in one line."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(name)} = {_value(one)}' for name, one in value.items())} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
