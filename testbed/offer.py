"""One tool as an arm offers it: its schema, its check of arguments, its time limit, its way of being called."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ValidationError

from testbed.errors import LONGEST_NAME, FaultKind, ToolFault, UsageError, did_you_mean
from testbed.schemas import ArgumentSchema
from testbed.tool_base import Tool
from testbed.types import digest

FOREIGN_TIMEOUT = 10.0  # seconds a call of a plain `BaseTool` may take


class Offer:
    """One tool with its compiled validator and its way of being called.

    Args:
        tool: any langchain tool.

    Attributes:
        tool: the tool.
        schema: what models are told of it, as an OpenAI function.
        awaits: whether it runs on the event loop; otherwise in a thread.
        timeout: seconds a call may take; None is no limit.

    Raises:
        UsageError: it cannot be offered as it is.
    """

    def __init__(self, tool: BaseTool) -> None:
        self.tool = tool
        looks = tool.looks() if isinstance(tool, Tool) else tool
        own = looks.get_input_schema() if isinstance(looks, Tool) and looks.args_schema is None else looks.args_schema
        self._json = _arguments(tool.name, own) if isinstance(own, dict) else None
        self.schema: dict[str, Any] = _function(looks)
        parameters = self.schema["function"].setdefault("parameters", {"type": "object", "properties": {}})
        self._model = own if isinstance(own, type) and issubclass(own, BaseModel) else None
        if self._json:  # somebody's JSON schema allows what it does not forbid
            self.properties, self.open = self._json.names, not self._json.closed
        else:
            self.properties = frozenset(parameters.get("properties", {}))
            self.open = parameters.get("additionalProperties", False) is not False or "patternProperties" in parameters
            self.open = self.open or bool(self._model and self._model.model_config.get("extra") == "allow")
            self._json = None if self._model else _arguments(tool.name, parameters)
        self._refuse_injected()
        # What langchain makes of a plain function runs it in the standard executor; see `DaemonThreads` for why not.
        plain = getattr(tool, "coroutine", self) is None
        self.awaits = type(tool)._arun is not BaseTool._arun and not plain
        if not self.awaits and type(tool)._run is Tool._run:  # else each call would be scored as the model's fault
            raise UsageError(f"tool {tool.name} does nothing: its class must implement _run or _arun.")
        seconds = looks.timeout if isinstance(looks, Tool) else FOREIGN_TIMEOUT
        if not seconds > 0:
            raise UsageError(f"tool {tool.name}: timeout must be above 0 seconds, not {seconds!r}.")
        self.timeout = None if math.isinf(seconds) else seconds

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the tool takes them.

        Raises:
            ToolFault: invalid_args, saying which and why.
        """
        for name in arguments:
            if name not in self.properties and not self.open:
                near = did_you_mean(name, self.properties)
                raise ToolFault(
                    FaultKind.INVALID_ARGS, f"{self.tool.name} has no argument {name[:LONGEST_NAME]!r}.{near}"
                )
        try:
            return self._parse(arguments) if self._model else self._check(arguments)
        except RecursionError:
            raise ToolFault(FaultKind.INVALID_ARGS, "arguments: nested too deeply") from None

    def _parse(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        assert self._model is not None
        try:
            # langchain advertises fields by their names, whatever their aliases.
            model = self._model.model_validate(arguments, by_name=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise ToolFault(FaultKind.INVALID_ARGS, f"{_path(first['loc'])}: {first['msg']}") from None
        return {name: getattr(model, name) for name in self._model.model_fields} | (model.model_extra or {})

    def _check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        assert self._json is not None
        wrong = self._json.first_error(arguments)
        if wrong is None:
            return dict(arguments)
        message = f"{_path(wrong.absolute_path)}: {wrong.message[:200]}"
        unknown = next((name for name in arguments if name not in self.properties), None)
        if unknown is not None and self.properties:  # which is no fault in itself here, but may be the reason
            near = did_you_mean(unknown, self.properties - set(arguments))
            message += f". It describes no argument {unknown[:LONGEST_NAME]!r}.{near}"
        raise ToolFault(FaultKind.INVALID_ARGS, message)

    def _refuse_injected(self) -> None:
        fields = self._model.model_fields if self._model else {}
        hidden = [
            n for n, f in fields.items() if f.is_required() and not {n, f.alias, f.validation_alias} & self.properties
        ]
        if hidden:
            raise UsageError(
                f"tool {self.tool.name}: only an agent framework can fill in {', '.join(hidden)}; give defaults."
            )

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the tool in an arm's hash; a foreign one is known by its source."""
        shared = {"schema": self.schema, "timeout": self.timeout}
        if isinstance(self.tool, Tool):
            return {**shared, "version": self.tool.version, "content": self.tool.fingerprint()}
        made_with = (self.tool.metadata or {}).get("made_with")  # options of a foreign tool that was made by name
        return {**shared, "source": _source(self.tool), **({"made_with": made_with} if made_with else {})}


def _arguments(name: str, schema: dict[str, Any]) -> ArgumentSchema:
    try:
        return ArgumentSchema(schema)
    except UsageError as error:
        raise UsageError(f"tool {name}: args_schema {error}.") from None


def _function(tool: BaseTool) -> dict[str, Any]:
    """The tool as an OpenAI function."""
    try:
        return convert_to_openai_tool(tool)
    except (LookupError, TypeError, ValueError):  # langchain knows neither anchors nor a property named "$ref"
        if not isinstance(tool.args_schema, dict):
            raise
        function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.args_schema)}
        return {"type": "function", "function": function}


def _path(steps: Iterable[Any]) -> str:
    return ".".join(str(step)[:LONGEST_NAME] for step in steps) or "arguments"


def _source(tool: BaseTool) -> str:
    """Hash of the source of a foreign tool, so that a changed tool is another arm; "" where there is none."""
    function = getattr(tool, "coroutine", None) or getattr(tool, "func", None) or type(tool)
    try:
        return digest(inspect.getsource(function))
    except (OSError, TypeError):
        return ""
