"""Attention over pages on the processor, compiled when it is first needed.

Every query goes over the pages of its text in order, one page of keys and values of one head at a time, and keeps a
running softmax. So the order in which a row's numbers are added depends on its own text alone: not on who else is in
the batch, nor on which of its pages others share. Queries that share pages go over each of them together, while it is
in the nearest cache.

Keys lie crosswise, so that a page's scores are one vector; PyTorch has no such product, and reading rows of
different lengths by its products means padding, copies and a dozen passes over memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from llvmlite import ir

from testbed.models.hf_kernel_code import (
    F32,
    FLOAT_AT,
    FLOATS,
    I32,
    I64,
    INDEX_AT,
    INT_AT,
    INTS,
    LANES,
    Code,
    Function,
    Value,
    function_of,
    many,
    whole,
)

PAGE = LANES  # tokens: their scores are one vector

_LOWEST = -1e30  # what no score is below
_ARGUMENTS = {  # in order; see `compiled`
    **dict.fromkeys(("query", "key", "value", "out", "state", "cells"), FLOAT_AT),
    **{"table": INT_AT, "lines": INT_AT, "places": INDEX_AT, "starts": INT_AT, "items": INT_AT},
    **dict.fromkeys(("tokens", "count", "columns", "stride", "heads", "keyed", "first", "last"), I64),
    "scale": F32,
}
_ITEM = 5  # numbers of an item


def wide(width: int) -> int:
    """Numbers of a head as they lie in pages: vectors are whole."""
    return -(-width // PAGE) * PAGE


def _write(c: Code, a: dict[str, Value], chunk: Value) -> None:
    """Puts new keys and values into the pages of their texts: keys crosswise, values as they are."""
    with c.each(whole(0), a["tokens"]) as token:
        place = c.at(a["places"], token)
        row = c.mul(c.index(a["lines"], token), a["columns"])
        page = c.mul(c.index(a["table"], c.add(row, c.sdiv(place, whole(PAGE)))), a["stride"])
        column = c.srem(place, whole(PAGE))
        with c.each(a["first"], a["last"]) as head:
            into = c.add(page, c.mul(head, chunk))
            source = c.add(c.mul(token, a["keyed"]), head)
            with c.each(whole(0), a["key_width"]) as i:
                number = c.at(a["key"], c.add(c.mul(source, a["key_width"]), i))
                c.put(number, a["cells"], c.sum(into, c.mul(i, whole(PAGE)), column))
            behind = c.sum(into, c.mul(a["key_wide"], whole(PAGE)), c.mul(column, a["value_wide"]))
            with c.each(whole(0), a["value_width"]) as i:
                number = c.at(a["value"], c.add(c.mul(source, a["value_width"]), i))
                c.put(number, a["cells"], c.add(behind, i))


def _over_page(c: Code, a: dict[str, Value], query: Value, page: Value, seen: Value, sums: Sequence[Value]) -> None:
    """One query of one head over one page, of which it sees so many tokens: the running softmax goes on."""
    start = c.mul(query, a["key_wide"])
    for part in sums:
        c.store(many(0.0), part)
    with c.each(whole(0), a["key_wide"], len(sums)) as i:
        for n, part in enumerate(sums):
            at = c.add(i, whole(n))
            keys = c.vector(a["cells"], c.add(page, c.mul(at, whole(PAGE))))
            c.store(c.times_plus(c.spread(c.at(a["query"], c.add(start, at))), keys, c.load(part)), part)
    parts = [c.load(part) for part in sums]
    scores = c.fmul(c.fadd(c.fadd(*parts[:2]), c.fadd(*parts[2:])), c.spread(a["scale"]))
    lanes = ir.Constant(INTS, list(range(PAGE)))
    sees = c.icmp_signed("<", lanes, c.spread(c.trunc(seen, I32)))
    scores = c.select(sees, scores, many(_LOWEST))
    state = c.mul(query, whole(2))  # the largest score so far, and the mass below it
    mass = c.add(state, whole(1))
    old = c.spread(c.at(a["state"], state))
    most = c.larger(c.fold(scores, c.larger), old)
    fade = c.exp(c.fsub(old, most))
    weights = c.select(sees, c.exp(c.fsub(scores, most)), many(0.0))
    c.put(c.extract_element(most, I32(0)), a["state"], state)
    total = c.times_plus(c.spread(c.at(a["state"], mass)), fade, c.fold(weights, c.fadd))
    c.put(c.extract_element(total, I32(0)), a["state"], mass)
    each = [c.lanes(weights, [n] * PAGE) for n in range(PAGE)]
    values = c.add(page, c.mul(a["key_wide"], whole(PAGE)))
    with c.each(whole(0), a["value_wide"], PAGE) as i:
        into = c.add(c.mul(query, a["value_wide"]), i)
        halves = [c.fmul(c.vector(a["out"], into), fade), many(0.0)]
        for n, weight in enumerate(each):
            at = c.sum(values, c.mul(a["value_wide"], whole(n)), i)
            halves[n % 2] = c.times_plus(weight, c.vector(a["cells"], at), halves[n % 2])
        c.put_vector(c.fadd(*halves), a["out"], into)


def _attend(c: Code, a: dict[str, Value], chunk: Value) -> None:
    """Every item's queries over its pages, and then each query over those of its own."""
    sums = [c.alloca(FLOATS) for _ in range(4)]
    bounds = [c.alloca(I64) for _ in range(_ITEM)]
    each = c.sdiv(a["heads"], a["keyed"])  # queries' heads that have a key head in common
    with c.each(whole(0), c.add(a["count"], a["tokens"])) as item:
        with c.if_else(c.icmp_signed("<", item, a["count"])) as (together, alone):
            with together:
                for n, bound in enumerate(bounds):
                    c.store(c.index(a["items"], c.add(c.mul(item, whole(_ITEM)), whole(n))), bound)
            with alone:
                token = c.sub(item, a["count"])
                stop = c.add(c.sdiv(c.at(a["places"], token), whole(PAGE)), whole(1))
                own = token, c.add(token, whole(1)), c.index(a["lines"], token), c.index(a["starts"], token), stop
                for number, bound in zip(own, bounds, strict=True):
                    c.store(number, bound)
        begin, end, line, page, stop = map(c.load, bounds)
        with c.each(page, stop) as number:
            base = c.mul(c.index(a["table"], c.add(c.mul(line, a["columns"]), number)), a["stride"])
            with c.each(a["first"], a["last"]) as keyed:
                at, head = c.add(base, c.mul(keyed, chunk)), c.mul(keyed, each)
                with c.each(head, c.add(head, each)) as head, c.each(begin, end) as token:
                    seen = c.sum(c.at(a["places"], token), whole(1), c.mul(number, whole(-PAGE)))
                    with c.if_then(c.icmp_signed(">", seen, whole(0))):
                        _over_page(c, a, c.add(c.mul(token, a["heads"]), head), at, seen, sums)


def _whole(c: Code, a: dict[str, Value]) -> None:
    """The function's body."""
    chunk = c.mul(c.add(a["key_wide"], a["value_wide"]), whole(PAGE))  # one head's part of a page
    _write(c, a, chunk)
    each = c.sdiv(a["heads"], a["keyed"])
    heads = c.mul(a["first"], each), c.mul(a["last"], each)

    @contextmanager
    def queries() -> Iterator[Value]:
        with c.each(whole(0), a["tokens"]) as token, c.each(*heads) as head:
            yield c.add(c.mul(token, a["heads"]), head)

    with queries() as query:
        c.put(ir.Constant(F32, _LOWEST), a["state"], c.mul(query, whole(2)))
        c.put(ir.Constant(F32, 0.0), a["state"], c.add(c.mul(query, whole(2)), whole(1)))
        with c.each(whole(0), a["value_wide"], PAGE) as i:
            c.put_vector(many(0.0), a["out"], c.add(c.mul(query, a["value_wide"]), i))
    _attend(c, a, chunk)
    with queries() as query:
        mass = c.at(a["state"], c.add(c.mul(query, whole(2)), whole(1)))
        share = c.spread(c.fdiv(ir.Constant(F32, 1.0), mass))
        with c.each(whole(0), a["value_wide"], PAGE) as i:
            at = c.add(c.mul(query, a["value_wide"]), i)
            c.put_vector(c.fmul(c.vector(a["out"], at), share), a["out"], at)


@cache
def compiled(key_width: int, value_width: int) -> Function:
    """The function for keys and values of so many numbers a head.

    It takes the addresses of

    - query: float32, (tokens, heads, `wide(key_width)`); key and value: (tokens, key heads, width)
    - out: float32, (tokens, heads, `wide(value_width)`); state: (tokens, heads, 2), scratch
    - cells: float32, the layer's part of the first page: of each key head, keys crosswise and then values
    - table: int32, (lines, columns), the pages of a text in each line; lines: int32, (tokens), whose token
    - places: int64, (tokens), which token; starts: int32, (tokens), the first page that it goes over on its own, up to
      its place
    - items: int32, (count, 5), pages that tokens go over together before that: first token, last + 1, the line of the
      table, first page, last + 1

    and numbers: tokens, items, columns, floats of a page, heads, key heads, the key heads to be done (first, last + 1),
    and the scale of the scores.
    """
    widths = {"key": key_width, "value": value_width}

    def body(c: Code, a: dict[str, Value]) -> None:
        known = {f"{name}_width": whole(width) for name, width in widths.items()}
        _whole(c, a | known | {f"{name}_wide": whole(wide(width)) for name, width in widths.items()})

    return function_of("attend", _ARGUMENTS, body)
