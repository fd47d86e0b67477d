"""What differs between two arms, topic by topic: the honest head of any comparison of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.store.records import differences

# Topics and the parts of an arm's identity that they hold. What belongs to none of them stands under "else".
TOPICS: Mapping[str, tuple[str, ...]] = {
    "model": ("model",),
    "decoding": ("sampling",),
    "tools": ("tools",),
    "control": ("control", "yoke", "replay"),
    "lookahead": ("lookahead",),
    "budget": ("budget",),
    "protocol": ("protocol",),
}
_LABELS = ("name", "schemas", "stateful", "replays", "tokenization")  # for people: no part of an arm's identity
_LONGEST = 72  # characters of a value


@dataclass(frozen=True)
class Difference:
    """Something that two arms do not share.

    Attributes:
        topic: model, decoding, tools, control, lookahead, budget, protocol, seed, attempts or else.
        lines: what differs in it, such as "turns 8 → 16".
    """

    topic: str
    lines: tuple[str, ...]


def spec_differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[Difference, ...]:
    """What differs between two arms as the store keeps them (`ArmRecord.spec`), by topic.

    Every part of an arm's identity is looked at, so that two arms without a difference have one hash.
    """
    left, right = _plain(left), _plain(right)
    found = []
    for topic, keys in TOPICS.items():
        lines = [line for key in keys for line in _told(key, left.get(key), right.get(key))]
        if topic == "model":
            lines = [told for line in lines for told in _tokenizer(line, left, right)]
        if topic == "model" and left.get("name") != right.get("name"):
            lines.insert(0, f"{left.get('name', 'not known')} → {right.get('name', 'not known')}")
        if lines:
            found.append(Difference(topic, tuple(lines)))
    known = {key for keys in TOPICS.values() for key in keys}
    others = [key for key in {**left, **right} if key not in known and key not in _LABELS]
    lines = [line for key in others for line in _told(key, left.get(key), right.get(key))]
    return (*found, Difference("else", tuple(lines))) if lines else tuple(found)


def same_topics(found: tuple[Difference, ...]) -> tuple[str, ...]:
    """Topics in which two arms do not differ."""
    differing = {difference.topic for difference in found}
    return tuple(topic for topic in TOPICS if topic not in differing)


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it: tuples are lists, so that they compare as equal."""
    return dict(json.loads(json.dumps(spec)))


def _told(key: str, left: Any, right: Any) -> Iterator[str]:
    if left == right:
        return
    if key == "tools":
        yield from list(_tools(left, right)) or _written(left, right)
    elif key in ("yoke", "replay"):
        yield f"{key} {_arrow(left, right)}"
    elif isinstance(left, Mapping) and isinstance(right, Mapping):
        yield from differences("", left, right)
    else:
        yield f"{'' if key in ('control', 'protocol') else key + ' '}{_arrow(left, right)}"


def _tokenizer(line: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two tokenizers whose files do, as far as both arms say what these come to."""
    ours, theirs = left.get("tokenization"), right.get("tokenization")
    if not line.startswith("tokenizer "):
        yield line
    elif not (ours and theirs):
        yield line.replace("tokenizer ", "tokenizer's files ", 1)
    elif ours == theirs:
        yield "tokenizer's files, which make the same tokens and prompts"
    else:
        if ours["tokens"] != theirs["tokens"]:
            yield line
        if ours["template"] != theirs["template"]:
            yield f"chat template {_arrow(ours['template'], theirs['template'])}"


def _written(left: Any, right: Any) -> Iterator[str]:
    """Tools as they are written, where their names do not tell them apart, but not if only their controls differ."""
    if [_bared(tool) for tool in _listed(left)] != [_bared(tool) for tool in _listed(right)]:
        yield _arrow(left, right)


def _listed(tools: Any) -> Sequence[Any]:
    return tools if isinstance(tools, list) else [] if tools is None else [tools]


def _tools(left: Any, right: Any) -> Iterator[str]:
    left, right = _listed(left), _listed(right)
    ours, theirs = ({_name(tool): tool for tool in tools} for tools in (left, right))
    if list(ours) != list(theirs):
        yield f"{', '.join(ours) or 'none'} → {', '.join(theirs) or 'none'}"
    for name in ours:
        if name in theirs:
            yield from (f"{name}: {line}" for line in differences("", _bared(ours[name]), _bared(theirs[name])))


def _name(tool: Any) -> str:
    """A tool's name from its identity: a schema, or the plain name in imported specs."""
    if not isinstance(tool, Mapping):
        return str(tool)
    schema = tool.get("schema")
    function = schema.get("function") if isinstance(schema, Mapping) else None
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _bared(tool: Any) -> Any:
    """A tool's identity without the control that it is under, which has its own topic; its function at the top."""
    if not isinstance(tool, Mapping):
        return tool
    schema, content = tool.get("schema"), tool.get("content")
    if isinstance(content, Mapping) and content.keys() == {"control", "of"}:
        content = content["of"]
    return {
        **tool,
        "schema": schema.get("function", schema) if isinstance(schema, Mapping) else schema,
        "content": content,
    }


def _arrow(left: Any, right: Any) -> str:
    """Two values, of long ones the part where they begin to differ."""
    ours, theirs = _as_text(left), _as_text(right)
    pairs = enumerate(zip(ours, theirs, strict=False))
    alike = next((n for n, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
    start = max(0, alike - _LONGEST // 2) if alike >= _LONGEST - 1 else 0
    return f"{_brief(ours, start)} → {_brief(theirs, start)}"


def _as_text(value: Any) -> str:
    if value in (None, "", [], {}):
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _brief(text: str, start: int) -> str:
    text = f"…{text[start:]}" if start else text
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
