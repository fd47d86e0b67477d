"""What a model was told before a task's prompt: its system text, and the tools that it was offered.

No transcript holds them, since all attempts of an arm share them: they are told here from what the arm is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from testbed import protocol

_WAYS = {"template": "by the model's chat template", "native": "in the provider's own form"}


def told_first(spec: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The system text and the tools of an arm as terms with their texts, as far as they are known.

    Args:
        spec: what the arm is (`ArmRecord.spec`).
    """
    model = spec.get("model")
    if not isinstance(model, Mapping):  # an imported arm
        return ()
    return tuple(_told(model, _schemas(spec)))


def _told(model: Mapping[str, Any], schemas: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    rendering = model.get("rendering", {})
    way = "native" if model.get("native") else rendering.get("tools", "")
    described = [] if way in _WAYS else schemas
    if model.get("kind") in ("hf", "chat"):
        own = protocol.ANSWER_INSTRUCTION if model.get("system") is None else str(model["system"])
        system = protocol.instructions(described).removesuffix(protocol.ANSWER_INSTRUCTION) + own if described else own
        opens = "(at the beginning of the first message)\n" if system and rendering.get("system") == "user" else ""
        yield "system", f"{opens}{system}" or "none"
        if described:
            yield "tools", f"{_names(schemas)}: described in the system text"
            return
    lines = "\n".join(json.dumps(schema["function"], ensure_ascii=False) for schema in schemas)
    told = f", told {_WAYS[way]}" if way in _WAYS else ""
    yield "tools", f"{_names(schemas)}{told}:\n{lines}" if schemas else "none"


def _schemas(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the arm's tools, in the order in which the model was shown them, where that was kept."""
    if "schemas" in spec:
        kept: list[dict[str, Any]] = json.loads(spec["schemas"])
        return kept
    recorded = [tool.get("schema", {}) for tool in spec.get("tools") or () if isinstance(tool, Mapping)]
    return [schema for schema in recorded if "function" in schema]


def _names(schemas: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(schema["function"]["name"]) for schema in schemas)
