"""Words for writing functions in LLVM's own language: vectors of sixteen numbers, loops, and what is made of them.

The machine code is made by LLVM for the processor at hand: no compiler must be installed, and it takes a tenth of a
second.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

LANES = 16  # numbers of a vector

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOAT_AT, INT_AT, INDEX_AT = (kind.as_pointer() for kind in (F32, I32, I64))
FLOATS, INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
# Coefficients of exp on [-ln 2 / 2, ln 2 / 2] as Cephes has them (expf), highest power first; ln 2 in two parts.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LN2 = (0.693359375, -2.12194440e-4)

Value = Any  # of LLVM; its builder is not typed
_C = {F32: ctypes.c_float, I64: ctypes.c_int64}  # all others are pointers


@cache
def runs() -> bool:
    """Whether compiled functions can be run: some systems execute nothing that was written into memory."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    refused: int = ctypes.CDLL(None).mprotect(start, ctypes.c_size_t(len(memory)), mmap.PROT_READ | mmap.PROT_EXEC)
    return not refused


def function_of(name: str, kinds: dict[str, Any], body: Callable[[Code, dict[str, Value]], None]) -> Function:
    """A function of arguments of these names and kinds, none of whose pointers lead to another's numbers.

    Args:
        name: of the function.
        kinds: of the arguments, in order.
        body: writes what is to be done with them.
    """
    module = ir.Module(name)
    written = ir.Function(module, ir.FunctionType(ir.VoidType(), list(kinds.values())), name)
    for argument, kind in zip(written.args, kinds.values(), strict=True):
        if kind not in _C:
            argument.add_attribute("noalias")
    code = Code(written)
    body(code, dict(zip(kinds, written.args, strict=True)))
    code.ret_void()
    return Function(name, str(module), [_C.get(kind, ctypes.c_void_p) for kind in kinds.values()])


class Function:
    """A compiled function, which is called with addresses and numbers.

    Attributes:
        call: the function itself; its code lives as long as it does, whatever becomes of this object.

    Raises:
        RuntimeError: the system does not let it run.
    """

    def __init__(self, name: str, written: str, kinds: Sequence[Any]) -> None:
        if not runs():  # LLVM does not look, and the first call would end the process
            raise RuntimeError("this system executes nothing that was written into memory")
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features().flatten()
        target = llvm.Target.from_default_triple()
        machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)
        module = llvm.parse_assembly(written)
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        call: Any = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(name))
        # Two threads may compile the same at once, and only one of these is kept to be found again.
        call.engine = engine
        self.call: Callable[..., None] = call


class Code:
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
        index = self.b.phi(I64)
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
        return self.b.sext(self.at(pointer, index), I64)

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
        return self.b.bitcast(self.b.gep(pointer, [index]), FLOATS.as_pointer())

    def lanes(self, vector: Value, order: Sequence[int]) -> Value:
        """The vector's numbers in another order."""
        return self.b.shuffle_vector(vector, vector, ir.Constant(INTS, list(order)))

    def spread(self, number: Value) -> Value:
        """A vector of one number."""
        kind = ir.VectorType(number.type, LANES)
        return self.lanes(self.b.insert_element(ir.Constant(kind, ir.Undefined), number, I32(0)), [0] * LANES)

    def fold(self, vector: Value, both: Callable[[Value, Value], Value]) -> Value:
        """A vector of the result over all of its numbers."""
        for step in (8, 4, 2, 1):
            vector = both(vector, self.lanes(vector, [(n + step) % LANES for n in range(LANES)]))
        return vector

    def larger(self, one: Value, other: Value) -> Value:
        """The larger of each pair; no number where one is none."""
        return self.b.select(self.b.fcmp_unordered(">", one, other), one, other)

    def smaller(self, one: Value, other: Value) -> Value:
        """The smaller of two indices."""
        return self.b.select(self.b.icmp_signed("<", one, other), one, other)

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
        bits = self.b.shl(self.b.add(self.b.fptosi(power, INTS), whole(127, INTS)), whole(23, INTS))
        return self.b.fmul(y, self.b.bitcast(bits, FLOATS))

    def _intrinsic(self, name: str, *arguments: Value) -> Value:
        kind = ir.FunctionType(FLOATS, [FLOATS] * len(arguments))
        function = self._module.globals.get(name) or ir.Function(self._module, kind, name)
        return self.b.call(function, arguments)


def many(number: float) -> Value:
    """A vector of one number."""
    return ir.Constant(FLOATS, [ctypes.c_float(number).value] * LANES)


def whole(number: int, kind: Any = I64) -> Value:
    """An index, or a vector of one."""
    return ir.Constant(kind, [number] * LANES if kind is INTS else number)
