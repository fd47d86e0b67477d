"""Arithmetic: exact, and bounded in what a call may cost."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from testbed.errors import FaultKind, ToolFault
from testbed.expressions import parsed
from testbed.tool import Tool

LONGEST = 1000  # characters of an expression
MOST_NODES = 200  # numbers and operations of an expression
MOST_BITS = 14_000  # of a number: some 4,200 decimal digits, which is less than what Python writes out
MOST_MODULAR_BITS = 2_048  # of exponent and modulus, where a power is only asked for by its remainder
DIGITS = 15  # significant digits of a result that is no whole number

_WRITTEN = str.maketrans({"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-"})
_OPERATIONS: Mapping[type, Callable[[Fraction, Fraction], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Expression(BaseModel):
    """Arguments of `Calculator`."""

    expression: str = Field(
        description="Numbers, + - * / // % ** and parentheses, such as (3 + 4) ** 5 % 17.",
        min_length=1,
        max_length=LONGEST,
        examples=["6 * 7"],
    )


class Calculator(Tool):
    """Works out one arithmetic expression: whole numbers and fractions exactly, the result to 15 digits if need be.

    ``//`` is division without remainder, ``%`` the remainder, ``**`` (or ``^``) a power; no names, no functions. The
    remainder of a power is found without the power. An expression has at most 1,000 characters, its numbers at most
    some 4,200 digits: no call takes longer than a fraction of a second. It keeps nothing from call to call.
    """

    name: str = "calculator"
    description: str = "Works out an arithmetic expression and returns its value."
    args_schema: Any = Expression
    version: str = "2"

    def inert_result(self, arguments: Mapping[str, Any], rng: np.random.Generator) -> str:
        """No value."""
        return "No result."

    def _run(self, expression: str) -> str:
        return shown(evaluate(expression))


def evaluate(expression: str) -> Fraction:
    """The value of an arithmetic expression.

    Raises:
        ToolFault: invalid_args, if it is none; execution_error, if it divides by 0 or has too large numbers.
    """
    text = expression.strip().translate(_WRITTEN)
    try:
        tree = parsed(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _unreadable("the expression cannot be read") from None
    if sum(isinstance(node, ast.expr) for node in ast.walk(tree)) > MOST_NODES:
        raise _unreadable(f"the expression has more than {MOST_NODES} numbers and operations")
    try:
        _read_decimals(tree, text)
        return _value(tree)
    except ZeroDivisionError:
        raise ToolFault(FaultKind.EXECUTION_ERROR, "division by zero") from None


def _read_decimals(tree: ast.expr, text: str) -> None:
    """Puts what was written in place of floats, which hold 16 digits of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            try:
                value = Decimal(ast.get_source_segment(text, node) or "")
            except InvalidOperation:  # an exponent that no number of ours has
                raise _too_large() from None
            if value and abs(value.adjusted()) > MOST_BITS:
                raise _too_large()
            node.value = Fraction(value)  # type: ignore[assignment]


def shown(value: Fraction) -> str:
    """A value as text: whole numbers exactly, others to 15 significant digits."""
    if value.denominator == 1:
        return str(value.numerator)
    with localcontext(prec=DIGITS):
        return str((Decimal(value.numerator) / value.denominator).normalize())


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | Fraction) and not isinstance(node.value, bool):
        return _bounded(Fraction(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Pow):
            return _power(_value(node.left), _value(node.right))
        power = node.left
        if isinstance(node.op, ast.Mod) and isinstance(power, ast.BinOp) and isinstance(power.op, ast.Pow):
            return _remainder(_value(power.left), _value(power.right), _value(node.right))
        if type(node.op) in _OPERATIONS:
            return _bounded(Fraction(_OPERATIONS[type(node.op)](_value(node.left), _value(node.right))))
    raise _unreadable("only numbers, + - * / // % ** and parentheses are understood")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ToolFault(FaultKind.EXECUTION_ERROR, "an exponent must be a whole number")
    if (_bits(base) - 1) * abs(exponent) > MOST_BITS:
        raise _too_large()
    return _bounded(Fraction(base**exponent.numerator))


def _remainder(base: Fraction, exponent: Fraction, modulus: Fraction) -> Fraction:
    """The remainder of a power; of whole numbers without the power itself."""
    whole = all(number.denominator == 1 for number in (base, exponent, modulus))
    if whole and exponent >= 0 and modulus and max(_bits(exponent), _bits(modulus)) <= MOST_MODULAR_BITS:
        return Fraction(pow(base.numerator, exponent.numerator, modulus.numerator))
    return _bounded(_power(base, exponent) % modulus)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MOST_BITS:
        raise _too_large()
    return value


def _unreadable(message: str) -> ToolFault:
    return ToolFault(FaultKind.INVALID_ARGS, message)


def _too_large() -> ToolFault:
    return ToolFault(FaultKind.EXECUTION_ERROR, "a number is too large")
