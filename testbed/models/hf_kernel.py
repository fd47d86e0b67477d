"""Attention over pages on the processor, compiled when it is first needed.

Every query goes over the pages of its text in order, one page of keys and values of one head at a time, and keeps a
running softmax. So the order in which a row's numbers are added depends on its own text alone: not on who else is in
the batch, nor on which of its pages others share. Queries that share pages go over each of them together, while it is
in the nearest cache.

The machine code is made by LLVM for the processor at hand: no compiler must be installed, and it takes a tenth of a
second. Keys lie crosswise, so that a page's scores are one vector; PyTorch has no such product, and reading rows of
different lengths by its products means padding, copies and a dozen passes over memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

PAGE = 16  # tokens: their scores are one vector

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_F32, PAGE), ir.VectorType(_I32, PAGE)
_LOWEST = -1e30  # what no score is below
# Coefficients of exp on [-ln 2 / 2, ln 2 / 2] as Cephes has them (expf), highest power first; ln 2 in two parts.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LN2 = (0.693359375, -2.12194440e-4)

# What the function takes, in order; see `compiled`.
_POINTERS = ("query", "key", "value", "out", "state", "cells")
_INDICES = ("table", "sequences", "places", "items")
_NUMBERS = ("tokens", "count", "columns", "stride", "heads", "keyed", "first", "last")
_ITEM = 5  # numbers of an item

Value = Any  # of LLVM; its builder is not typed


def wide(width: int) -> int:
    """Numbers of a head as they lie in pages: vectors are whole."""
    return -(-width // PAGE) * PAGE


class _Code:
    """LLVM's builder, with the words that this function is written in."""

    def __init__(self, function: Any) -> None:
        self.b = ir.IRBuilder(function.append_basic_block())
        self._module = function.module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.b, name)

    @contextmanager
    def each(self, start: Value, stop: Value, step: int = 1) -> Iterator[Value]:
        """Runs what is written inside for every index."""
        before, head = self.b.block, self.b.append_basic_block()
        body, after = self.b.append_basic_block(), self.b.append_basic_block()
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(_I64)
        index.add_incoming(start, before)
        self.b.cbranch(self.b.icmp_signed("<", index, stop), body, after)
        self.b.position_at_end(body)
        yield index
        index.add_incoming(self.b.add(index, whole(step)), self.b.block)
        self.b.branch(head)
        self.b.position_at_end(after)

    def sum(self, *values: Value) -> Value:
        """Of indices."""
        total = values[0]
        for value in values[1:]:
            total = self.b.add(total, value)
        return total

    def at(self, pointer: Value, index: Value) -> Value:
        """The number there."""
        return self.b.load(self.b.gep(pointer, [index]))

    def index(self, pointer: Value, index: Value) -> Value:
        """The number there, of 32 bits."""
        return self.b.sext(self.at(pointer, index), _I64)

    def put(self, value: Value, pointer: Value, index: Value) -> None:
        """Writes a number."""
        self.b.store(value, self.b.gep(pointer, [index]))

    def vector(self, pointer: Value, index: Value) -> Value:
        """The numbers from there."""
        return self.b.load(self._place(pointer, index), align=4)

    def put_vector(self, value: Value, pointer: Value, index: Value) -> None:
        """Writes numbers."""
        self.b.store(value, self._place(pointer, index), align=4)

    def _place(self, pointer: Value, index: Value) -> Value:
        return self.b.bitcast(self.b.gep(pointer, [index]), _FLOATS.as_pointer())

    def lanes(self, vector: Value, order: Sequence[int]) -> Value:
        """The vector's numbers in another order."""
        return self.b.shuffle_vector(vector, vector, ir.Constant(_INTS, list(order)))

    def spread(self, number: Value) -> Value:
        """A vector of one number."""
        kind = ir.VectorType(number.type, PAGE)
        return self.lanes(self.b.insert_element(ir.Constant(kind, ir.Undefined), number, _I32(0)), [0] * PAGE)

    def fold(self, vector: Value, both: Callable[[Value, Value], Value]) -> Value:
        """A vector of the result over all of its numbers."""
        for step in (8, 4, 2, 1):
            vector = both(vector, self.lanes(vector, [(n + step) % PAGE for n in range(PAGE)]))
        return vector

    def larger(self, one: Value, other: Value) -> Value:
        """The larger of each pair; no number where one is none."""
        return self.b.select(self.b.fcmp_unordered(">", one, other), one, other)

    def times_plus(self, one: Value, other: Value, more: Value) -> Value:
        """Their product, plus a third."""
        return self._intrinsic("llvm.fmuladd.v16f32", one, other, more)

    def exp(self, x: Value) -> Value:
        """Of a vector of numbers up to 0; 1e-38 where it is less."""
        x = self.larger(x, many(-87.0))
        power = self._intrinsic("llvm.floor.v16f32", self.times_plus(x, many(1.4426950408889634), many(0.5)))
        for part in _LN2:
            x = self.times_plus(power, many(-part), x)
        y = many(_EXP[0])
        for coefficient in _EXP[1:]:
            y = self.times_plus(y, x, many(coefficient))
        y = self.b.fadd(self.times_plus(self.b.fmul(y, x), x, x), many(1.0))
        bits = self.b.shl(self.b.add(self.b.fptosi(power, _INTS), whole(127, _INTS)), whole(23, _INTS))
        return self.b.fmul(y, self.b.bitcast(bits, _FLOATS))

    def _intrinsic(self, name: str, *arguments: Value) -> Value:
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(arguments))
        function = self._module.globals.get(name) or ir.Function(self._module, kind, name)
        return self.b.call(function, arguments)


def many(number: float) -> Value:
    """A vector of one number."""
    return ir.Constant(_FLOATS, [ctypes.c_float(number).value] * PAGE)


def whole(number: int, kind: Any = _I64) -> Value:
    """An index, or a vector of one."""
    return ir.Constant(kind, [number] * PAGE if kind is _INTS else number)


def _write(c: _Code, a: dict[str, Value], chunk: Value) -> None:
    """Puts new keys and values into the pages of their texts: keys crosswise, values as they are."""
    with c.each(whole(0), a["tokens"]) as token:
        place = c.index(a["places"], token)
        row = c.mul(c.index(a["sequences"], token), a["columns"])
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


def _over_page(c: _Code, a: dict[str, Value], query: Value, page: Value, seen: Value, sums: Sequence[Value]) -> None:
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
    lanes = ir.Constant(_INTS, list(range(PAGE)))
    sees = c.icmp_signed("<", lanes, c.spread(c.trunc(seen, _I32)))
    scores = c.select(sees, scores, many(_LOWEST))
    state = c.mul(query, whole(2))  # the largest score so far, and the mass below it
    mass = c.add(state, whole(1))
    old = c.spread(c.at(a["state"], state))
    most = c.larger(c.fold(scores, c.larger), old)
    fade = c.exp(c.fsub(old, most))
    weights = c.select(sees, c.exp(c.fsub(scores, most)), many(0.0))
    c.put(c.extract_element(most, _I32(0)), a["state"], state)
    total = c.times_plus(c.spread(c.at(a["state"], mass)), fade, c.fold(weights, c.fadd))
    c.put(c.extract_element(total, _I32(0)), a["state"], mass)
    each = [c.lanes(weights, [n] * PAGE) for n in range(PAGE)]
    values = c.add(page, c.mul(a["key_wide"], whole(PAGE)))
    with c.each(whole(0), a["value_wide"], PAGE) as i:
        into = c.add(c.mul(query, a["value_wide"]), i)
        halves = [c.fmul(c.vector(a["out"], into), fade), many(0.0)]
        for n, weight in enumerate(each):
            at = c.sum(values, c.mul(a["value_wide"], whole(n)), i)
            halves[n % 2] = c.times_plus(weight, c.vector(a["cells"], at), halves[n % 2])
        c.put_vector(c.fadd(*halves), a["out"], into)


def _attend(c: _Code, a: dict[str, Value], chunk: Value) -> None:
    """Every item's queries over its pages."""
    sums = [c.alloca(_FLOATS) for _ in range(4)]
    each = c.sdiv(a["heads"], a["keyed"])  # queries' heads that have a key head in common
    with c.each(whole(0), a["count"]) as item:
        begin, end, row, page, stop = (
            c.index(a["items"], c.add(c.mul(item, whole(_ITEM)), whole(n))) for n in range(_ITEM)
        )
        with c.each(page, stop) as number:
            base = c.mul(c.index(a["table"], c.add(c.mul(row, a["columns"]), number)), a["stride"])
            with c.each(a["first"], a["last"]) as keyed:
                at, head = c.add(base, c.mul(keyed, chunk)), c.mul(keyed, each)
                with c.each(head, c.add(head, each)) as head, c.each(begin, end) as token:
                    seen = c.sum(c.index(a["places"], token), whole(1), c.mul(number, whole(-PAGE)))
                    with c.if_then(c.icmp_signed(">", seen, whole(0))):
                        _over_page(c, a, c.add(c.mul(token, a["heads"]), head), at, seen, sums)


def _whole(c: _Code, a: dict[str, Value]) -> None:
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
        c.put(ir.Constant(_F32, _LOWEST), a["state"], c.mul(query, whole(2)))
        c.put(ir.Constant(_F32, 0.0), a["state"], c.add(c.mul(query, whole(2)), whole(1)))
        with c.each(whole(0), a["value_wide"], PAGE) as i:
            c.put_vector(many(0.0), a["out"], c.add(c.mul(query, a["value_wide"]), i))
    _attend(c, a, chunk)
    with queries() as query:
        mass = c.at(a["state"], c.add(c.mul(query, whole(2)), whole(1)))
        share = c.spread(c.fdiv(ir.Constant(_F32, 1.0), mass))
        with c.each(whole(0), a["value_wide"], PAGE) as i:
            at = c.add(c.mul(query, a["value_wide"]), i)
            c.put_vector(c.fmul(c.vector(a["out"], at), share), a["out"], at)
    c.ret_void()


@cache
def compiled(key_width: int, value_width: int) -> tuple[Callable[..., None], Any]:
    """The function for keys and values of so many numbers a head, and what keeps its code alive.

    It takes the addresses of

    - query: float32, (tokens, heads, `wide(key_width)`); key and value: (tokens, key heads, width)
    - out: float32, (tokens, heads, `wide(value_width)`); state: (tokens, heads, 2), scratch
    - cells: float32, the layer's part of the first page: of each key head, keys crosswise and then values
    - table: int32, (texts, columns), the pages of each; sequences and places: (tokens), whose token and which
    - items: int32, (count, 5): first token, last + 1, whose pages, first page, last + 1

    and numbers: tokens, items, columns, floats of a page, heads, key heads, the key heads to be done (first, last + 1),
    and the scale of the scores.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = ir.Module("attention")
    kinds = [_F32.as_pointer()] * len(_POINTERS) + [_I32.as_pointer()] * len(_INDICES) + [_I64] * len(_NUMBERS)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [*kinds, _F32]), "attend")
    names = (*_POINTERS, *_INDICES, *_NUMBERS, "scale")
    for argument in function.args[: len(_POINTERS) + len(_INDICES)]:
        argument.add_attribute("noalias")
    arguments = dict(zip(names, function.args, strict=True))
    for name, width in (("key", key_width), ("value", value_width)):
        arguments |= {f"{name}_width": whole(width), f"{name}_wide": whole(wide(width))}
    _whole(_Code(function), arguments)
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3
    )
    parsed = llvm.parse_assembly(str(module))
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(
        None,
        *[ctypes.c_void_p] * (len(_POINTERS) + len(_INDICES)),
        *[ctypes.c_int64] * len(_NUMBERS),
        ctypes.c_float,
    )
    return prototype(engine.get_function_address("attend")), engine
