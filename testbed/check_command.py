"""`testbed check`: does an environment or a tool keep the contract?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from testbed.contract import Finding


def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Environments and tools; by default all that the plug-ins define.")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="Python file that defines some; may be given several times.")
    ] = None,
    options: Annotated[str, typer.Option(help='Options as JSON, such as \'{"path": "mine.jsonl"}\'.')] = "{}",
    call: Annotated[
        str, typer.Option(help="Arguments of a call that a tool answers, as JSON; by default its schema's examples.")
    ] = "",
    env: Annotated[str, typer.Option(help="Environment that makes a game, for tools that act on one.")] = "",
) -> None:
    """Check environments and tools against the contract, property by property. Exit code 1 if one does not hold."""
    from testbed import registry
    from testbed.errors import UsageError

    loaded = [name for path in plugin or () for name in registry.load_plugin(path)]
    if not names and not loaded:
        raise UsageError("nothing to check: give a name, such as Addition-v0, or a file with --plugin.")
    broken = 0
    for name in names or loaded:
        print(name)
        for finding in _findings(name, _table("options", options), _table("call", call) if call else None, env):
            broken += bool(finding.problem)
            print(f"  FAILS {finding.what}: {finding.problem}" if finding.problem else f"  holds {finding.what}")
    if broken:
        raise typer.Exit(1)


def _findings(name: str, options: dict[str, Any], call: dict[str, Any] | None, env: str) -> Iterator[Finding]:
    from testbed.contract import found
    from testbed.errors import TestbedError

    try:
        looks = _looks(name, options, call, env)
    except TestbedError:  # wrong options are the caller's, and no finding
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  somebody else's code: what it raises is what was found
        yield found("it can be made", error)
        return
    yield from looks


def _looks(name: str, options: dict[str, Any], call: dict[str, Any] | None, env: str) -> Iterator[Finding]:
    """The findings to come, of something that could be made once."""
    from testbed import registry
    from testbed.builtin import ENV_ID
    from testbed.contract import check_environment
    from testbed.contract_tools import Subject, check_tool

    if ENV_ID.fullmatch(name.removeprefix(registry.NAMESPACE)):
        registry.make_env(name, **options).close()
        return check_environment(lambda **common: registry.make_env(name, **options, **common))
    game = registry.make_env(env) if env else None
    return check_tool(Subject(lambda: registry.make_tool(name, **options), call, game))


def _table(option: str, text: str) -> dict[str, Any]:
    """The JSON object that an option is.

    Raises:
        UsageError: it is none.
    """
    from testbed.errors import UsageError

    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--{option} {text!r:.80} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UsageError(f'--{option} must be a JSON object, such as {{"text": "hi"}}, not {text!r:.80}.')
    return value
