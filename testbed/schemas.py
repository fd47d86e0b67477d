"""JSON schemas that somebody else wrote: held to their own draft, in bounded time, and without looking anything up."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any

import regex
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY
from referencing import Registry, Resource, Specification
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from testbed.errors import UsageError

SEARCH, CHECK = 0.05, 0.5  # seconds for one regular expression, and for all those of one check
LONGEST_PATTERN, LONGEST_TEXT = 5_000, 200_000  # characters of what is searched for, and in

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_IN_PLACE = ("allOf", "anyOf", "oneOf", "if", "then", "else")


class ArgumentSchema:
    """The schema of a tool's arguments.

    Regular expressions that take too long are left to the tool: nobody's arguments are refused for them.

    Args:
        schema: by the draft that its `$schema` names, else draft 2020-12.

    Attributes:
        names: arguments that it mentions, also in alternatives.
        closed: whether it allows no others, and says so in one place.

    Raises:
        UsageError: it is no JSON schema, or refers to what it does not hold; says why, as the end of a sentence.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        dialect = schema.get("$schema", "")
        if not isinstance(dialect, str):
            raise UsageError(f"is not a JSON schema: $schema = {dialect!r:.80}")
        kind = validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(schema, format_checker=FormatChecker(()))
            self._read(kind, copy.deepcopy(dict(schema)))
        except SchemaError as error:
            raise UsageError(f"is not a JSON schema: {error.message[:200]}") from None
        except RecursionError:
            raise UsageError("is not a JSON schema: nested too deeply") from None

    def first_error(self, arguments: Mapping[str, Any]) -> ValidationError | None:
        """What is wrong with arguments; None if nothing is."""
        self._patterns.begin()
        return best_match(self._validator.iter_errors(dict(arguments)))

    def _read(self, kind: Any, schema: dict[str, Any]) -> None:
        own = set(_inside(schema))
        specification = specification_with(schema.get("$schema", ""), default=DRAFT202012)
        parts = list(_parts(schema, specification))
        self._patterns = _Patterns()
        for part, _ in parts:
            for pattern in [part.get("pattern"), *part.get("patternProperties", ())]:
                self._patterns.add(pattern)
            if id(part) in own:
                part.pop("$schema", None)  # by which jsonschema would choose a class of its own again
        keywords = _keywords(self._patterns, kind.VALIDATORS)
        if any("patternProperties" in part for part, _ in parts):
            keywords["unevaluatedProperties"] = _left_to_the_tool  # it would search by itself
        self._validator = extend(kind, keywords)(schema, registry=Registry())
        self.names = frozenset(_names(parts[0], set()))
        self.closed = schema.get("additionalProperties") is False and not {
            "patternProperties",
            *_REFERENCES,
            *_IN_PLACE,
        } & set(schema)


class _Patterns:
    """Regular expressions, searched for in bounded time."""

    def __init__(self) -> None:
        self._compiled: dict[str, regex.Pattern[str]] = {}
        self._until = 0.0

    def add(self, pattern: Any) -> None:
        if not isinstance(pattern, str) or len(pattern) > LONGEST_PATTERN:
            return
        try:
            self._compiled[pattern] = regex.compile(pattern)
        except regex.error as error:
            raise UsageError(f"has {pattern[:80]!r}, which is no regular expression: {error}") from None

    def begin(self) -> None:
        self._until = time.monotonic() + CHECK

    def found(self, pattern: str, text: str) -> bool | None:
        """Whether the text has the pattern; None if that takes too long to say."""
        left = self._until - time.monotonic()
        if pattern not in self._compiled or len(text) > LONGEST_TEXT or left <= 0:
            return None
        try:
            return self._compiled[pattern].search(text, timeout=min(SEARCH, left)) is not None
        except TimeoutError:
            return None


def _keywords(patterns: _Patterns, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that search for regular expressions, searching in bounded time."""

    def pattern(validator: Any, wanted: str, value: Any, schema: Any) -> Iterator[ValidationError]:
        if validator.is_type(value, "string") and patterns.found(wanted, value) is False:
            yield ValidationError(f"{value!r:.100} does not match {wanted!r:.90}")

    def by_pattern(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        for name in value if validator.is_type(value, "object") else ():
            for part in (part for part in wanted if patterns.found(part, name)):
                yield from validator.descend(value[name], wanted[part], path=name, schema_path=part)

    def additional(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        named = schema.get("patternProperties")
        if not named or not validator.is_type(value, "object"):
            yield from usual["additionalProperties"](validator, wanted, value, schema) or ()
            return
        known = schema.get("properties", {})
        for name in value:
            if name not in known and all(patterns.found(part, name) is False for part in named):
                if wanted is False:
                    yield ValidationError(f"{name!r:.100} is not among the arguments")
                else:
                    yield from validator.descend(value[name], wanted, path=name)

    ours = {"pattern": pattern, "patternProperties": by_pattern, "additionalProperties": additional}
    return {name: keyword for name, keyword in ours.items() if name in usual}


def _left_to_the_tool(*_: Any) -> Iterator[ValidationError]:
    return iter(())


Part = tuple[dict[str, Any], Any]  # a schema, and what finds the targets of its references


def _inside(value: Any) -> Iterator[int]:
    """Identities of all tables in a JSON value."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            yield id(each)
            todo += each.values()
        elif isinstance(each, list):
            todo += each


def _parts(schema: dict[str, Any], specification: Specification[Any]) -> Iterator[Part]:
    """Every schema inside, the whole first, and those that it refers to.

    Raises:
        UsageError: a reference leads nowhere, elsewhere, or in a circle.
    """
    root = specification.create_resource(schema)
    todo: list[tuple[Resource[Any], Any]] = [(root, REGISTRY.resolver_with_root(root))]
    seen: set[int] = set()
    while todo:
        resource, resolver = todo.pop()
        if id(resource.contents) in seen or not isinstance(resource.contents, dict):
            continue
        seen.add(id(resource.contents))
        yield resource.contents, resolver
        todo += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]
        for part, at in _targets((resource.contents, resolver)):
            todo.append((specification.create_resource(part), at))


def _targets(part: Part) -> Iterator[Part]:
    """What a schema refers to, and what that refers to instead of saying anything itself."""
    chain = {id(part[0])}
    for keyword in _REFERENCES:
        at = part
        while isinstance(reference := at[0].get(keyword), str):
            try:
                found = at[1].lookup(reference)
            except (Unresolvable, LookupError, TypeError, ValueError):
                raise UsageError(f"refers to {reference[:200]!r}, which it does not hold") from None
            if not isinstance(found.contents, dict):
                break
            at = found.contents, found.resolver
            yield at
            if id(at[0]) in chain and keyword == "$ref":
                raise UsageError(f"refers to {reference[:200]!r} in a circle")
            if id(at[0]) in chain:
                break
            chain.add(id(at[0]))


def _names(part: Part, seen: set[int]) -> Iterator[str]:
    contents, resolver = part
    if id(contents) in seen:
        return
    seen.add(id(contents))
    yield from contents.get("properties", ())
    for keyword in _IN_PLACE:
        inner = contents.get(keyword, ())
        for each in inner if isinstance(inner, list) else [inner]:
            if isinstance(each, dict):
                yield from _names((each, resolver), seen)
    for target in _targets(part):
        yield from _names(target, seen)
