"""Products of rows with weights on the processor, compiled when they are first needed.

Each number of a product is the sum over its row's numbers in order, begun with the bias: it depends on that row and on
the weights, and on nothing else. Other libraries choose how they add up by how many rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

import llvmlite.binding as llvm
import torch
from llvmlite import ir

from testbed.models.hf_kernel_code import F32, FLOAT_AT, FLOATS, I64, LANES, Code, Function, Value, function_of, whole
from testbed.models.hf_threads import in_parts

Tensor = torch.Tensor

_ROWS = 6  # that are done together
_APART = 1 << 23  # multiplications for which a second thread pays
_ARGUMENTS = {  # in order; see `compiled`
    **dict.fromkeys(("given", "weights", "bias", "out"), FLOAT_AT),
    **dict.fromkeys(("rows", "width", "columns", "first", "last"), I64),
}


class Weights:
    """A layer's weights as the function reads them: a panel of columns after another, in each of them row after row.

    Args:
        weights: float32, shape (columns, width).
        bias: float32, shape (columns,), or none.
    """

    def __init__(self, weights: Tensor, bias: Tensor | None = None) -> None:
        self._columns, self._width = weights.shape
        across = LANES * _vectors()
        self._panels = -(-self._columns // across)
        entire = weights.new_zeros(self._panels * across, self._width)
        entire[: self._columns] = weights
        self._numbers = entire.view(self._panels, across, self._width).transpose(1, 2).contiguous()
        self._bias = weights.new_zeros(self._panels * across)
        if bias is not None:
            self._bias[: self._columns] = bias
        self._addresses = self._numbers.data_ptr(), self._bias.data_ptr()
        self._call = compiled(_vectors()).call

    def times(self, given: Tensor) -> Tensor:
        """The products with rows, and the bias: float32 on the processor, shape (…, width) to (…, columns)."""
        *shape, width = given.shape
        given, out = given.contiguous(), given.new_empty((*shape, self._columns))
        rows = prod(shape)  # a row may have no numbers
        pointers, sizes = (given.data_ptr(), *self._addresses, out.data_ptr()), (rows, width, self._columns)
        if rows * width * self._columns < _APART:
            self._call(*pointers, *sizes, 0, self._panels)
        else:
            in_parts(lambda first, last: self._call(*pointers, *sizes, first, last), self._panels)
        return out


@cache
def compiled(vectors: int) -> Function:
    """The function for panels of so many vectors.

    It takes the addresses of

    - given: float32, (rows, width)
    - weights: float32, (panels, width, columns of a panel); bias: float32, (panels, columns of a panel)
    - out: float32, (rows, columns)

    and numbers: rows, width, columns, and the panels to be done (first, last + 1).
    """
    return function_of("product", _ARGUMENTS, lambda c, a: _panels(c, a, vectors))


@cache
def _vectors() -> int:
    """How wide a panel is: the sums of its rows are to stay in registers."""
    return 4 if llvm.get_host_cpu_features().get("avx512f") else 1


def _panels(c: Code, a: dict[str, Value], vectors: int) -> None:
    across = whole(vectors * LANES)
    sums = [[c.alloca(FLOATS) for _ in range(vectors)] for _ in range(_ROWS)]
    aside = c.gep(c.alloca(ir.ArrayType(F32, _ROWS * vectors * LANES)), [whole(0), whole(0)])
    with c.each(a["first"], a["last"]) as panel, c.each(whole(0), a["rows"], _ROWS) as row:
        column = c.mul(panel, across)
        # Where less than so many rows are left, the last one is done again, with the same result.
        numbers = [c.smaller(c.add(row, whole(n)), c.sub(a["rows"], whole(1))) for n in range(_ROWS)]
        starts = [c.gep(a["given"], [c.mul(number, a["width"])]) for number in numbers]
        for n in range(vectors):
            begin = c.vector(a["bias"], c.add(column, whole(n * LANES)))
            for line in sums:
                c.store(begin, line[n])
        with c.each(whole(0), a["width"]) as i:
            at = c.add(c.mul(column, a["width"]), c.mul(i, across))
            weights = [c.vector(a["weights"], c.add(at, whole(n * LANES))) for n in range(vectors)]
            for start, line in zip(starts, sums, strict=True):
                number = c.spread(c.at(start, i))
                for weight, part in zip(weights, line, strict=True):
                    c.store(c.times_plus(number, weight, c.load(part)), part)
        with c.if_else(c.icmp_signed("<=", c.add(column, across), a["columns"])) as (entire, cut):
            with entire:
                for number, line in zip(numbers, sums, strict=True):
                    _put(c, line, c.gep(a["out"], [c.add(c.mul(number, a["columns"]), column)]))
            with cut:
                for n, line in enumerate(sums):
                    _put(c, line, c.gep(aside, [c.mul(whole(n), across)]))
                with c.each(whole(0), c.smaller(whole(_ROWS), c.sub(a["rows"], row))) as n:
                    into = c.add(c.mul(c.add(row, n), a["columns"]), column)
                    with c.each(whole(0), c.sub(a["columns"], column)) as i:
                        c.put(c.at(aside, c.add(c.mul(n, across), i)), a["out"], c.add(into, i))


def _put(c: Code, line: Sequence[Value], place: Value) -> None:
    """Writes a row's sums."""
    for n, part in enumerate(line):
        c.put_vector(c.load(part), place, whole(n * LANES))
