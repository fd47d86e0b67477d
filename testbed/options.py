"""Options of environments and tools: which a class takes, of which type, and making it with them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_type_hints

from testbed.errors import UnknownName, UsageError


def check_options(cls: Any, options: Mapping[str, Any], kind: str) -> None:
    """Refuses options that a class does not take, or not with such a value.

    Raises:
        UnknownName: names the option and the nearest one.
        UsageError: names the option and its type.
    """
    known = option_names(cls)
    for key in options:
        if key not in known:
            raise UnknownName(kind, key, known)
    if options and hasattr(cls, "make_tasks"):
        check_types(cls.__init__, options, kind)


def option_names(cls: Any) -> tuple[str, ...]:
    """The options of an environment's or tool's constructor; a finished tool has none."""
    if inspect.isroutine(cls):  # a function that makes tools
        return tuple(inspect.signature(cls).parameters)
    if not inspect.isclass(cls):
        return ()
    explicit = [p.name for p in inspect.signature(cls.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD]
    fields = [n for n in getattr(cls, "model_fields", ()) if n not in _framework_fields()] if len(explicit) <= 2 else []
    common = ["budget", "count", "render_mode"] if hasattr(cls, "make_tasks") else []
    return tuple(dict.fromkeys(n for n in (*explicit, *fields, *common) if n not in ("self", "args", "tools")))


def required_options(cls: Any) -> tuple[str, ...]:
    """The options that a tool cannot be made without."""
    fields = getattr(cls, "model_fields", {}) if inspect.isclass(cls) else {}
    return tuple(name for name in option_names(cls) if name in fields and fields[name].is_required())


@cache
def _framework_fields() -> frozenset[str]:
    """What every tool has and no experiment sets; its description may be set."""
    from langchain_core.tools import BaseTool

    return frozenset(BaseTool.model_fields) - {"description"} | {"version"}


def construct(cls: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Any:
    """`cls(**options)`; a value that the constructor refuses is the caller's mistake.

    Raises:
        UsageError: says which and why.
    """
    from pydantic import ValidationError

    try:
        return cls(**options)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise UsageError(f"{name} cannot be made with these options: {'; '.join(wrong)}.") from error
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{k} = {v!r:.40}" for k, v in options.items() if k != "tools")
        raise UsageError(f"{name} cannot be made with {given or 'no options'}: {error}.") from error


def check_types(function: Callable[..., Any], options: Mapping[str, Any], kind: str) -> None:
    """Holds JSON values to a function's annotations, as strictly as JSON can tell types apart.

    Values that are no JSON, and annotations that JSON has no form of, are left to the function itself.

    Raises:
        UsageError: names the option, its type and the value.
    """
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        hints = get_type_hints(function)
    except NameError:  # an annotation that is imported for type checkers only
        return
    for key in options.keys() & hints.keys():
        try:
            value, adapter = json.dumps(options[key]), TypeAdapter(hints[key])
        except (TypeError, ValueError, PydanticUserError):
            continue
        try:
            adapter.validate_json(value, strict=True)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise UsageError(f"{kind}: {key} = {options[key]!r:.80} does not fit: {reason}.") from None
